// The tiles of conv_mma.cu: what a block owns, how its tiles are gathered and multiplied.
#pragma once

#include "launch.cuh"
#include "mma.cuh"
#include "source.cuh"

namespace sige::cuda {

constexpr int DEPTH = 64;        // channels of one stage
constexpr int PAD = 8;           // halves behind each row of a tile, against bank conflicts
constexpr int32_t PADDING = -1;

// Rows are counted through all images: row r is target r % targets of image r / targets.
struct ConvParameters {
  Source<__half> source;
  Addends<__half> addends;
  const __half* weight;
  __half* out;
  Divider taps, targets;
  int32_t batch, rows, outputs, tap_chunks, chunks, activation, gate;
  float alpha, norm_epsilon;
  bool transforms, gated;

  __host__ __device__ int32_t weight_columns() const { return gated ? 2 * outputs : outputs; }
};

// tap_chunks: of a tap's channels, 0 where the depth has no taps; chunks: of the whole depth.
inline ConvParameters parameters_of(const sige_conv_args& a, int64_t tap_chunks, int64_t chunks, bool transforms) {
  const sige_source& s = a.source;
  return {Source<__half>(s),
          Addends<__half>(a),
          static_cast<const __half*>(a.weight),
          static_cast<__half*>(a.out),
          Divider(s.taps),
          Divider(s.targets),
          s.batch,
          s.batch * s.targets,
          a.outputs,
          static_cast<int32_t>(tap_chunks),
          static_cast<int32_t>(chunks),
          a.activation,
          a.gate,
          a.alpha,
          a.norm_epsilon,
          transforms,
          a.gated != 0};
}

// ROWS x COLUMNS outputs. GROUPS groups of WM x WN warps share the depth, each with STAGES tiles of its own in flight;
// VECTOR channels per copy of the left tile.
template <int ROWS_, int COLUMNS_, int WM_, int WN_, int GROUPS_, int STAGES_, int VECTOR_>
struct ConvShape {
  static constexpr int ROWS = ROWS_, COLUMNS = COLUMNS_, WM = WM_, WN = WN_, GROUPS = GROUPS_, STAGES = STAGES_;
  static constexpr int VECTOR = VECTOR_, GROUP = WM * WN * 32, THREADS = GROUPS * GROUP;
  static constexpr int LEFT_STRIDE = DEPTH + PAD, RIGHT_STRIDE = COLUMNS + PAD, SUM_STRIDE = COLUMNS + PAD;
  static constexpr int LEFT = ROWS * LEFT_STRIDE, RIGHT = DEPTH * RIGHT_STRIDE;  // halves of a stage
  static constexpr int PIPELINE = STAGES * (LEFT + RIGHT);                       // halves of a group
  static constexpr int SUM = ROWS * SUM_STRIDE;                                  // floats of a group
  static constexpr int GROUP_BYTES = PIPELINE * 2 > SUM * 4 ? PIPELINE * 2 : SUM * 4;
  static constexpr int VECTORS = ROWS * COLUMNS / 8;                   // of 8 outputs
  static constexpr int RECEIVED_BYTES = (VECTORS + 2 * MAX_CLUSTER) * 32;  // sums from the other blocks
  static constexpr int MOMENTS_BYTES = MAX_CLUSTER * ROWS * 8;           // of rows, from the other blocks
  static constexpr int FIXED_BYTES = GROUPS * GROUP_BYTES + RECEIVED_BYTES + 16;  // the last 16: the inbox's barrier
  static constexpr int LEFT_VECTORS = ROWS * (DEPTH / VECTOR) / GROUP;
  static constexpr int RIGHT_VECTORS = DEPTH * (COLUMNS / 8) / GROUP;
  static constexpr int M_TILES = ROWS / WM / 16, N_TILES = COLUMNS / WN / 8;
  static_assert((STAGES - 1) * LEFT_VECTORS <= 32, "bits of copied_");
  static_assert(LEFT_VECTORS >= 1 && RIGHT_VECTORS >= 1 && N_TILES % 2 == 0);
  static_assert(GROUP % (DEPTH / VECTOR) == 0 && GROUP % (COLUMNS / 8) == 0, "a thread's copies share their columns");
};

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define SIGE_HOPPER 1
#endif

template <int BYTES>
__device__ inline void copy_bytes(const __half* from, __half* to, bool valid) {
#ifdef SIGE_HOPPER
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  if constexpr (BYTES == 16) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(valid ? 16 : 0)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(address), "l"(from), "r"(valid ? 8 : 0)
                 : "memory");
  }
#endif
}

// x times its sigmoid, which is (1 + tanh(x / 2)) / 2: one special-function instruction for both, exact to 2^-10.987.
__device__ inline __half2 silu(__half2 x) {
  const __half2 h = __hmul2(x, __float2half2_rn(0.5f));
  uint32_t t;
  asm("tanh.approx.f16x2 %0, %1;" : "=r"(t) : "r"(*reinterpret_cast<const uint32_t*>(&h)));
  return __hfma2(h, *reinterpret_cast<const __half2*>(&t), h);
}

// Affine, and the activation silu, of a vector.
template <int N>
__device__ void apply_affine(const Pack<__half2, N>& scale, const Pack<__half2, N>& shift, Pack<__half2, N>& x) {
#pragma unroll
  for (int i = 0; i < N; ++i) x.at[i] = __hfma2(x.at[i], scale.at[i], shift.at[i]);
}

template <int N>
__device__ void apply_silu(Pack<__half2, N>& x) {
#pragma unroll
  for (int i = 0; i < N; ++i) x.at[i] = silu(x.at[i]);
}

// A group's view of its block.
template <typename S>
class Group {
  using Halves = Pack<__half2, S::VECTOR / 2>;

 public:
  __device__ Group(const ConvParameters& p, unsigned char* shared) : p_(p) {
    const int group = threadIdx.x / S::GROUP;
    thread_ = threadIdx.x % S::GROUP;
    tiles_ = reinterpret_cast<__half*>(shared + group * S::GROUP_BYTES);
    places_ = reinterpret_cast<const int32_t*>(shared + S::FIXED_BYTES);
    left_column_ = thread_ % (DEPTH / S::VECTOR) * S::VECTOR;
    right_row_ = thread_ / (S::COLUMNS / 8);
    const int right_column = thread_ % (S::COLUMNS / 8) * 8;
    const int32_t part = p.gated ? S::COLUMNS / 2 : S::COLUMNS;  // the gates' columns lie behind those that they gate
    const int32_t column = blockIdx.x * part + right_column % part;
    right_valid_ = column < p.outputs;
    const int64_t at = int64_t{right_row_} * p.weight_columns() + right_column / part * p.outputs + column;
    right_ = p.weight + (right_valid_ ? at : 0);
    right_tile_ = right_row_ * S::RIGHT_STRIDE + right_column;
    if (p.transforms) {
#pragma unroll
      for (int j = 0; j < S::LEFT_VECTORS; ++j) {
        uint32_t image, target;
        p.targets.divide(blockIdx.y * S::ROWS + left_row(j), image, target);
        image_[j] = image < p.batch ? image : p.batch - 1;  // of rows beyond the last
      }
    }
  }

  // The group's threads have come this far.
  __device__ void sync() const {
    if constexpr (S::GROUPS == 1) {
      __syncthreads();
    } else {
      asm volatile("bar.sync %0, %1;" ::"r"(static_cast<int>(threadIdx.x / S::GROUP) + 1), "n"(S::GROUP) : "memory");
    }
  }

  __device__ void load_right(int stage, int tap, int channel) const {
    __half* to = tiles_ + stage * (S::LEFT + S::RIGHT) + S::LEFT + right_tile_;
    const int left = p_.source.channels - channel - right_row_;  // depth that is still there
    const int32_t columns = p_.weight_columns();
    const __half* from = right_ + int64_t{tap * p_.source.channels + channel} * columns;
    constexpr int STEP = S::GROUP / (S::COLUMNS / 8);
#pragma unroll
    for (int j = 0; j < S::RIGHT_VECTORS; ++j) {
      const bool valid = right_valid_ && j * STEP < left;
      copy_bytes<16>(valid ? from + int64_t{j * STEP} * columns : p_.weight, to + j * STEP * S::RIGHT_STRIDE, valid);
    }
  }

  __device__ void load_left(int stage, int tap, int channel) {
    const bool second = channel >= p_.source.split;
    if (const int key = 2 * tap + second; key != left_key_) {
      left_key_ = key;
#pragma unroll
      for (int j = 0; j < S::LEFT_VECTORS; ++j) {
        const int32_t place = places_[tap * S::ROWS + left_row(j)];
        left_[j] = place >= 0         ? p_.source.row(0, place, second)
                   : place == PADDING ? nullptr
                                      : p_.source.pixel(0, -2 - place, second);
      }
    }
    __half* to = tiles_ + stage * (S::LEFT + S::RIGHT) + left_column_;
    const int c = channel + left_column_;
    skip_left();
#pragma unroll
    for (int j = 0; j < S::LEFT_VECTORS; ++j) {
      const bool valid = left_[j] && c < p_.source.channels;
      copied_ |= static_cast<uint32_t>(valid) << j;
      copy_bytes<S::VECTOR * 2>(valid ? left_[j] + c : p_.weight, to + left_row(j) * S::LEFT_STRIDE, valid);
    }
  }

  // In place of a load when there is nothing more.
  __device__ void skip_left() { copied_ <<= S::LEFT_VECTORS; }

  __device__ void load_affine(int channel) {
    const int c = channel + left_column_;
#pragma unroll
    for (int j = 0; j < S::LEFT_VECTORS; ++j) {
#pragma unroll
      for (int i = 0; i < S::VECTOR / 2; ++i)
        scale_[j].at[i] = __float2half2_rn(1.0f), shift_[j].at[i] = __float2half2_rn(0.0f);
      if (c >= p_.source.channels) continue;
      if (p_.source.scale)
        scale_[j] = *reinterpret_cast<const Halves*>(p_.source.scale + image_[j] * p_.source.scale_stride + c);
      if (p_.source.shift)
        shift_[j] = *reinterpret_cast<const Halves*>(p_.source.shift + image_[j] * p_.source.shift_stride + c);
    }
  }

  // Affine and activation of what this thread copied STAGES - 2 loads before the last one; padding and channels behind the
  // last stay zero.
  __device__ void transform(int stage) const {
    __half* tile = tiles_ + stage * (S::LEFT + S::RIGHT) + left_column_;
    const uint32_t copied = copied_ >> (S::STAGES - 2) * S::LEFT_VECTORS;
#pragma unroll
    for (int j = 0; j < S::LEFT_VECTORS; ++j) {
      Halves& vector = *reinterpret_cast<Halves*>(tile + left_row(j) * S::LEFT_STRIDE);
      Halves x = vector;
      apply_affine(scale_[j], shift_[j], x);
      if (p_.source.activation == SIGE_SILU) {
        apply_silu(x);
      } else {
        float each[S::VECTOR];
#pragma unroll
        for (int i = 0; i < S::VECTOR; ++i) each[i] = __half2float(reinterpret_cast<const __half*>(x.at)[i]);
        activate<S::VECTOR>(p_.source.activation, p_.source.alpha, each);
#pragma unroll
        for (int i = 0; i < S::VECTOR / 2; ++i) x.at[i] = __floats2half2_rn(each[2 * i], each[2 * i + 1]);
      }
      if (copied >> j & 1) vector = x;
    }
  }

  // Adds the first two moments of what this thread copied, as transform does.
  __device__ void add_moments(int stage, float2 (&moments)[S::LEFT_VECTORS]) const {
    const __half* tile = tiles_ + stage * (S::LEFT + S::RIGHT) + left_column_;
#pragma unroll
    for (int j = 0; j < S::LEFT_VECTORS; ++j) {
      const Halves x = *reinterpret_cast<const Halves*>(tile + left_row(j) * S::LEFT_STRIDE);
#pragma unroll
      for (int i = 0; i < S::VECTOR / 2; ++i) {
        const float2 pair = __half22float2(x.at[i]);
        moments[j].x += pair.x + pair.y;
        moments[j].y = fmaf(pair.x, pair.x, fmaf(pair.y, pair.y, moments[j].y));
      }
    }
  }

  // Behind the sums of each row; threads of a row are neighbours in a warp.
  __device__ void store_moments(float2 (&moments)[S::LEFT_VECTORS]) const {
#pragma unroll
    for (int j = 0; j < S::LEFT_VECTORS; ++j) {
#pragma unroll
      for (int distance = DEPTH / S::VECTOR / 2; distance; distance /= 2) {
        moments[j].x += __shfl_xor_sync(0xffffffff, moments[j].x, distance);
        moments[j].y += __shfl_xor_sync(0xffffffff, moments[j].y, distance);
      }
      if (left_column_ == 0)
        *reinterpret_cast<float2*>(reinterpret_cast<float*>(tiles_) + left_row(j) * S::SUM_STRIDE + S::COLUMNS) = moments[j];
    }
  }

  __device__ void multiply(int stage, float (&sums)[S::M_TILES][S::N_TILES][4]) const {
    const int warp = thread_ / 32, lane = thread_ % 32;
    const __half* left = tiles_ + stage * (S::LEFT + S::RIGHT) +
                         (warp / S::WN * (S::ROWS / S::WM) + lane % 16) * S::LEFT_STRIDE + lane / 16 * 8;
    const __half* right = tiles_ + stage * (S::LEFT + S::RIGHT) + S::LEFT + lane % 16 * S::RIGHT_STRIDE +
                          warp % S::WN * (S::COLUMNS / S::WN) + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < DEPTH; k += 16) {
      uint32_t a[S::M_TILES][4], b[S::N_TILES / 2][4];
#pragma unroll
      for (int m = 0; m < S::M_TILES; ++m) load_matrices(left + m * 16 * S::LEFT_STRIDE + k, a[m]);
#pragma unroll
      for (int n = 0; n < S::N_TILES / 2; ++n) load_matrices_transposed(right + k * S::RIGHT_STRIDE + n * 16, b[n]);
#pragma unroll
      for (int m = 0; m < S::M_TILES; ++m)
#pragma unroll
        for (int n = 0; n < S::N_TILES; ++n) mma(sums[m][n], a[m], b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
    }
  }

  // Over the group's own tiles, which it must be done with.
  __device__ void store_sums(const float (&sums)[S::M_TILES][S::N_TILES][4]) const {
    float* tile = reinterpret_cast<float*>(tiles_);
    const int warp = thread_ / 32, lane = thread_ % 32;
    const int row = warp / S::WN * (S::ROWS / S::WM) + lane / 4;
    const int column = warp % S::WN * (S::COLUMNS / S::WN) + lane % 4 * 2;
#pragma unroll
    for (int m = 0; m < S::M_TILES; ++m)
#pragma unroll
      for (int n = 0; n < S::N_TILES; ++n)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          *reinterpret_cast<float2*>(tile + (row + m * 16 + half * 8) * S::SUM_STRIDE + column + n * 8) =
              make_float2(sums[m][n][half * 2], sums[m][n][half * 2 + 1]);
  }

 private:
  __device__ int left_row(int j) const { return (thread_ + j * S::GROUP) / (DEPTH / S::VECTOR); }

  const ConvParameters& p_;
  __half* tiles_;
  const int32_t* places_;
  int thread_, right_tile_, right_row_, left_column_, left_key_ = -1;
  int32_t image_[S::LEFT_VECTORS];  // whose affine its rows get
  uint32_t copied_ = 0;  // a bit for each vector of the last loads, the latest lowest
  bool right_valid_;
  const __half* right_;                    // this thread's first vector of the weight's first stage
  const __half* left_[S::LEFT_VECTORS];    // pixels that it copies for a tap and source; null for padding
  Halves scale_[S::LEFT_VECTORS], shift_[S::LEFT_VECTORS];
};

// places[tap][row] of the block's rows, counted through all images: fresh row r as r, base pixel n as -2 - n, else PADDING.
template <typename S, int THREADS = S::THREADS>
__device__ void resolve(const ConvParameters& p, int32_t* places) {
  constexpr int BATCH = 3;  // loads in flight
  const int32_t first_row = blockIdx.y * S::ROWS;
  const int count = S::ROWS * p.taps.divisor;
  for (int start = threadIdx.x; start < count; start += BATCH * THREADS) {
    int32_t entry[BATCH];
    uint32_t row[BATCH], tap[BATCH], image[BATCH], target[BATCH];
#pragma unroll
    for (int i = 0; i < BATCH; ++i) {
      const int index = start + i * THREADS;
      p.taps.divide(index, row[i], tap[i]);
      p.targets.divide(first_row + row[i], image[i], target[i]);
      entry[i] = index < count && first_row + static_cast<int32_t>(row[i]) < p.rows
                     ? p.source.entry(target[i], tap[i], p.taps.divisor)
                     : PADDING;
    }
#pragma unroll
    for (int i = 0; i < BATCH; ++i) {
      if (entry[i] >= p.source.fresh) {
        entry[i] = -2 - static_cast<int32_t>(image[i]) * p.source.pixels - p.source.halo[entry[i] - p.source.fresh];
      } else if (entry[i] >= 0) {
        entry[i] += image[i] * p.source.fresh;
      }
    }
#pragma unroll
    for (int i = 0; i < BATCH; ++i)
      if (start + i * THREADS < count) places[tap[i] * S::ROWS + row[i]] = entry[i];
  }
}

}  // namespace sige::cuda
