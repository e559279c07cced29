// Reading the virtual concatenation [fresh rows | halo | padding] of one call on the device.
#pragma once

#include <numeric>

#include "device.cuh"

namespace sige::cuda {

// A sige_source whose arrays have their type.
template <typename T>
struct Source {
  const T* rows;
  const T* base;
  const int32_t* halo;
  const int32_t* table;
  const T* scale;
  const T* shift;
  const T* rows_2;
  const T* base_2;
  int64_t scale_stride, shift_stride;  // from image to image
  int32_t fresh, pixels, channels, split, activation;  // channels from `split` on are of rows_2 and base_2
  float alpha;

  explicit Source(const sige_source& s)
      : rows(static_cast<const T*>(s.rows)), base(static_cast<const T*>(s.base)), halo(s.halo), table(s.table),
        scale(static_cast<const T*>(s.scale)), shift(static_cast<const T*>(s.shift)),
        rows_2(static_cast<const T*>(s.rows_2)), base_2(static_cast<const T*>(s.base_2)),
        scale_stride(s.scale_batch > 1 ? s.channels : 0), shift_stride(s.shift_batch > 1 ? s.channels : 0),
        fresh(s.fresh), pixels(s.pixels), channels(s.channels), split(s.channels - s.channels_2), activation(s.activation), alpha(s.alpha) {}

  // Where tap `tap` of target `target` reads.
  __device__ int32_t entry(int64_t target, int32_t tap, int32_t taps) const {
    return table ? table[target * taps + tap] : static_cast<int32_t>(target);
  }

  // Where channel 0 of a fresh row or of a base pixel of image `b` is, or would be: to be used for channels below `split`
  // (`second` false) or from it on.
  __device__ const T* row(int32_t b, int32_t index, bool second) const {
    const int64_t at = int64_t{b} * fresh + index;
    return second ? rows_2 + at * (channels - split) - split : rows + at * split;
  }
  __device__ const T* pixel(int32_t b, int32_t index, bool second) const {
    const int64_t at = int64_t{b} * pixels + index;
    return second ? base_2 + at * (channels - split) - split : base + at * split;
  }

  // Channels [channel, channel + N) of pixel `index` (not padding) of image `b`, as they are.
  template <int N>
  __device__ Pack<T, N> load(int32_t b, int32_t index, int32_t channel) const {
    const bool second = channel >= split;
    const T* from = index < fresh ? row(b, index, second) : pixel(b, halo[index - fresh], second);
    return *reinterpret_cast<const Pack<T, N>*>(from + channel);
  }

  // The same after affine and activation.
  template <int N>
  __device__ void transform(int32_t b, int32_t channel, const Pack<T, N>& from, float (&to)[N]) const {
#pragma unroll
    for (int i = 0; i < N; ++i) to[i] = to_float(from.at[i]);
    if (scale) {
      const Pack<T, N> factor = *reinterpret_cast<const Pack<T, N>*>(scale + b * scale_stride + channel);
#pragma unroll
      for (int i = 0; i < N; ++i) to[i] *= to_float(factor.at[i]);
    }
    if (shift) {
      const Pack<T, N> summand = *reinterpret_cast<const Pack<T, N>*>(shift + b * shift_stride + channel);
#pragma unroll
      for (int i = 0; i < N; ++i) to[i] += to_float(summand.at[i]);
    }
    activate<N>(activation, alpha, to);
  }
};

// What a conv does to its product: (product + bias + embedding) * multiplier + residual, each of which may be missing.
template <typename T>
struct Addends {
  const T* bias;
  const T* embedding;
  const T* multiplier;
  const T* residual;
  int64_t embedding_stride;  // from image to image
  int32_t outputs;

  explicit Addends(const sige_conv_args& a)
      : bias(static_cast<const T*>(a.bias)), embedding(static_cast<const T*>(a.embedding)),
        multiplier(static_cast<const T*>(a.multiplier)), residual(static_cast<const T*>(a.residual)),
        embedding_stride(a.embedding_batch > 1 ? a.outputs : 0), outputs(a.outputs) {}

  // Outputs [channel, channel + N) of image `b`, without what each row has of its own.
  template <int N>
  __device__ void add_channels(int32_t b, int32_t channel, float (&x)[N]) const {
    if (bias) add_pack<N>(bias + channel, x);
    if (embedding) add_pack<N>(embedding + b * embedding_stride + channel, x);
  }

  // Outputs [channel, channel + N) of row `row`, which belongs to image `b`.
  template <int N>
  __device__ void apply(int32_t b, int64_t row, int32_t channel, float (&x)[N]) const {
    add_channels<N>(b, channel, x);
    apply_rows<N>(row, channel, x);
  }

  // What may be added before a product is: everything, up to a multiplier.
  template <int N>
  __device__ void add_early(int32_t b, int64_t row, int32_t channel, float (&x)[N]) const {
    add_channels<N>(b, channel, x);
    if (!multiplier && residual) add_pack<N>(residual + row * outputs + channel, x);
  }

  // The part that each row has of its own.
  template <int N>
  __device__ void apply_rows(int64_t row, int32_t channel, float (&x)[N]) const {
    if (multiplier) {
      const Pack<T, N> pack = *reinterpret_cast<const Pack<T, N>*>(multiplier + row * outputs + channel);
#pragma unroll
      for (int i = 0; i < N; ++i) x[i] *= to_float(pack.at[i]);
    }
    if (residual) add_pack<N>(residual + row * outputs + channel, x);
  }

  template <int N>
  __device__ static void add_pack(const T* from, float (&x)[N]) {
    const Pack<T, N> pack = *reinterpret_cast<const Pack<T, N>*>(from);
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] += to_float(pack.at[i]);
  }
};

inline bool aligned16(const sige_source& s) {
  return aligned(s.rows, 16) && aligned(s.base, 16) && aligned(s.rows_2, 16) && aligned(s.base_2, 16) &&
         aligned(s.scale, 16) && aligned(s.shift, 16);
}

// The largest vector of channels that belongs to one source has this many, or a divisor of it.
inline int64_t source_width(const sige_source& s) { return std::gcd(s.channels - s.channels_2, s.channels_2); }

inline bool aligned16(const sige_conv_args& a) {
  return aligned(a.bias, 16) && aligned(a.embedding, 16) && aligned(a.multiplier, 16) && aligned(a.residual, 16) &&
         aligned(a.out, 16);
}

// Writes [group][batch * targets][taps][channels / group]; with `phases`, group is 1 and channels / phases are written.
// With `seeded`, the same launch also writes the sum of that conv's addends to its output.
// With `overlap` it may start while the kernel before still runs, and reads table and halo then.
sige_status launch_gather(const sige_source& source, int32_t phases, int32_t group, float pad_value, void* out,
                          const sige_conv_args* seeded, bool overlap, cudaStream_t stream);

// Writes the rows of a conv with norm_epsilon, each divided by its deviation: [batch * targets][channels]. With `seeded`,
// the same launch also writes the sum of the addends to the output.
sige_status launch_norm(const sige_conv_args& a, void* out, bool seeded, cudaStream_t stream);

}  // namespace sige::cuda
