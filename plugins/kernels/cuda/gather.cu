// Gather: one thread per 16 bytes of the output; affine and activation fused. And rows divided by their deviation, one warp
// per row.
#include "launch.cuh"
#include "mma.cuh"
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

// Seeds outputs [channel, channel + N) of row `row` of a conv with the sum of their addends.
template <typename T, int N>
__device__ void seed_vector(const Addends<T>& addends, const Divider& targets, uint32_t row, uint32_t channel, T* seed) {
  uint32_t b, target;
  targets.divide(row, b, target);
  float x[N] = {};
  addends.template add_early<N>(b, row, channel, x);
  Pack<T, N> result;
#pragma unroll
  for (int i = 0; i < N; ++i) result.at[i] = from_float<T>(x[i]);
  *reinterpret_cast<Pack<T, N>*>(seed + int64_t{row} * addends.outputs + channel) = result;
}

template <typename T, int N>
__global__ void __launch_bounds__(THREADS) gather_kernel(const __grid_constant__ GatherParameters<T> p) {
  release_successor();
  const uint32_t index = blockIdx.x * THREADS + threadIdx.x;
  if (index >= p.count) {
    if (index - p.count >= p.seed_count) return;
    wait_for_predecessor();
    uint32_t row, vector;
    p.seed_vectors.divide(index - p.count, row, vector);
    seed_vector<T, N>(p.addends, p.targets, row, vector * N, p.seed);
    return;
  }
  uint32_t vector, tap_of_row, tap, row, target, b, group, group_vector;
  p.vectors.divide(index, tap_of_row, vector);
  p.taps.divide(tap_of_row, row, tap);
  p.targets.divide(row, b, target);
  p.group_vectors.divide(vector, group, group_vector);

  const int32_t entry = p.source.entry(target, tap, p.taps.divisor);
  uint32_t place = 0, phase = 0;
  if (entry >= 0) p.phases.divide(entry, place, phase);
  const bool fresh = entry < 0 || static_cast<int32_t>(place) < p.source.fresh;
  if (!fresh) place = p.source.halo[place - p.source.fresh];
  wait_for_predecessor();
  Pack<T, N> result;
  if (entry < 0) {
#pragma unroll
    for (int i = 0; i < N; ++i) result.at[i] = from_float<T>(p.pad_value);
  } else {
    const int32_t channel = phase * p.width + vector * N;
    const bool second = channel >= p.source.split;
    const T* from = fresh ? p.source.row(b, place, second) : p.source.pixel(b, place, second);
    result = *reinterpret_cast<const Pack<T, N>*>(from + channel);
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
                          const sige_conv_args* seeded, bool overlap, cudaStream_t stream) {
  const int64_t width = s.channels / phases, part = width / group;
  const sige_conv_args none{};
  const sige_conv_args& conv = seeded ? *seeded : none;
  const bool wide = aligned16(s) && aligned(out, 16) && aligned16(conv);
  const int64_t vectors = std::gcd(std::gcd(part, int64_t{conv.outputs}), source_width(s));
  return with_vector(s.dtype, vectors, wide, [&](auto type, auto size) {
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
    const auto blocks = static_cast<unsigned>((count + seeds + THREADS - 1) / THREADS);
    return launch_elementwise<gather_kernel<T, N>>(overlap, blocks, stream, parameters);
  });
}

constexpr int32_t WARP = 32;

template <typename T>
struct NormParameters {
  const T* rows;
  T* out;
  uint32_t count;  // rows
  int32_t channels;
  float epsilon;
  Addends<T> addends;
  Divider targets;
  T* seed;  // the conv's output, or null
};

// The sum over a row of what `of` makes of its values, by a warp.
template <typename T, int N, typename Of>
__device__ float sum_row(const T* row, int32_t channels, const Of& of) {
  float sum = 0.0f;
  for (int32_t c = threadIdx.x % WARP * N; c < channels; c += WARP * N) {
    const Pack<T, N> pack = *reinterpret_cast<const Pack<T, N>*>(row + c);
#pragma unroll
    for (int i = 0; i < N; ++i) sum += of(to_float(pack.at[i]));
  }
#pragma unroll
  for (int other = WARP / 2; other; other /= 2) sum += __shfl_xor_sync(~0u, sum, other);
  return sum;
}

// By two passes: a mean far from 0 costs no digits. The second and third one read the row out of the cache.
template <typename T, int N>
__global__ void __launch_bounds__(THREADS) norm_kernel(const __grid_constant__ NormParameters<T> p) {
  const uint32_t row = blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP;
  if (row >= p.count) return;
  const T* from = p.rows + int64_t{row} * p.channels;
  const float mean = sum_row<T, N>(from, p.channels, [](float x) { return x; }) / p.channels;
  const float squares = sum_row<T, N>(from, p.channels, [=](float x) { return (x - mean) * (x - mean); });
  const float factor = 1.0f / sqrtf(squares / p.channels + p.epsilon);
  for (int32_t c = threadIdx.x % WARP * N; c < p.channels; c += WARP * N) {
    Pack<T, N> pack = *reinterpret_cast<const Pack<T, N>*>(from + c);
#pragma unroll
    for (int i = 0; i < N; ++i) pack.at[i] = from_float<T>(to_float(pack.at[i]) * factor);
    *reinterpret_cast<Pack<T, N>*>(p.out + int64_t{row} * p.channels + c) = pack;
  }
  if (!p.seed) return;
  for (int32_t c = threadIdx.x % WARP * N; c < p.addends.outputs; c += WARP * N)
    seed_vector<T, N>(p.addends, p.targets, row, c, p.seed);
}

sige_status launch_norm(const sige_conv_args& a, void* out, bool seeded, cudaStream_t stream) {
  const sige_source& s = a.source;
  const int64_t width = std::gcd(s.channels, seeded ? a.outputs : 0);
  return with_vector(s.dtype, width, aligned16(s) && aligned16(a), [&](auto type, auto size) {
    using T = decltype(type);
    constexpr int N = decltype(size)::value;
    const int64_t rows = int64_t{s.batch} * s.targets;
    if (rows > MAX_VECTORS) return SIGE_UNSUPPORTED;
    const NormParameters<T> parameters{static_cast<const T*>(s.rows),
                                       static_cast<T*>(out),
                                       static_cast<uint32_t>(rows),
                                       s.channels,
                                       a.norm_epsilon,
                                       Addends<T>(a),
                                       Divider(s.targets),
                                       seeded ? static_cast<T*>(a.out) : nullptr};
    constexpr int64_t ROWS = THREADS / WARP;
    norm_kernel<T, N><<<(rows + ROWS - 1) / ROWS, THREADS, 0, stream>>>(parameters);
    return launched();
  });
}

size_t gather_workspace(const sige_gather_args&) { return 0; }

sige_status gather(const sige_gather_args& a, const sige_execution& execution) {
  return launch_gather(a.source, a.phases, 1, a.pad_value, a.out, nullptr, false, stream_of(execution));
}

}  // namespace sige::cuda
