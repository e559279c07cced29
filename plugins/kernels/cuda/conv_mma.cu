// Conv in float16 as one kernel (Hopper and later): an implicit GEMM whose left tile is gathered through the table.
//
// A block owns a tile of targets x outputs and a part of the depth; the blocks of a cluster share a tile and add up
// their parts through distributed shared memory. Tiles arrive by asynchronous copies, several stages ahead; affine and
// activation are applied to the gathered tile in shared memory, by the thread that copied it. Launched with
// programmatic stream serialisation: table and weights are read while the kernel before still runs.
#include "conv_mma.h"

#include <cooperative_groups.h>

#include "mma.cuh"
#include "source.cuh"

namespace sige::cuda {

namespace {

constexpr int DEPTH = 64;        // channels of one stage
constexpr int PAD = 8;           // halves behind each row of a tile, against bank conflicts
constexpr int MAX_TAPS = 64;     // whose places are kept in shared memory
constexpr int MAX_SPLITS = 8;    // blocks of a portable cluster
constexpr int MIN_CHUNKS = 3;    // stages' worth of depth below which a part is not split further
constexpr int TARGET_BLOCKS = 264;  // two for each multiprocessor of an H100 or H200
constexpr int32_t PADDING = -1;

struct Parameters {
  Source<__half> source;
  Addends<__half> addends;
  const __half* weight;
  __half* out;
  int32_t targets, taps, outputs, tap_chunks, chunks, tiles_m, activation;
  float alpha;
  bool transforms;
};

// ROWS x COLUMNS outputs by WM x WN warps; STAGES tiles in flight; VECTOR channels per copy of the left tile.
template <int ROWS_, int COLUMNS_, int WM_, int WN_, int STAGES_, int VECTOR_>
struct Shape {
  static constexpr int ROWS = ROWS_, COLUMNS = COLUMNS_, WM = WM_, WN = WN_, STAGES = STAGES_, VECTOR = VECTOR_;
  static constexpr int THREADS = WM * WN * 32;
  static constexpr int LEFT_STRIDE = DEPTH + PAD, RIGHT_STRIDE = COLUMNS + PAD, SUM_STRIDE = COLUMNS + PAD;
  static constexpr int LEFT = ROWS * LEFT_STRIDE, RIGHT = DEPTH * RIGHT_STRIDE;  // halves of a stage
  static constexpr int PIPELINE_BYTES = STAGES * (LEFT + RIGHT) * 2;
  static constexpr int SUM_BYTES = ROWS * SUM_STRIDE * 4;
  static constexpr int SHARED_BYTES = PIPELINE_BYTES > SUM_BYTES ? PIPELINE_BYTES : SUM_BYTES;
  static constexpr int LEFT_VECTORS = ROWS * (DEPTH / VECTOR) / THREADS;
  static constexpr int RIGHT_VECTORS = DEPTH * (COLUMNS / 8) / THREADS;
  static constexpr int SUM_VECTORS = ROWS * (COLUMNS / 8) / THREADS;
  static constexpr int M_TILES = ROWS / WM / 16, N_TILES = COLUMNS / WN / 8;
  static_assert(LEFT_VECTORS >= 1 && RIGHT_VECTORS >= 1 && SUM_VECTORS >= 1 && N_TILES % 2 == 0);
  static_assert(THREADS % (DEPTH / VECTOR) == 0, "a thread's copies share their channels");
};

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define SIGE_HOPPER 1
#endif

// The kernel before has finished, and what it wrote can be read.
__device__ inline void wait_for_predecessor() {
#ifdef SIGE_HOPPER
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// The kernel behind may start as soon as there is room.
__device__ inline void release_successor() {
#ifdef SIGE_HOPPER
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

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

template <typename S>
class Block {
 public:
  __device__ Block(const Parameters& p, __half* tiles, int32_t* places) : p_(p), tiles_(tiles), places_(places) {
    image_ = blockIdx.y / p.tiles_m;
    first_row_ = blockIdx.y % p.tiles_m * S::ROWS;
    first_column_ = blockIdx.x * S::COLUMNS;
    rows_ = p.source.rows + image_ * p.source.rows_stride;
    base_ = p.source.base + image_ * p.source.base_stride;
    left_column_ = threadIdx.x % (DEPTH / S::VECTOR) * S::VECTOR;
  }

  // places[tap][row]: fresh row r as r, base pixel n as -2 - n, else PADDING.
  __device__ void resolve() {
    for (int i = threadIdx.x; i < S::ROWS * p_.taps; i += S::THREADS) {
      const int row = i / p_.taps, tap = i % p_.taps;
      const int32_t target = first_row_ + row;
      int32_t place = PADDING;
      if (target < p_.targets) {
        const int32_t entry = p_.source.table ? p_.source.table[int64_t{target} * p_.taps + tap] : target;
        place = entry < p_.source.fresh ? entry : -2 - p_.source.halo[entry - p_.source.fresh];
      }
      places_[tap * S::ROWS + row] = place;
    }
  }

  __device__ void load_right(int stage, int tap, int channel) const {
    __half* to = tiles_ + stage * (S::LEFT + S::RIGHT) + S::LEFT;
#pragma unroll
    for (int j = 0; j < S::RIGHT_VECTORS; ++j) {
      const int i = threadIdx.x + j * S::THREADS, k = i / (S::COLUMNS / 8), n = i % (S::COLUMNS / 8) * 8;
      const bool valid = channel + k < p_.source.channels && first_column_ + n < p_.outputs;
      const int64_t from = (int64_t{tap} * p_.source.channels + channel + k) * p_.outputs + first_column_ + n;
      copy_bytes<16>(valid ? p_.weight + from : p_.weight, to + k * S::RIGHT_STRIDE + n, valid);
    }
  }

  __device__ void load_left(int stage, int tap, int channel) const {
    __half* to = tiles_ + stage * (S::LEFT + S::RIGHT) + left_column_;
    const int c = channel + left_column_;
#pragma unroll
    for (int j = 0; j < S::LEFT_VECTORS; ++j) {
      const int row = left_row(j);
      const int32_t place = places_[tap * S::ROWS + row];
      const bool valid = place != PADDING && c < p_.source.channels;
      const __half* from = place >= 0 ? rows_ + int64_t{place} * p_.source.channels
                                      : base_ + int64_t{-2 - place} * p_.source.channels;
      copy_bytes<S::VECTOR * 2>(valid ? from + c : p_.weight, to + row * S::LEFT_STRIDE, valid);
    }
  }

  __device__ void load_affine(int channel) {
    const int c = channel + left_column_;
    if (c >= p_.source.channels) return;
    using Vector = Pack<__half, S::VECTOR>;
    if (p_.source.scale)
      scale_ = *reinterpret_cast<const Vector*>(p_.source.scale + image_ * p_.source.scale_stride + c);
    if (p_.source.shift)
      shift_ = *reinterpret_cast<const Vector*>(p_.source.shift + image_ * p_.source.shift_stride + c);
  }

  // Affine and activation of what this thread copied; padding and channels behind the last stay zero.
  __device__ void transform(int stage, int tap, int channel) const {
    if (channel + left_column_ >= p_.source.channels) return;
    __half* tile = tiles_ + stage * (S::LEFT + S::RIGHT) + left_column_;
#pragma unroll
    for (int j = 0; j < S::LEFT_VECTORS; ++j) {
      const int row = left_row(j);
      if (places_[tap * S::ROWS + row] == PADDING) continue;
      auto& vector = *reinterpret_cast<Pack<__half, S::VECTOR>*>(tile + row * S::LEFT_STRIDE);
      float x[S::VECTOR];
#pragma unroll
      for (int i = 0; i < S::VECTOR; ++i) x[i] = __half2float(vector.at[i]);
      if (p_.source.scale) {
#pragma unroll
        for (int i = 0; i < S::VECTOR; ++i) x[i] *= __half2float(scale_.at[i]);
      }
      if (p_.source.shift) {
#pragma unroll
        for (int i = 0; i < S::VECTOR; ++i) x[i] += __half2float(shift_.at[i]);
      }
      activate<S::VECTOR>(p_.source.activation, p_.source.alpha, x);
#pragma unroll
      for (int i = 0; i < S::VECTOR; ++i) vector.at[i] = __float2half_rn(x[i]);
    }
  }

  __device__ void multiply(int stage, float (&sums)[S::M_TILES][S::N_TILES][4]) const {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
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

  __device__ void store_sums(const float (&sums)[S::M_TILES][S::N_TILES][4], float* tile) const {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
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

  // Vectors of 8 outputs that this block of the cluster finishes; `work(row of the tile, column, index)`.
  template <typename Work>
  __device__ void each_output(int rank, int blocks, const Work& work) const {
#pragma unroll
    for (int j = 0; j < S::SUM_VECTORS; ++j) {
      const int i = (j * blocks + rank) * S::THREADS + threadIdx.x;
      const int row = i / (S::COLUMNS / 8), column = i % (S::COLUMNS / 8) * 8;
      if (row < S::ROWS && first_row_ + row < p_.targets && first_column_ + column < p_.outputs) work(row, column, j);
    }
  }

  __device__ int left_row(int j) const { return (threadIdx.x + j * S::THREADS) / (DEPTH / S::VECTOR); }
  __device__ int64_t output_row(int row) const { return int64_t{image_} * p_.targets + first_row_ + row; }
  __device__ int32_t image() const { return image_; }
  __device__ int first_column() const { return first_column_; }

 private:
  const Parameters& p_;
  __half* tiles_;
  int32_t* places_;
  int32_t image_, first_row_, first_column_, left_column_;
  const __half *rows_, *base_;
  Pack<__half, S::VECTOR> scale_, shift_;
};

// Where a stage reads: the tap and its first channel, counted up.
struct Chunk {
  int tap, channel;

  __device__ Chunk(int index, int tap_chunks) : tap(index / tap_chunks), channel(index % tap_chunks * DEPTH) {}
  __device__ void next(int channels) {
    channel += DEPTH;
    if (channel >= channels) {
      channel = 0;
      ++tap;
    }
  }
};

template <typename S>
__global__ void __launch_bounds__(S::THREADS) conv_mma_kernel(const __grid_constant__ Parameters p) {
#ifdef SIGE_HOPPER
  extern __shared__ __align__(16) unsigned char shared[];
  __half* const tiles = reinterpret_cast<__half*>(shared);
  int32_t* const places = reinterpret_cast<int32_t*>(shared + S::SHARED_BYTES);
  const auto cluster = cooperative_groups::this_cluster();
  const int blocks = gridDim.z, rank = blockIdx.z;
  Block<S> block(p, tiles, places);

  const int first = int64_t{p.chunks} * rank / blocks, last = int64_t{p.chunks} * (rank + 1) / blocks;
  Chunk ahead(first, p.tap_chunks), now = ahead;
  {
    Chunk chunk = ahead;
#pragma unroll
    for (int stage = 0; stage < S::STAGES - 1; ++stage) {
      if (first + stage < last) block.load_right(stage, chunk.tap, chunk.channel);
      chunk.next(p.source.channels);
    }
  }
  block.resolve();
  release_successor();
  __syncthreads();
  wait_for_predecessor();
#pragma unroll
  for (int stage = 0; stage < S::STAGES - 1; ++stage) {
    if (first + stage < last) block.load_left(stage, ahead.tap, ahead.channel);
    copies_commit();
    ahead.next(p.source.channels);
  }
  if (p.transforms) block.load_affine(now.channel);

  float sums[S::M_TILES][S::N_TILES][4] = {};
  int stage = 0, stage_ahead = S::STAGES - 1;
  for (int i = first; i < last; ++i) {
    copies_wait<S::STAGES - 2>();
    if (p.transforms) {
      block.transform(stage, now.tap, now.channel);
      now.next(p.source.channels);
      if (i + 1 < last) block.load_affine(now.channel);
    }
    __syncthreads();  // the stage is complete, and the one before is free again
    if (i + S::STAGES - 1 < last) {
      block.load_right(stage_ahead, ahead.tap, ahead.channel);
      block.load_left(stage_ahead, ahead.tap, ahead.channel);
      ahead.next(p.source.channels);
    }
    copies_commit();
    block.multiply(stage, sums);
    stage = stage + 1 == S::STAGES ? 0 : stage + 1;
    stage_ahead = stage_ahead + 1 == S::STAGES ? 0 : stage_ahead + 1;
  }
  copies_wait<0>();
  __syncthreads();

  float* const tile = reinterpret_cast<float*>(shared);
  block.store_sums(sums, tile);
  using Vector = Pack<__half, 8>;
  Vector residual[S::SUM_VECTORS], multiplier[S::SUM_VECTORS];
  block.each_output(rank, blocks, [&](int row, int column, int j) {
    const int64_t at = block.output_row(row) * p.outputs + block.first_column() + column;
    if (p.addends.residual) residual[j] = *reinterpret_cast<const Vector*>(p.addends.residual + at);
    if (p.addends.multiplier) multiplier[j] = *reinterpret_cast<const Vector*>(p.addends.multiplier + at);
  });
  cluster.sync();
  block.each_output(rank, blocks, [&](int row, int column, int j) {
    float x[8] = {};
    for (int part = 0; part < blocks; ++part) {
      const float* from = cluster.map_shared_rank(tile, part) + row * S::SUM_STRIDE + column;
      const float4 low = *reinterpret_cast<const float4*>(from), high = *reinterpret_cast<const float4*>(from + 4);
      x[0] += low.x, x[1] += low.y, x[2] += low.z, x[3] += low.w;
      x[4] += high.x, x[5] += high.y, x[6] += high.z, x[7] += high.w;
    }
    const int channel = block.first_column() + column;
    p.addends.template add_channels<8>(block.image(), channel, x);
    if (p.addends.multiplier) {
#pragma unroll
      for (int i = 0; i < 8; ++i) x[i] *= __half2float(multiplier[j].at[i]);
    }
    if (p.addends.residual) {
#pragma unroll
      for (int i = 0; i < 8; ++i) x[i] += __half2float(residual[j].at[i]);
    }
    activate<8>(p.activation, p.alpha, x);
    Vector result;
#pragma unroll
    for (int i = 0; i < 8; ++i) result.at[i] = __float2half_rn(x[i]);
    *reinterpret_cast<Vector*>(p.out + block.output_row(row) * p.outputs + channel) = result;
  });
  if (blocks > 1) cluster.sync();  // the others may still read this block's part
#endif
}

template <typename S>
sige_status launch(const sige_conv_args& a, cudaStream_t stream) {
  const sige_source& s = a.source;
  const int64_t tiles_m = (s.targets + S::ROWS - 1) / S::ROWS, tiles_n = (a.outputs + S::COLUMNS - 1) / S::COLUMNS;
  const int64_t tap_chunks = (s.channels + DEPTH - 1) / DEPTH, chunks = tap_chunks * s.taps;
  int64_t splits = TARGET_BLOCKS / (tiles_m * tiles_n * s.batch);
  if (splits > MAX_SPLITS) splits = MAX_SPLITS;
  if (splits > chunks / MIN_CHUNKS) splits = chunks / MIN_CHUNKS;
  if (splits < 1) splits = 1;
  if (tiles_m * s.batch > 65535) return SIGE_UNSUPPORTED;

  const Parameters parameters{Source<__half>(s),
                              Addends<__half>(a),
                              static_cast<const __half*>(a.weight),
                              static_cast<__half*>(a.out),
                              s.targets,
                              s.taps,
                              a.outputs,
                              static_cast<int32_t>(tap_chunks),
                              static_cast<int32_t>(chunks),
                              static_cast<int32_t>(tiles_m),
                              a.activation,
                              a.alpha,
                              transforms(s)};
  const size_t shared = S::SHARED_BYTES + sizeof(int32_t) * S::ROWS * s.taps;
  if (cudaFuncSetAttribute(conv_mma_kernel<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)))
    return SIGE_ENGINE_FAILURE;

  cudaLaunchAttribute attributes[2]{};
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim.x = attributes[0].val.clusterDim.y = 1;
  attributes[0].val.clusterDim.z = static_cast<unsigned>(splits);
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(tiles_n), static_cast<unsigned>(tiles_m * s.batch),
                        static_cast<unsigned>(splits));
  config.blockDim = dim3(S::THREADS);
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = 2;
  return cudaLaunchKernelEx(&config, conv_mma_kernel<S>, parameters) == cudaSuccess ? SIGE_OK : SIGE_ENGINE_FAILURE;
}

template <int VECTOR>
sige_status launch_shape(const sige_conv_args& a, cudaStream_t stream) {
  const int64_t rows = a.source.targets;
  const int64_t tiles = (rows + 127) / 128 * a.source.batch * ((a.outputs + 63) / 64);
  if (rows <= 16) return launch<Shape<16, 64, 1, 4, 6, VECTOR>>(a, stream);
  if (rows <= 32) return launch<Shape<32, 64, 2, 2, 5, VECTOR>>(a, stream);
  if (tiles < TARGET_BLOCKS / 2) return launch<Shape<64, 64, 2, 2, 4, VECTOR>>(a, stream);
  return launch<Shape<128, 64, 4, 2, 3, VECTOR>>(a, stream);
}

}  // namespace

bool runs_on_mma(const sige_conv_args& a) {
  const sige_source& s = a.source;
  return s.dtype == SIGE_FLOAT16 && a.group == 1 && s.channels % 4 == 0 && a.outputs % 8 == 0 && s.taps <= MAX_TAPS &&
         aligned16(s);
}

sige_status launch_conv_mma(const sige_conv_args& a, cudaStream_t stream) {
  return a.source.channels % 8 ? launch_shape<4>(a, stream) : launch_shape<8>(a, stream);
}

}  // namespace sige::cuda
