#include "plans.h"

#include "conv_mma.h"
#include "conv_product.h"
#include "failure.h"

#include <algorithm>
#include <memory>
#include <new>
#include <unordered_map>
#include <vector>

namespace sige::cuda {

namespace {

constexpr int TUNING_RUNS = 9;             // timed runs of each candidate; the median counts
constexpr int MAX_CANDIDATES = 32;
constexpr size_t TUNING_BYTES = 256 << 20; // weights that the runs rotate through, so that none stays in the L2 cache
constexpr int MAX_COPIES = 16;

struct Hash {
  size_t operator()(const Product& p) const {
    size_t hash = 0;
    for (int32_t value : {p.dtype, p.rows, p.depth, p.outputs, p.group, p.epilogue, p.add, p.allow_tf32})
      hash = hash * 1000003 + static_cast<size_t>(value);
    return hash;
  }
};

struct Destroy {
  void operator()(cublasLtMatmulDesc_t value) const { cublasLtMatmulDescDestroy(value); }
  void operator()(cublasLtMatrixLayout_t value) const { cublasLtMatrixLayoutDestroy(value); }
  void operator()(cublasLtMatmulPreference_t value) const { cublasLtMatmulPreferenceDestroy(value); }
};

template <typename T>
using Owned = std::unique_ptr<std::remove_pointer_t<T>, Destroy>;

// Row-major matrices are their transposes in cuBLAS's column-major view: out^T = weight^T gathered^T.
struct Plan {
  Owned<cublasLtMatmulDesc_t> operation;
  Owned<cublasLtMatrixLayout_t> weight, gathered, out;
  cublasLtMatmulAlgo_t algorithm;

  // The bias pointer is part of the descriptor, so each call sets it in a copy of its own.
  sige_status run(cublasLtHandle_t handle, const Product& p, const void* gathered_data, const void* weight_data,
                  const void* bias, const void* addend, void* out_data, void* workspace, cudaStream_t stream) const {
    cublasLtMatmulDescOpaque_t called = *operation;
    if (bias && cublasLtMatmulDescSetAttribute(&called, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias))
      return SIGE_ENGINE_FAILURE;
    const float one = 1, beta = p.add ? 1.0f : 0.0f;
    const cublasStatus_t status = cublasLtMatmul(
        handle, &called, &one, weight_data, weight.get(), gathered_data, gathered.get(), &beta,
        addend ? addend : out_data, out.get(), out_data, out.get(), &algorithm, workspace, PRODUCT_WORKSPACE, stream);
    return status == CUBLAS_STATUS_SUCCESS ? SIGE_OK : SIGE_ENGINE_FAILURE;
  }
};

cudaDataType_t type_of(const Product& p) { return p.dtype == SIGE_FLOAT16 ? CUDA_R_16F : CUDA_R_32F; }

Owned<cublasLtMatrixLayout_t> layout(const Product& p, int64_t rows, int64_t columns, int64_t leading,
                                     int64_t group_stride) {
  cublasLtMatrixLayout_t created = nullptr;
  if (cublasLtMatrixLayoutCreate(&created, type_of(p), rows, columns, leading)) return nullptr;
  cublasLtMatrixLayoutSetAttribute(created, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &p.group, sizeof p.group);
  cublasLtMatrixLayoutSetAttribute(created, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &group_stride,
                                   sizeof group_stride);
  return Owned<cublasLtMatrixLayout_t>(created);
}

// Memory and events that tuning needs, given back at its end.
struct Bench {
  void *gathered = nullptr, *weights = nullptr, *out = nullptr, *bias = nullptr, *workspace = nullptr;
  cudaEvent_t start = nullptr, stop = nullptr;
  cudaStream_t stream = nullptr;
  size_t weight_bytes;
  int copies;
  bool ready;

  explicit Bench(const Product& p) {
    const size_t element = p.dtype == SIGE_FLOAT16 ? 2 : 4, group = p.group;
    weight_bytes = align(group * p.depth * p.outputs * element);
    copies = static_cast<int>(std::clamp<size_t>(TUNING_BYTES / weight_bytes, 1, MAX_COPIES));
    const size_t gathered_bytes = group * p.rows * p.depth * element, out_bytes = group * p.rows * p.outputs * element;
    ready = !cudaMalloc(&gathered, gathered_bytes) && !cudaMalloc(&weights, copies * weight_bytes) &&
            !cudaMalloc(&out, out_bytes) && !cudaMalloc(&bias, group * p.outputs * element) &&
            !cudaMalloc(&workspace, PRODUCT_WORKSPACE) && !cudaEventCreate(&start) && !cudaEventCreate(&stop) &&
            !cudaStreamCreate(&stream) && !cudaMemsetAsync(gathered, 0x11, gathered_bytes, stream) &&
            !cudaMemsetAsync(weights, 0x11, copies * weight_bytes, stream) &&
            !cudaMemsetAsync(out, 0, out_bytes, stream) && !cudaMemsetAsync(bias, 0, group * p.outputs * element, stream);
  }
  ~Bench() {
    for (void* memory : {gathered, weights, out, bias, workspace}) cudaFree(memory);
    if (start) cudaEventDestroy(start);
    if (stop) cudaEventDestroy(stop);
    if (stream) cudaStreamDestroy(stream);
    cudaGetLastError();
  }
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;
};

}  // namespace

}  // namespace sige::cuda

struct sige_plans {
  cublasLtHandle_t handle = nullptr;
  int capability = 0;  // of the device: major * 10 + minor
  std::unordered_map<sige::cuda::Product, sige::cuda::Plan, sige::cuda::Hash> plans;

  ~sige_plans() {
    plans.clear();
    if (handle) cublasLtDestroy(handle);
  }
};

namespace sige::cuda {

bool seeds_output(const sige_conv_args& a) {
  return a.embedding || (a.group > 1 && (a.bias || (a.residual && !a.multiplier)));
}

bool overlaps(const sige_plans& plans) { return plans.capability >= 90; }

// Bounds of work as mma_work counts it, where ways were equally fast on an H200.
ConvPath path_of(const sige_plans& plans, const sige_conv_args& a) {
  constexpr int64_t MOST_GATHERING = 3800, MOST_PRODUCT = 5000, MOST_FUSED = 7000, MOST_FUSED_FEW = 20000;
  constexpr int64_t FEWEST_ROWS = 32, FEW_ROWS = 200;
  const int64_t work = mma_work(a), rows = int64_t{a.source.batch} * a.source.targets;
  if (!has_conv_product(plans.capability) || !runs_as_product(a))
    return has_conv_mma(plans.capability) && runs_on_mma(a) && work <= MOST_GATHERING ? ConvPath::GATHERING : ConvPath::CUBLAS;
  const bool fused = a.norm_epsilon > 0 || a.gated;  // of which cuBLASLt needs kernels of their own
  const int64_t most = !fused ? MOST_PRODUCT : rows <= FEW_ROWS ? MOST_FUSED_FEW : MOST_FUSED;
  return rows <= FEWEST_ROWS || work <= most ? ConvPath::PRODUCT : ConvPath::CUBLAS;
}

Product product_of(const sige_conv_args& a) {
  const sige_source& s = a.source;
  const bool seeded = seeds_output(a), bias = a.bias && !seeded;
  int32_t epilogue = bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
  const bool last = !a.multiplier && !a.gated;  // nothing but the residual and the activation comes behind it
  if (a.activation == SIGE_RELU && last) epilogue = bias ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_RELU;
  const int32_t outputs = static_cast<int32_t>(columns_of(a) / a.group);
  return {s.dtype,   s.batch * s.targets, s.taps * (s.channels / a.group), outputs, a.group, epilogue,
          seeded || (a.residual && last), s.dtype == SIGE_FLOAT32 && a.allow_tf32};
}

namespace {

sige_status make(cublasLtHandle_t handle, const Product& p, int32_t candidates, Plan& plan) {
  const cublasComputeType_t compute = p.allow_tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
  cublasLtMatmulDesc_t operation = nullptr;
  if (cublasLtMatmulDescCreate(&operation, compute, CUDA_R_32F)) return SIGE_ENGINE_FAILURE;
  plan.operation.reset(operation);
  const cublasLtEpilogue_t epilogue = static_cast<cublasLtEpilogue_t>(p.epilogue);
  if (cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue))
    return SIGE_ENGINE_FAILURE;
  const int64_t all_outputs = int64_t{p.outputs} * p.group;
  plan.weight = layout(p, p.outputs, p.depth, all_outputs, p.outputs);
  plan.gathered = layout(p, p.depth, p.rows, p.depth, int64_t{p.rows} * p.depth);
  plan.out = layout(p, p.outputs, p.rows, all_outputs, p.outputs);

  cublasLtMatmulPreference_t preference = nullptr;
  if (!plan.weight || !plan.gathered || !plan.out || cublasLtMatmulPreferenceCreate(&preference))
    return SIGE_ENGINE_FAILURE;
  const Owned<cublasLtMatmulPreference_t> owned(preference);
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    return cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value) == CUBLAS_STATUS_SUCCESS;
  };
  // A group starts `outputs` elements after the one before, wherever that is.
  const uint32_t group_bytes = p.outputs * (p.dtype == SIGE_FLOAT16 ? 2 : 4);
  const uint32_t alignment = p.group > 1 ? std::min(16u, group_bytes & (0u - group_bytes)) : 16u;
  const uint32_t depth_bytes = p.depth * (p.dtype == SIGE_FLOAT16 ? 2 : 4) * static_cast<uint32_t>(p.rows);
  const uint32_t left_alignment = p.group > 1 ? std::min(16u, depth_bytes & (0u - depth_bytes)) : 16u;
  if (!prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, PRODUCT_WORKSPACE) ||
      !prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment) ||
      !prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, left_alignment) ||
      !prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment) ||
      !prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment))
    return SIGE_ENGINE_FAILURE;

  std::vector<cublasLtMatmulHeuristicResult_t> found(std::clamp(candidates, 1, MAX_CANDIDATES));
  int count = 0;
  if (cublasLtMatmulAlgoGetHeuristic(handle, operation, plan.weight.get(), plan.gathered.get(), plan.out.get(),
                                     plan.out.get(), preference, static_cast<int>(found.size()), found.data(), &count) ||
      !count)
    return SIGE_UNSUPPORTED;
  plan.algorithm = found[0].algo;
  if (count == 1) return SIGE_OK;

  const Bench bench(p);
  if (!bench.ready) return failed();
  const bool bias = p.epilogue == CUBLASLT_EPILOGUE_BIAS || p.epilogue == CUBLASLT_EPILOGUE_RELU_BIAS;
  float best = 1e30f;
  for (int i = 0; i < count; ++i) {
    const cublasLtMatmulAlgo_t chosen = plan.algorithm;
    plan.algorithm = found[i].algo;
    std::vector<float> times;
    for (int run = 0; run <= TUNING_RUNS; ++run) {  // the first one warms up
      const void* weight = static_cast<char*>(bench.weights) + run % bench.copies * bench.weight_bytes;
      cudaEventRecord(bench.start, bench.stream);
      const sige_status status = plan.run(handle, p, bench.gathered, weight, bias ? bench.bias : nullptr, bench.out,
                                          bench.out, bench.workspace, bench.stream);
      cudaEventRecord(bench.stop, bench.stream);
      float milliseconds = 1e30f;
      if (status || cudaEventSynchronize(bench.stop) ||
          cudaEventElapsedTime(&milliseconds, bench.start, bench.stop))
        break;
      if (run) times.push_back(milliseconds);
    }
    std::sort(times.begin(), times.end());
    if (times.size() == TUNING_RUNS && times[TUNING_RUNS / 2] < best) {
      best = times[TUNING_RUNS / 2];
    } else {
      plan.algorithm = chosen;
    }
  }
  return SIGE_OK;
}

}  // namespace

sige_status multiply(const sige_plans& plans, const Product& product, const void* gathered, const void* weight,
                     const void* bias, const void* addend, void* out, void* workspace, cudaStream_t stream) {
  const auto found = plans.plans.find(product);
  if (found == plans.plans.end()) return SIGE_NOT_PREPARED;
  return found->second.run(plans.handle, product, gathered, weight, bias, addend, out, workspace, stream);
}

}  // namespace sige::cuda

extern "C" {

sige_status sige_plans_create(sige_plans** plans) {
  if (!plans) return SIGE_INVALID_ARGUMENT;
  std::unique_ptr<sige_plans> created(new (std::nothrow) sige_plans);
  if (!created) return SIGE_ENGINE_FAILURE;
  if (cublasLtCreate(&created->handle)) return SIGE_NO_CUBLAS;
  int device, major, minor;
  if (cudaGetDevice(&device) || cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) ||
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device))
    return sige::cuda::failed();
  created->capability = major * 10 + minor;
  *plans = created.release();
  return SIGE_OK;
}

sige_status sige_plans_prepare(sige_plans* plans, const sige_conv_args* args, int32_t candidates) {
  size_t bytes;
  if (!plans) return SIGE_INVALID_ARGUMENT;
  if (sige_status status = sige_conv_workspace_size(args, SIGE_CUDA, &bytes)) return status;
  using sige::cuda::ConvPath;
  if (!args->source.targets || sige::is_depthwise(*args) || sige::cuda::path_of(*plans, *args) != ConvPath::CUBLAS)
    return SIGE_OK;
  const sige::cuda::Product product = sige::cuda::product_of(*args);
  if (plans->plans.count(product)) return SIGE_OK;
  sige::cuda::Plan plan;
  if (sige_status status = sige::cuda::make(plans->handle, product, candidates, plan)) return status;
  plans->plans.emplace(product, std::move(plan));
  return SIGE_OK;
}

void sige_plans_destroy(sige_plans* plans) { delete plans; }

int32_t sige_plans_one_kernel(const sige_plans* plans, const sige_conv_args* args) {
  size_t bytes;
  if (!plans || sige_conv_workspace_size(args, SIGE_CUDA, &bytes) || sige::is_depthwise(*args)) return 0;
  using sige::cuda::ConvPath;
  const ConvPath path = sige::cuda::path_of(*plans, *args);
  return path == ConvPath::GATHERING || (path == ConvPath::PRODUCT && sige::cuda::product_reads_rows(*args));
}

}  // extern "C"
