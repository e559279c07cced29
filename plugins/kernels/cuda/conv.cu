// Conv: a gather with fused affine and activation, then one matrix product by cuBLASLt that adds what is to be added.
// Depthwise convs are one kernel of their own.
#include "plans.h"
#include "source.cuh"

namespace sige::cuda {

static bool activates_after(const sige_conv_args& a) {
  return a.activation != SIGE_IDENTITY && a.activation != SIGE_RELU;
}

template <typename T, int N>
__global__ void __launch_bounds__(THREADS) activate_kernel(T* values, uint32_t count, int activation, float alpha) {
  const uint32_t index = blockIdx.x * THREADS + threadIdx.x;
  if (index >= count) return;
  Pack<T, N>* at = reinterpret_cast<Pack<T, N>*>(values) + index;
  Pack<T, N> pack = *at;
  float x[N];
#pragma unroll
  for (int i = 0; i < N; ++i) x[i] = to_float(pack.at[i]);
  activate<N>(activation, alpha, x);
#pragma unroll
  for (int i = 0; i < N; ++i) pack.at[i] = from_float<T>(x[i]);
  *at = pack;
}

static sige_status launch_activate(const sige_conv_args& a, cudaStream_t stream) {
  const int64_t values = int64_t{a.source.batch} * a.source.targets * a.outputs;
  return with_vector(a.source.dtype, values, aligned(a.out, 16), [&](auto type, auto size) {
    using T = decltype(type);
    constexpr int N = decltype(size)::value;
    const int64_t count = values / N;
    if (count > MAX_VECTORS) return SIGE_UNSUPPORTED;
    activate_kernel<T, N><<<(count + THREADS - 1) / THREADS, THREADS, 0, stream>>>(
        static_cast<T*>(a.out), static_cast<uint32_t>(count), a.activation, a.alpha);
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
  const int32_t* entries = p.source.table + int64_t{target} * p.taps;
  float sum[N] = {};
  for (int32_t k = 0; k < p.taps; ++k) {
    const int32_t entry = entries[k];
    if (entry < 0) continue;
    float x[N];
    p.source.template transform<N>(b, channel, p.source.template load<N>(b, entry, channel), x);
    const Pack<T, N> weight =
        *reinterpret_cast<const Pack<T, N>*>(p.weight + int64_t{k} * p.source.channels + channel);
#pragma unroll
    for (int i = 0; i < N; ++i) sum[i] += x[i] * to_float(weight.at[i]);
  }
  p.addends.template add<N>(b, row, channel, sum);
  activate<N>(p.activation, p.alpha, sum);
  Pack<T, N> result;
#pragma unroll
  for (int i = 0; i < N; ++i) result.at[i] = from_float<T>(sum[i]);
  *reinterpret_cast<Pack<T, N>*>(p.out + int64_t{index} * N) = result;
}

static sige_status depthwise(const sige_conv_args& a, cudaStream_t stream) {
  const sige_source& s = a.source;
  const bool wide = aligned16(s) && aligned16(a) && aligned(a.weight, 16);
  return with_vector(s.dtype, s.channels, wide, [&](auto type, auto size) {
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

static size_t gathered_bytes(const sige_conv_args& a) {
  const sige_source& s = a.source;
  return align(element_size(s.dtype) * s.batch * s.targets * s.taps * s.channels);
}

size_t conv_workspace(const sige_conv_args& a) {
  return is_depthwise(a) ? 0 : PRODUCT_WORKSPACE + gathered_bytes(a);
}

sige_status conv(const sige_conv_args& a, const sige_execution& execution) {
  const cudaStream_t stream = stream_of(execution);
  if (is_depthwise(a)) return depthwise(a, stream);
  if (!execution.plans) return SIGE_INVALID_ARGUMENT;
  // The plans' algorithms rely on 16 bytes.
  if (!aligned(a.weight, 16) || !aligned16(a)) return SIGE_INVALID_ARGUMENT;

  const bool seeded = seeds_output(a);
  char* workspace = static_cast<char*>(execution.workspace);
  void* gathered = workspace + PRODUCT_WORKSPACE;
  if (sige_status status =
          launch_gather(a.source, 1, a.group, 0.0f, gathered, seeded ? &a : nullptr, stream))
    return status;
  const void* addend = seeded ? a.out : a.residual;
  if (sige_status status = multiply(*execution.plans, product_of(a), gathered, a.weight, seeded ? nullptr : a.bias,
                                    addend, a.out, workspace, stream))
    return status;
  return activates_after(a) ? launch_activate(a, stream) : SIGE_OK;
}

}  // namespace sige::cuda
