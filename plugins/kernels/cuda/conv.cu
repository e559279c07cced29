// Conv: one kernel where conv_mma.cu is fastest, or a gather with fused affine and activation, unless rows are read as they
// lie, and the product of conv_product.cu. Else a gather or row norm, then one matrix product by cuBLASLt that adds what
// is to be added; a gate follows it. Depthwise convs are one kernel of their own.
#include "conv_mma.h"
#include "conv_product.h"
#include "plans.h"
#include "source.cuh"

namespace sige::cuda {

static bool finishes_after(const sige_conv_args& a) {
  return a.multiplier || (a.activation != SIGE_IDENTITY && a.activation != SIGE_RELU);
}

// What cuBLASLt's epilogue has not: multiplier, the residual behind it, and most activations.
template <typename T, int N>
__global__ void __launch_bounds__(THREADS)
    finish_kernel(T* values, Addends<T> addends, Divider vectors, uint32_t count, int activation, float alpha) {
  const uint32_t index = blockIdx.x * THREADS + threadIdx.x;
  if (index >= count) return;
  Pack<T, N>* at = reinterpret_cast<Pack<T, N>*>(values) + index;
  Pack<T, N> pack = *at;
  float x[N];
#pragma unroll
  for (int i = 0; i < N; ++i) x[i] = to_float(pack.at[i]);
  uint32_t row, vector;
  vectors.divide(index, row, vector);
  if (addends.multiplier) addends.template apply_rows<N>(row, vector * N, x);
  activate<N>(activation, alpha, x);
#pragma unroll
  for (int i = 0; i < N; ++i) pack.at[i] = from_float<T>(x[i]);
  *at = pack;
}

static sige_status launch_finish(const sige_conv_args& a, cudaStream_t stream) {
  return with_vector(a.source.dtype, a.outputs, aligned16(a), [&](auto type, auto size) {
    using T = decltype(type);
    constexpr int N = decltype(size)::value;
    const int64_t count = int64_t{a.source.batch} * a.source.targets * (a.outputs / N);
    if (count > MAX_VECTORS) return SIGE_UNSUPPORTED;
    finish_kernel<T, N><<<(count + THREADS - 1) / THREADS, THREADS, 0, stream>>>(
        static_cast<T*>(a.out), Addends<T>(a), Divider(a.outputs / N), static_cast<uint32_t>(count), a.activation,
        a.alpha);
    return launched();
  });
}

// The epilogue of a product with twice as many columns: the second half, activated, multiplies the first. The bias is in it.
template <typename T, int N>
__global__ void __launch_bounds__(THREADS)
    gate_kernel(const T* product, T* out, Addends<T> addends, Divider vectors, uint32_t count, int gate, int activation,
                float alpha) {
  const uint32_t index = blockIdx.x * THREADS + threadIdx.x;
  if (index >= count) return;
  uint32_t row, vector;
  vectors.divide(index, row, vector);
  const T* from = product + (2 * int64_t{row} * vectors.divisor + vector) * N;
  const Pack<T, N> first = *reinterpret_cast<const Pack<T, N>*>(from);
  const Pack<T, N> second = *reinterpret_cast<const Pack<T, N>*>(from + addends.outputs);
  float x[N], opened[N];
#pragma unroll
  for (int i = 0; i < N; ++i) x[i] = to_float(first.at[i]), opened[i] = to_float(second.at[i]);
  activate<N>(gate, 0.0f, opened);
#pragma unroll
  for (int i = 0; i < N; ++i) x[i] *= opened[i];
  addends.template apply_rows<N>(row, vector * N, x);
  activate<N>(activation, alpha, x);
  Pack<T, N> result;
#pragma unroll
  for (int i = 0; i < N; ++i) result.at[i] = from_float<T>(x[i]);
  *reinterpret_cast<Pack<T, N>*>(out + int64_t{index} * N) = result;
}

static sige_status launch_gate(const sige_conv_args& a, const void* product, cudaStream_t stream) {
  return with_vector(a.source.dtype, a.outputs, aligned16(a), [&](auto type, auto size) {
    using T = decltype(type);
    constexpr int N = decltype(size)::value;
    const int64_t count = int64_t{a.source.batch} * a.source.targets * (a.outputs / N);
    if (count > MAX_VECTORS) return SIGE_UNSUPPORTED;
    gate_kernel<T, N><<<(count + THREADS - 1) / THREADS, THREADS, 0, stream>>>(
        static_cast<const T*>(product), static_cast<T*>(a.out), Addends<T>(a), Divider(a.outputs / N),
        static_cast<uint32_t>(count), a.gate, a.activation, a.alpha);
    return launched();
  });
}

template <typename T>
struct DepthwiseParameters {
  Source<T> source;
  Addends<T> addends;
  Divider vectors, targets;
  uint32_t count;
  int32_t taps, activation;
  float alpha;
  const T* weight;
  T* out;
};

template <typename T, int N>
__global__ void __launch_bounds__(THREADS) depthwise_kernel(const __grid_constant__ DepthwiseParameters<T> p) {
  const uint32_t index = blockIdx.x * THREADS + threadIdx.x;
  if (index >= p.count) return;
  uint32_t row, vector, b, target;
  p.vectors.divide(index, row, vector);
  p.targets.divide(row, b, target);
  const int32_t channel = vector * N;
  float sum[N] = {};
  for (int32_t k = 0; k < p.taps; ++k) {
    const int32_t entry = p.source.entry(target, k, p.taps);
    if (entry < 0) continue;
    float x[N];
    p.source.template transform<N>(b, channel, p.source.template load<N>(b, entry, channel), x);
    const Pack<T, N> weight =
        *reinterpret_cast<const Pack<T, N>*>(p.weight + int64_t{k} * p.source.channels + channel);
#pragma unroll
    for (int i = 0; i < N; ++i) sum[i] += x[i] * to_float(weight.at[i]);
  }
  p.addends.template apply<N>(b, row, channel, sum);
  activate<N>(p.activation, p.alpha, sum);
  Pack<T, N> result;
#pragma unroll
  for (int i = 0; i < N; ++i) result.at[i] = from_float<T>(sum[i]);
  *reinterpret_cast<Pack<T, N>*>(p.out + int64_t{index} * N) = result;
}

static sige_status depthwise(const sige_conv_args& a, cudaStream_t stream) {
  const sige_source& s = a.source;
  const bool wide = aligned16(s) && aligned16(a) && aligned(a.weight, 16);
  return with_vector(s.dtype, source_width(s), wide, [&](auto type, auto size) {
    using T = decltype(type);
    constexpr int N = decltype(size)::value;
    const int64_t count = int64_t{s.batch} * s.targets * (s.channels / N);
    if (count > MAX_VECTORS) return SIGE_UNSUPPORTED;
    const DepthwiseParameters<T> parameters{Source<T>(s),
                                            Addends<T>(a),
                                            Divider(s.channels / N),
                                            Divider(s.targets),
                                            static_cast<uint32_t>(count),
                                            s.taps,
                                            a.activation,
                                            a.alpha,
                                            static_cast<const T*>(a.weight),
                                            static_cast<T*>(a.out)};
    depthwise_kernel<T, N><<<(count + THREADS - 1) / THREADS, THREADS, 0, stream>>>(parameters);
    return launched();
  });
}

// Whether cuBLASLt multiplies rows as they lie.
static bool multiplies_rows(const sige_conv_args& a) {
  const sige_source& s = a.source;
  return !s.table && !s.rows_2 && !transforms(s) && a.group == 1 && !seeds_output(a) && a.norm_epsilon == 0 &&
         aligned(s.rows, 16);
}

static size_t gathered_bytes(const sige_conv_args& a) {
  const sige_source& s = a.source;
  return multiplies_rows(a) ? 0 : align(element_size(s.dtype) * s.batch * s.targets * s.taps * s.channels);
}

// What a gate reads: the product of all columns.
static size_t gated_bytes(const sige_conv_args& a) {
  const sige_source& s = a.source;
  return a.gated ? align(element_size(s.dtype) * s.batch * s.targets * columns_of(a)) : 0;
}

size_t conv_workspace(const sige_conv_args& a) {
  return is_depthwise(a) ? 0 : PRODUCT_WORKSPACE + gathered_bytes(a) + gated_bytes(a);
}

sige_status conv(const sige_conv_args& a, const sige_execution& execution) {
  const cudaStream_t stream = stream_of(execution);
  if (is_depthwise(a)) return depthwise(a, stream);
  if (!execution.plans) return SIGE_INVALID_ARGUMENT;
  // Tiles and the plans' algorithms rely on 16 bytes.
  if (!aligned(a.weight, 16) || !aligned16(a)) return SIGE_INVALID_ARGUMENT;
  const ConvPath path = path_of(*execution.plans, a);
  if (path == ConvPath::GATHERING) return launch_conv_mma(a, stream);

  char* workspace = static_cast<char*>(execution.workspace);
  void* gathered = workspace + PRODUCT_WORKSPACE;
  const bool overlap = overlaps(*execution.plans);
  if (path == ConvPath::PRODUCT) {
    if (product_reads_rows(a)) return launch_product(a, a.source.rows, stream);
    if (sige_status status = launch_gather(a.source, 1, 1, 0.0f, gathered, nullptr, overlap, stream)) return status;
    return launch_product(a, gathered, stream);
  }

  const bool seeded = seeds_output(a), direct = multiplies_rows(a);
  if (!direct) {
    const sige_status status =
        a.norm_epsilon > 0 ? launch_norm(a, gathered, seeded, stream)
                           : launch_gather(a.source, 1, a.group, 0.0f, gathered, seeded ? &a : nullptr, overlap, stream);
    if (status) return status;
  }
  const void* const left = direct ? a.source.rows : gathered;
  if (a.gated) {
    void* product = workspace + PRODUCT_WORKSPACE + gathered_bytes(a);
    if (sige_status status = multiply(*execution.plans, product_of(a), left, a.weight, a.bias, nullptr, product,
                                      workspace, stream))
      return status;
    return launch_gate(a, product, stream);
  }
  const void* residual = a.multiplier ? nullptr : a.residual;
  if (sige_status status = multiply(*execution.plans, product_of(a), left, a.weight, seeded ? nullptr : a.bias,
                                    seeded ? a.out : residual, a.out, workspace, stream))
    return status;
  return finishes_after(a) ? launch_finish(a, stream) : SIGE_OK;
}

}  // namespace sige::cuda
