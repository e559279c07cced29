// Gather: one thread per 16 bytes of the output; affine and activation fused.
#include "source.cuh"

namespace sige::cuda {

template <typename T>
struct GatherParameters {
  Source<T> source;
  Divider vectors, taps, targets, phases, group_vectors;
  uint32_t count;        // vectors of the output
  int32_t width;         // channels of one tap: channels / phases
  int64_t group_stride;  // elements from group to group of the output
  bool transforms;
  float pad_value;
  T* out;
  Addends<T> addends;
  Divider seed_vectors;
  uint32_t seed_count;  // vectors of the conv's output to seed, or 0
  T* seed;
};

// The sum of the addends of one vector of the conv's output.
template <typename T, int N>
__device__ void seed_vector(const GatherParameters<T>& p, uint32_t index) {
  uint32_t row, vector, b, target;
  p.seed_vectors.divide(index, row, vector);
  p.targets.divide(row, b, target);
  float x[N] = {};
  p.addends.template add_early<N>(b, row, vector * N, x);
  Pack<T, N> result;
#pragma unroll
  for (int i = 0; i < N; ++i) result.at[i] = from_float<T>(x[i]);
  *reinterpret_cast<Pack<T, N>*>(p.seed + int64_t{index} * N) = result;
}

template <typename T, int N>
__global__ void __launch_bounds__(THREADS) gather_kernel(const __grid_constant__ GatherParameters<T> p) {
  const uint32_t index = blockIdx.x * THREADS + threadIdx.x;
  if (index >= p.count) {
    if (index - p.count < p.seed_count) seed_vector<T, N>(p, index - p.count);
    return;
  }
  uint32_t vector, tap_of_row, tap, row, target, b, group, group_vector;
  p.vectors.divide(index, tap_of_row, vector);
  p.taps.divide(tap_of_row, row, tap);
  p.targets.divide(row, b, target);
  p.group_vectors.divide(vector, group, group_vector);

  const int32_t entry = p.source.entry(target, tap, p.taps.divisor);
  Pack<T, N> result;
  if (entry < 0) {
#pragma unroll
    for (int i = 0; i < N; ++i) result.at[i] = from_float<T>(p.pad_value);
  } else {
    uint32_t pixel, phase;
    p.phases.divide(entry, pixel, phase);
    const int32_t channel = phase * p.width + vector * N;
    result = p.source.template load<N>(b, pixel, channel);
    if (p.transforms) {
      float x[N];
      p.source.template transform<N>(b, channel, result, x);
#pragma unroll
      for (int i = 0; i < N; ++i) result.at[i] = from_float<T>(x[i]);
    }
  }
  const int64_t to = group * p.group_stride + (int64_t{tap_of_row} * p.group_vectors.divisor + group_vector) * N;
  *reinterpret_cast<Pack<T, N>*>(p.out + to) = result;
}

sige_status launch_gather(const sige_source& s, int32_t phases, int32_t group, float pad_value, void* out,
                          const sige_conv_args* seeded, cudaStream_t stream) {
  const int64_t width = s.channels / phases, part = width / group;
  const sige_conv_args none{};
  const sige_conv_args& conv = seeded ? *seeded : none;
  const bool wide = aligned16(s) && aligned(out, 16) && aligned16(conv);
  return with_vector(s.dtype, std::gcd(std::gcd(part, int64_t{conv.outputs}), source_width(s)), wide, [&](auto type, auto size) {
    using T = decltype(type);
    constexpr int N = decltype(size)::value;
    const int64_t rows = int64_t{s.batch} * s.targets;
    const int64_t count = rows * s.taps * (width / N), seeds = rows * (conv.outputs / N);
    if (count + seeds > MAX_VECTORS) return SIGE_UNSUPPORTED;
    const GatherParameters<T> parameters{
        Source<T>(s),
        Divider(width / N),
        Divider(s.taps),
        Divider(s.targets),
        Divider(phases),
        Divider(part / N),
        static_cast<uint32_t>(count),
        static_cast<int32_t>(width),
        rows * s.taps * part,
        transforms(s),
        pad_value,
        static_cast<T*>(out),
        Addends<T>(conv),
        Divider(seeds ? conv.outputs / N : 1),
        static_cast<uint32_t>(seeds),
        static_cast<T*>(conv.out)};
    gather_kernel<T, N><<<(count + seeds + THREADS - 1) / THREADS, THREADS, 0, stream>>>(parameters);
    return launched();
  });
}

size_t gather_workspace(const sige_gather_args&) { return 0; }

sige_status gather(const sige_gather_args& a, const sige_execution& execution) {
  return launch_gather(a.source, a.phases, 1, a.pad_value, a.out, nullptr, stream_of(execution));
}

}  // namespace sige::cuda
