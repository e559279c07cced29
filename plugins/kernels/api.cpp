// The C API: checks that all backends share, then a call of the backend.
#include "sige/kernels.h"

#include <atomic>
#include <thread>
#include <type_traits>
#include <vector>

#include "backend.h"

namespace {

using sige::Backend;
using sige::columns_of;
using sige::transforms;

const Backend* find(int32_t backend) {
  if (backend == SIGE_CPU) return &sige::cpu_backend();
#ifdef SIGE_WITH_CUDA
  if (backend == SIGE_CUDA) return &sige::cuda_backend();
#endif
  return nullptr;
}

bool positive(int32_t value) { return value >= 1; }
bool count(int32_t value) { return value >= 0; }
bool batch_of(int32_t value, int32_t batch) { return value == 1 || value == batch; }
bool dtype(int32_t value) { return value == SIGE_FLOAT32 || value == SIGE_FLOAT16; }
bool row_stride(int32_t value, int32_t heads, int32_t width) {
  return int64_t{heads} * width <= (value ? value : INT32_MAX);
}
bool activation(int32_t value) { return value >= SIGE_IDENTITY && value <= SIGE_TANH; }

// Two sources side by side; the pointers of an empty one mean nothing.
bool two(const sige_source& s) { return s.channels_2 != 0; }

// The pointer of an empty table means nothing.
bool own_rows(const sige_source& s) { return !s.table && s.targets; }

bool sizes(const sige_source& s) {
  return dtype(s.dtype) && positive(s.batch) && count(s.fresh) && count(s.pixels) && count(s.halo_count) &&
         count(s.targets) && positive(s.taps) && positive(s.channels) && activation(s.activation) &&
         (!s.scale || batch_of(s.scale_batch, s.batch)) && (!s.shift || batch_of(s.shift_batch, s.batch)) &&
         count(s.channels_2) && s.channels_2 < s.channels && (two(s) || (!s.rows_2 && !s.base_2)) &&
         int64_t{s.fresh} + s.halo_count <= INT32_MAX && (!s.table || positive(s.pixels)) &&
         (!own_rows(s) || (s.taps == 1 && s.targets == s.fresh && !s.pixels && !s.halo_count));
}

bool sizes(const sige_gather_args& a) {
  return sizes(a.source) && positive(a.phases) && a.source.channels % a.phases == 0 &&
         (int64_t{a.source.fresh} + a.source.halo_count) * a.phases <= INT32_MAX &&
         (a.phases == 1 || (!own_rows(a.source) && !two(a.source)));
}

// Products may be divided by the deviation of their rows where these are read as they are.
bool normed(const sige_conv_args& a) {
  return !a.source.table && !transforms(a.source) && !two(a.source) && a.group == 1;
}

// What product and bias give may be gated.
bool gated(const sige_conv_args& a) {
  return a.gated == 1 && activation(a.gate) && a.gate != SIGE_LEAKY_RELU && !a.embedding && a.group == 1 &&
         columns_of(a) <= INT32_MAX;
}

bool sizes(const sige_conv_args& a) {
  return (!a.gated || gated(a)) && (a.norm_epsilon == 0 || (a.norm_epsilon > 0 && normed(a))) && sizes(a.source) && positive(a.outputs) && positive(a.group) && a.source.channels % a.group == 0 &&
         a.outputs % a.group == 0 && activation(a.activation) &&
         (!a.embedding || batch_of(a.embedding_batch, a.source.batch));
}

bool sizes(const sige_scatter_args& a) {
  return dtype(a.dtype) && positive(a.batch) && positive(a.pixels) && count(a.fresh) && positive(a.channels);
}

bool sizes(const sige_attention_args& a) {
  return dtype(a.dtype) && positive(a.batch) && count(a.fresh) && positive(a.pixels) && positive(a.heads) &&
         positive(a.dk) && positive(a.dv) && row_stride(a.q_stride, a.heads, a.dk) &&
         row_stride(a.k_stride, a.heads, a.dk) && row_stride(a.k_base_stride, a.heads, a.dk) &&
         row_stride(a.v_stride, a.heads, a.dv) && row_stride(a.v_base_stride, a.heads, a.dv);
}

bool pointers(const sige_source& s) {
  const auto complete = [&](const void* rows, const void* base) { return (rows || !s.fresh) && (base || !s.table); };
  return complete(s.rows, s.base) && (!two(s) || complete(s.rows_2, s.base_2)) &&
         (!s.table || s.halo || !s.halo_count);
}
bool pointers(const sige_gather_args& a) { return pointers(a.source) && a.out; }
bool pointers(const sige_conv_args& a) { return pointers(a.source) && a.weight && a.out; }
bool pointers(const sige_scatter_args& a) { return a.base && a.out && ((a.rows && a.active) || !a.fresh); }
bool pointers(const sige_attention_args& a) {
  return a.q && a.k_base && a.v_base && a.out && (a.k ? a.v && a.active : !a.v && !a.active);
}

bool empty(const sige_gather_args& a) { return a.source.targets == 0; }
bool empty(const sige_conv_args& a) { return a.source.targets == 0; }
bool empty(const sige_scatter_args&) { return false; }
bool empty(const sige_attention_args& a) { return a.fresh == 0; }

int32_t dtype_of(const sige_gather_args& a) { return a.source.dtype; }
int32_t dtype_of(const sige_conv_args& a) { return a.source.dtype; }
int32_t dtype_of(const sige_attention_args& a) { return a.dtype; }

template <typename Args>
sige_status check(const Args* args, int32_t backend, const Backend** found) {
  *found = find(backend);
  if (!args) return SIGE_INVALID_ARGUMENT;
  if (!*found) return SIGE_NO_BACKEND;
  if (!sizes(*args)) return SIGE_INVALID_ARGUMENT;
  if constexpr (!std::is_same_v<Args, sige_scatter_args>) {
    if (backend == SIGE_CPU && dtype_of(*args) != SIGE_FLOAT32) return SIGE_UNSUPPORTED;
  }
  return SIGE_OK;
}

template <typename Args>
sige_status run(const Args* args, const sige_execution* execution,
                sige_status (*Backend::*op)(const Args&, const sige_execution&), size_t (*Backend::*workspace)(const Args&)) {
  if (!execution) return SIGE_INVALID_ARGUMENT;
  const Backend* backend;
  if (sige_status status = check(args, execution->backend, &backend)) return status;
  if (empty(*args)) return SIGE_OK;
  if (!pointers(*args)) return SIGE_INVALID_ARGUMENT;
  if (workspace) {
    const size_t needed = (backend->*workspace)(*args);
    if (execution->workspace_bytes < needed || (needed && !execution->workspace)) return SIGE_WORKSPACE_TOO_SMALL;
    if (needed && reinterpret_cast<uintptr_t>(execution->workspace) % SIGE_WORKSPACE_ALIGNMENT)
      return SIGE_INVALID_ARGUMENT;
  }
  return (backend->*op)(*args, *execution);
}

template <typename Args>
sige_status size_of(const Args* args, int32_t backend, size_t* bytes, size_t (*Backend::*size)(const Args&)) {
  if (!bytes) return SIGE_INVALID_ARGUMENT;
  const Backend* found;
  if (sige_status status = check(args, backend, &found)) return status;
  *bytes = (found->*size)(*args);
  return SIGE_OK;
}

}  // namespace

extern "C" {

int32_t sige_version(void) { return SIGE_API_VERSION; }

const char* sige_status_string(int32_t status) {
  switch (status) {
    case SIGE_OK: return "The call succeeded.";
    case SIGE_INVALID_ARGUMENT: return "A size, enum value or pointer does not fit; see sige/kernels.h.";
    case SIGE_UNSUPPORTED: return "The backend does not have this op for this dtype or size.";
    case SIGE_NO_BACKEND: return "This library was built without that backend.";
    case SIGE_WORKSPACE_TOO_SMALL: return "The workspace is smaller than the op's workspace size.";
    case SIGE_NOT_PREPARED: return "The plans hold no matrix product of these sizes; call sige_plans_prepare first.";
    case SIGE_ENGINE_FAILURE: return "The device's runtime refused a call.";
    case SIGE_NO_CUBLAS:
      return "libcublasLt of CUDA 13 was not found or does not start; install onnxruntime-gpu[cuda] or nvidia-cublas.";
    default: return "Unknown status.";
  }
}

sige_status sige_has_backend(int32_t backend) { return find(backend) ? SIGE_OK : SIGE_NO_BACKEND; }

sige_status sige_gather(const sige_gather_args* args, const sige_execution* execution) {
  return run(args, execution, &Backend::gather, &Backend::gather_workspace);
}

sige_status sige_conv(const sige_conv_args* args, const sige_execution* execution) {
  return run(args, execution, &Backend::conv, &Backend::conv_workspace);
}

sige_status sige_scatter(const sige_scatter_args* args, const sige_execution* execution) {
  size_t (*Backend::*none)(const sige_scatter_args&) = nullptr;
  return run(args, execution, &Backend::scatter, none);
}

sige_status sige_attention(const sige_attention_args* args, const sige_execution* execution) {
  return run(args, execution, &Backend::attention, &Backend::attention_workspace);
}

sige_status sige_gather_workspace_size(const sige_gather_args* args, int32_t backend, size_t* bytes) {
  return size_of(args, backend, bytes, &Backend::gather_workspace);
}

sige_status sige_conv_workspace_size(const sige_conv_args* args, int32_t backend, size_t* bytes) {
  return size_of(args, backend, bytes, &Backend::conv_workspace);
}

sige_status sige_attention_workspace_size(const sige_attention_args* args, int32_t backend, size_t* bytes) {
  return size_of(args, backend, bytes, &Backend::attention_workspace);
}

sige_status sige_conv_packed_size(const sige_conv_args* args, int32_t backend, size_t* bytes) {
  return size_of(args, backend, bytes, &Backend::packed_size);
}

sige_status sige_conv_pack(const sige_conv_args* args, int32_t backend, void* packed) {
  size_t bytes;
  if (sige_status status = sige_conv_packed_size(args, backend, &bytes)) return status;
  if (!bytes) return SIGE_OK;
  if (!args->weight || !packed) return SIGE_INVALID_ARGUMENT;
  find(backend)->pack(*args, packed);
  return SIGE_OK;
}

#ifndef SIGE_WITH_CUDA
sige_status sige_plans_create(sige_plans**) { return SIGE_NO_BACKEND; }
sige_status sige_plans_prepare(sige_plans*, const sige_conv_args*, int32_t) { return SIGE_NO_BACKEND; }
void sige_plans_destroy(sige_plans*) {}
int32_t sige_plans_one_kernel(const sige_plans*, const sige_conv_args*) { return 0; }
sige_status sige_branch_create(sige_branch**) { return SIGE_NO_BACKEND; }
sige_status sige_branch_fork(sige_branch*, void*, void**) { return SIGE_NO_BACKEND; }
sige_status sige_branch_add(sige_branch*, void*, const void*) { return SIGE_NO_BACKEND; }
sige_status sige_branch_join(sige_branch*, void*, const void* const*, int32_t) { return SIGE_NO_BACKEND; }
void sige_branch_destroy(sige_branch*) {}
#endif

void sige_parallel_threads(void* context, int64_t count, void (*body)(void* argument, int64_t index),
                           void* argument) {
  std::atomic<int64_t> next{0};
  const auto work = [&] {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) body(argument, i);
  };
  std::vector<std::thread> threads;
  for (int64_t i = 1; i < *static_cast<const int32_t*>(context) && i < count; ++i) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
}

}  // extern "C"
