// Conv in float16 as one kernel (Hopper and later): an implicit GEMM whose left tile is gathered through the table.
//
// A block owns a tile of targets x outputs and a part of the depth; the blocks of a cluster share a tile and add up
// their parts through distributed shared memory. Tiles arrive by asynchronous copies, several stages ahead; affine and
// activation are applied to the gathered tile in shared memory, by the thread that copied it. Launched with
// programmatic stream serialisation: table and weights are read while the kernel before still runs.
#include "conv_mma.h"

#include "mma.cuh"
#include "source.cuh"

namespace sige::cuda {

namespace {

constexpr int DEPTH = 64;        // channels of one stage
constexpr int PAD = 8;           // halves behind each row of a tile, against bank conflicts
constexpr int MAX_TAPS = 64;     // whose places are kept in shared memory
constexpr int MAX_SPLITS = 8;    // blocks of a portable cluster
constexpr int TARGET_BLOCKS = 132;  // one for each multiprocessor of an H100 or H200
constexpr int64_t MAX_WORK = 1200;  // tiles times stages; beyond it, gathering for cuBLASLt is faster
constexpr int32_t PADDING = -1;

struct Parameters {
  Source<__half> source;
  Addends<__half> addends;
  const __half* weight;
  __half* out;
  Divider taps;
  int32_t targets, outputs, tap_chunks, chunks, tiles_m, activation;
  float alpha;
  bool transforms;
};

// ROWS x COLUMNS outputs. GROUPS groups of WM x WN warps share the depth, each with STAGES tiles of its own in flight;
// VECTOR channels per copy of the left tile.
template <int ROWS_, int COLUMNS_, int WM_, int WN_, int GROUPS_, int STAGES_, int VECTOR_>
struct Shape {
  static constexpr int ROWS = ROWS_, COLUMNS = COLUMNS_, WM = WM_, WN = WN_, GROUPS = GROUPS_, STAGES = STAGES_;
  static constexpr int VECTOR = VECTOR_, GROUP = WM * WN * 32, THREADS = GROUPS * GROUP;
  static constexpr int LEFT_STRIDE = DEPTH + PAD, RIGHT_STRIDE = COLUMNS + PAD, SUM_STRIDE = COLUMNS + PAD;
  static constexpr int LEFT = ROWS * LEFT_STRIDE, RIGHT = DEPTH * RIGHT_STRIDE;  // halves of a stage
  static constexpr int PIPELINE = STAGES * (LEFT + RIGHT);                       // halves of a group
  static constexpr int SUM = ROWS * SUM_STRIDE;                                  // floats of a group
  static constexpr int GROUP_BYTES = PIPELINE * 2 > SUM * 4 ? PIPELINE * 2 : SUM * 4;
  static constexpr int VECTORS = ROWS * COLUMNS / 8;                   // of 8 outputs
  static constexpr int RECEIVED_BYTES = (VECTORS + MAX_SPLITS) * 32;  // sums from the other blocks
  static constexpr int FIXED_BYTES = GROUPS * GROUP_BYTES + RECEIVED_BYTES + 16;  // the last 16: the inbox's barrier
  static constexpr int LEFT_VECTORS = ROWS * (DEPTH / VECTOR) / GROUP;
  static constexpr int RIGHT_VECTORS = DEPTH * (COLUMNS / 8) / GROUP;
  static constexpr int M_TILES = ROWS / WM / 16, N_TILES = COLUMNS / WN / 8;
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

// The two halves of a barrier of the cluster's threads; what was written before it is seen behind it.
__device__ inline void cluster_arrive() {
#ifdef SIGE_HOPPER
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}
__device__ inline void cluster_wait() {
#ifdef SIGE_HOPPER
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// Counts bytes that other blocks of the cluster send into this one's shared memory. Used once.
class Inbox {
 public:
  __device__ explicit Inbox(void* barrier) : barrier_(static_cast<uint32_t>(__cvta_generic_to_shared(barrier))) {}

  // By one thread, before the cluster's barrier.
  __device__ void expect(uint32_t bytes) const {
#ifdef SIGE_HOPPER
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barrier_) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier_), "r"(bytes) : "memory");
#endif
  }

  // Eight floats to where `to` is, in block `rank` of the cluster.
  __device__ void send(const float* to, uint32_t rank, const float (&x)[8]) const {
#ifdef SIGE_HOPPER
    const uint32_t local = static_cast<uint32_t>(__cvta_generic_to_shared(to));
    uint32_t address, barrier;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(local), "r"(rank));
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(barrier) : "r"(barrier_), "r"(rank));
#pragma unroll
    for (int i = 0; i < 8; i += 4)
      asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(
                       address + i * 4),
                   "f"(x[i]), "f"(x[i + 1]), "f"(x[i + 2]), "f"(x[i + 3]), "r"(barrier)
                   : "memory");
#endif
  }

  // All that was expected is there.
  __device__ void wait() const {
#ifdef SIGE_HOPPER
    uint32_t done = 0;
    while (!done)
      asm volatile(
          "{\n.reg .pred complete;\n"
          "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 complete, [%1], 0;\n"
          "selp.u32 %0, 1, 0, complete;\n}"
          : "=r"(done)
          : "r"(barrier_)
          : "memory");
#endif
  }

 private:
  uint32_t barrier_;
};

// x times its sigmoid, which is (1 + tanh(x / 2)) / 2: one special-function instruction each, exact to 2^-11.
__device__ inline __half2 silu(__half2 x) {
  const float2 h = __half22float2(__hmul2(x, __float2half2_rn(0.5f)));
  float2 t;
  asm("tanh.approx.f32 %0, %1;" : "=f"(t.x) : "f"(h.x));
  asm("tanh.approx.f32 %0, %1;" : "=f"(t.y) : "f"(h.y));
  return __floats2half2_rn(fmaf(h.x, t.x, h.x), fmaf(h.y, t.y, h.y));
}

// A group's view of its block.
template <typename S>
class Group {
  using Halves = Pack<__half2, S::VECTOR / 2>;

 public:
  __device__ Group(const Parameters& p, unsigned char* shared) : p_(p) {
    const int group = threadIdx.x / S::GROUP;
    thread_ = threadIdx.x % S::GROUP;
    tiles_ = reinterpret_cast<__half*>(shared + group * S::GROUP_BYTES);
    places_ = reinterpret_cast<const int32_t*>(shared + S::FIXED_BYTES);
    image_ = blockIdx.y / p.tiles_m;
    const int32_t first_column = blockIdx.x * S::COLUMNS;
    left_column_ = thread_ % (DEPTH / S::VECTOR) * S::VECTOR;
    right_row_ = thread_ / (S::COLUMNS / 8);
    const int right_column = thread_ % (S::COLUMNS / 8) * 8;
    right_valid_ = first_column + right_column < p.outputs;
    right_ = p.weight + (right_valid_ ? int64_t{right_row_} * p.outputs + first_column + right_column : 0);
    right_tile_ = right_row_ * S::RIGHT_STRIDE + right_column;
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
    const __half* from = right_ + int64_t{tap * p_.source.channels + channel} * p_.outputs;
    constexpr int STEP = S::GROUP / (S::COLUMNS / 8);
#pragma unroll
    for (int j = 0; j < S::RIGHT_VECTORS; ++j) {
      const bool valid = right_valid_ && j * STEP < left;
      copy_bytes<16>(valid ? from + int64_t{j * STEP} * p_.outputs : p_.weight, to + j * STEP * S::RIGHT_STRIDE, valid);
    }
  }

  __device__ void load_left(int stage, int tap, int channel) {
    const bool second = channel >= p_.source.split;
    if (const int key = 2 * tap + second; key != left_key_) {
      left_key_ = key;
#pragma unroll
      for (int j = 0; j < S::LEFT_VECTORS; ++j) {
        const int32_t place = places_[tap * S::ROWS + left_row(j)];
        left_[j] = place >= 0         ? p_.source.row(image_, place, second)
                   : place == PADDING ? nullptr
                                      : p_.source.pixel(image_, -2 - place, second);
      }
    }
    __half* to = tiles_ + stage * (S::LEFT + S::RIGHT) + left_column_;
    const int c = channel + left_column_;
#pragma unroll
    for (int j = 0; j < S::LEFT_VECTORS; ++j) {
      const bool valid = left_[j] && c < p_.source.channels;
      copy_bytes<S::VECTOR * 2>(valid ? left_[j] + c : p_.weight, to + left_row(j) * S::LEFT_STRIDE, valid);
    }
  }

  __device__ void load_affine(int channel) {
    const int c = channel + left_column_;
#pragma unroll
    for (int i = 0; i < S::VECTOR / 2; ++i) scale_.at[i] = __float2half2_rn(1.0f), shift_.at[i] = __float2half2_rn(0.0f);
    if (c >= p_.source.channels) return;
    if (p_.source.scale)
      scale_ = *reinterpret_cast<const Halves*>(p_.source.scale + image_ * p_.source.scale_stride + c);
    if (p_.source.shift)
      shift_ = *reinterpret_cast<const Halves*>(p_.source.shift + image_ * p_.source.shift_stride + c);
  }

  // Affine and activation of what this thread copied; padding and channels behind the last stay zero.
  __device__ void transform(int stage, int tap, int channel) const {
    if (channel + left_column_ >= p_.source.channels) return;
    __half* tile = tiles_ + stage * (S::LEFT + S::RIGHT) + left_column_;
#pragma unroll
    for (int j = 0; j < S::LEFT_VECTORS; ++j) {
      if (places_[tap * S::ROWS + left_row(j)] == PADDING) continue;
      Halves& vector = *reinterpret_cast<Halves*>(tile + left_row(j) * S::LEFT_STRIDE);
      Halves x = vector;
#pragma unroll
      for (int i = 0; i < S::VECTOR / 2; ++i) x.at[i] = __hfma2(x.at[i], scale_.at[i], shift_.at[i]);
      if (p_.source.activation == SIGE_SILU) {
#pragma unroll
        for (int i = 0; i < S::VECTOR / 2; ++i) x.at[i] = silu(x.at[i]);
      } else {
        float each[S::VECTOR];
#pragma unroll
        for (int i = 0; i < S::VECTOR; ++i) each[i] = __half2float(reinterpret_cast<const __half*>(x.at)[i]);
        activate<S::VECTOR>(p_.source.activation, p_.source.alpha, each);
#pragma unroll
        for (int i = 0; i < S::VECTOR / 2; ++i) x.at[i] = __floats2half2_rn(each[2 * i], each[2 * i + 1]);
      }
      vector = x;
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

  const Parameters& p_;
  __half* tiles_;
  const int32_t* places_;
  int thread_, right_tile_, right_row_, left_column_, left_key_ = -1;
  int32_t image_;
  bool right_valid_;
  const __half* right_;                    // this thread's first vector of the weight's first stage
  const __half* left_[S::LEFT_VECTORS];    // pixels that it copies for a tap and source; null for padding
  Halves scale_, shift_;
};

// places[tap][row] of the block's targets: fresh row r as r, base pixel n as -2 - n, else PADDING.
template <typename S>
__device__ void resolve(const Parameters& p, int32_t* places) {
  constexpr int BATCH = 3;  // loads in flight
  const int32_t first_row = blockIdx.y % p.tiles_m * S::ROWS;
  const int count = S::ROWS * p.taps.divisor;
  for (int start = threadIdx.x; start < count; start += BATCH * S::THREADS) {
    int32_t entry[BATCH];
    uint32_t row[BATCH], tap[BATCH];
#pragma unroll
    for (int i = 0; i < BATCH; ++i) {
      const int index = start + i * S::THREADS;
      p.taps.divide(index, row[i], tap[i]);
      entry[i] = index < count && first_row + row[i] < p.targets
                     ? p.source.entry(first_row + row[i], tap[i], p.taps.divisor)
                     : PADDING;
    }
#pragma unroll
    for (int i = 0; i < BATCH; ++i)
      if (entry[i] >= p.source.fresh) entry[i] = -2 - p.source.halo[entry[i] - p.source.fresh];
#pragma unroll
    for (int i = 0; i < BATCH; ++i)
      if (start + i * S::THREADS < count) places[tap[i] * S::ROWS + row[i]] = entry[i];
  }
}

__device__ inline void add8(const float* from, float (&x)[8]) {
  const float4 low = *reinterpret_cast<const float4*>(from), high = *reinterpret_cast<const float4*>(from + 4);
  x[0] += low.x, x[1] += low.y, x[2] += low.z, x[3] += low.w;
  x[4] += high.x, x[5] += high.y, x[6] += high.z, x[7] += high.w;
}

__device__ inline void add8(const Pack<__half, 8>& from, float (&x)[8]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) x[i] += __half2float(from.at[i]);
}

// Eight outputs of one row: what is done to their sum, loaded ahead of it.
class Epilogue {
  using Vector = Pack<__half, 8>;

 public:
  // Vector `index` of the block's tile, of COLUMNS outputs a row.
  template <typename S>
  __device__ void load(const Parameters& p, int index) {
    const int32_t row = blockIdx.y % p.tiles_m * S::ROWS + index / (S::COLUMNS / 8);
    const int32_t channel = blockIdx.x * S::COLUMNS + index % (S::COLUMNS / 8) * 8;
    const int image = blockIdx.y / p.tiles_m;
    valid_ = index < S::VECTORS && row < p.targets && channel < p.outputs;
    if (!valid_) return;
    at_ = (int64_t{image} * p.targets + row) * p.outputs + channel;
    const Addends<__half>& a = p.addends;
    if (a.bias) bias_ = *reinterpret_cast<const Vector*>(a.bias + channel);
    if (a.embedding) embedding_ = *reinterpret_cast<const Vector*>(a.embedding + image * a.embedding_stride + channel);
    if (a.multiplier) multiplier_ = *reinterpret_cast<const Vector*>(a.multiplier + at_);
    if (a.residual) residual_ = *reinterpret_cast<const Vector*>(a.residual + at_);
  }

  __device__ void store(const Parameters& p, float (&x)[8]) const {
    if (!valid_) return;
    const Addends<__half>& a = p.addends;
    if (a.bias) add8(bias_, x);
    if (a.embedding) add8(embedding_, x);
    if (a.multiplier) {
#pragma unroll
      for (int i = 0; i < 8; ++i) x[i] *= __half2float(multiplier_.at[i]);
    }
    if (a.residual) add8(residual_, x);
    activate<8>(p.activation, p.alpha, x);
    Vector result;
#pragma unroll
    for (int i = 0; i < 8; ++i) result.at[i] = __float2half_rn(x[i]);
    *reinterpret_cast<Vector*>(p.out + at_) = result;
  }

 private:
  bool valid_;
  int64_t at_;
  Vector bias_, embedding_, multiplier_, residual_;
};

// Which of a tile's vectors a block of the cluster finishes: `share` from rank * share on.
template <typename S>
__device__ int share_of(int blocks) {
  return (S::VECTORS + blocks - 1) / blocks;
}

// Adds up the parts of groups, then of blocks: each block of a cluster sends every other one the sums that it finishes.
template <typename S>
__device__ void finish(const Parameters& p, unsigned char* shared, const Inbox& inbox) {
  const int blocks = gridDim.z, rank = blockIdx.z, share = share_of<S>(blocks);
  float* const received = reinterpret_cast<float*>(shared + S::GROUPS * S::GROUP_BYTES);
  Epilogue epilogue;
  if (blocks > 1 && threadIdx.x < share) epilogue.load<S>(p, rank * share + threadIdx.x);
  __syncthreads();
  if (blocks > 1) cluster_wait();  // all have started, and expect
  for (int i = threadIdx.x; i < S::VECTORS; i += S::THREADS) {
    if (blocks == 1) epilogue.load<S>(p, i);
    const float* tile = reinterpret_cast<const float*>(shared) + i / (S::COLUMNS / 8) * S::SUM_STRIDE +
                        i % (S::COLUMNS / 8) * 8;
    float x[8] = {};
#pragma unroll
    for (int group = 0; group < S::GROUPS; ++group) add8(tile + group * (S::GROUP_BYTES / 4), x);
    if (blocks == 1) {
      epilogue.store(p, x);
    } else {
      inbox.send(received + (rank * share + i % share) * 8, i / share, x);
    }
  }
  if (blocks == 1) return;
  for (int i = threadIdx.x; i < share; i += S::THREADS) {
    if (i >= S::THREADS) epilogue.load<S>(p, rank * share + i);
    inbox.wait();
    float x[8] = {};
#pragma unroll 4
    for (int part = 0; part < blocks; ++part) add8(received + (part * share + i) * 8, x);
    epilogue.store(p, x);
  }
}

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
  const Inbox inbox(shared + S::GROUPS * S::GROUP_BYTES + S::RECEIVED_BYTES);
  if (gridDim.z > 1) {
    const int share = share_of<S>(gridDim.z), left = S::VECTORS - static_cast<int>(blockIdx.z) * share;
    if (threadIdx.x == 0) inbox.expect((left < 0 ? 0 : left < share ? left : share) * gridDim.z * 8 * sizeof(float));
    cluster_arrive();
  }
  Group<S> group(p, shared);
  const int parts = gridDim.z * S::GROUPS, part = blockIdx.z * S::GROUPS + threadIdx.x / S::GROUP;
  const int first = int64_t{p.chunks} * part / parts, last = int64_t{p.chunks} * (part + 1) / parts;
  Chunk ahead(first, p.tap_chunks), now = ahead;
  {
    Chunk chunk = ahead;
#pragma unroll
    for (int stage = 0; stage < S::STAGES - 1; ++stage) {
      if (first + stage < last) group.load_right(stage, chunk.tap, chunk.channel);
      chunk.next(p.source.channels);
    }
  }
  resolve<S>(p, reinterpret_cast<int32_t*>(shared + S::FIXED_BYTES));
  release_successor();
  __syncthreads();
  wait_for_predecessor();
#pragma unroll
  for (int stage = 0; stage < S::STAGES - 1; ++stage) {
    if (first + stage < last) group.load_left(stage, ahead.tap, ahead.channel);
    copies_commit();
    ahead.next(p.source.channels);
  }
  if (p.transforms) group.load_affine(now.channel);

  float sums[S::M_TILES][S::N_TILES][4] = {};
  int stage = 0, stage_ahead = S::STAGES - 1;
  for (int i = first; i < last; ++i) {
    copies_wait<S::STAGES - 2>();
    if (p.transforms) {
      group.transform(stage, now.tap, now.channel);
      now.next(p.source.channels);
      if (i + 1 < last) group.load_affine(now.channel);
    }
    group.sync();  // the stage is complete, and the one before is free again
    if (i + S::STAGES - 1 < last) {
      group.load_right(stage_ahead, ahead.tap, ahead.channel);
      group.load_left(stage_ahead, ahead.tap, ahead.channel);
      ahead.next(p.source.channels);
    }
    copies_commit();
    group.multiply(stage, sums);
    stage = stage + 1 == S::STAGES ? 0 : stage + 1;
    stage_ahead = stage_ahead + 1 == S::STAGES ? 0 : stage_ahead + 1;
  }
  copies_wait<0>();
  group.sync();
  group.store_sums(sums);
  finish<S>(p, shared, inbox);
#endif
}

template <typename S>
sige_status launch(const sige_conv_args& a, cudaStream_t stream) {
  const sige_source& s = a.source;
  const int64_t tiles_m = (s.targets + S::ROWS - 1) / S::ROWS, tiles_n = (a.outputs + S::COLUMNS - 1) / S::COLUMNS;
  const int64_t tap_chunks = (s.channels + DEPTH - 1) / DEPTH, chunks = tap_chunks * s.taps;
  const int64_t tiles = tiles_m * tiles_n * s.batch;
  int64_t splits = TARGET_BLOCKS / tiles;
  if (splits > MAX_SPLITS) splits = MAX_SPLITS;
  // As few parts as come to an end at the same time.
  if (splits < 1) splits = 1;
  const int64_t each = (chunks + splits * S::GROUPS - 1) / (splits * S::GROUPS);
  splits = (chunks + each * S::GROUPS - 1) / (each * S::GROUPS);
  if (tiles_m * s.batch > 65535) return SIGE_UNSUPPORTED;

  const Parameters parameters{Source<__half>(s),
                              Addends<__half>(a),
                              static_cast<const __half*>(a.weight),
                              static_cast<__half*>(a.out),
                              Divider(s.taps),
                              s.targets,
                              a.outputs,
                              static_cast<int32_t>(tap_chunks),
                              static_cast<int32_t>(chunks),
                              static_cast<int32_t>(tiles_m),
                              a.activation,
                              a.alpha,
                              transforms(s)};
  const size_t shared = S::FIXED_BYTES + sizeof(int32_t) * S::ROWS * s.taps;
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
  if (a.source.targets <= 16) return launch<Shape<16, 64, 1, 4, 4, 2, VECTOR>>(a, stream);
  return launch<Shape<32, 64, 2, 2, 4, 2, VECTOR>>(a, stream);
}

}  // namespace

bool runs_on_mma(const sige_conv_args& a) {
  const sige_source& s = a.source;
  const int64_t rows = s.targets <= 16 ? 16 : 32, tiles = s.batch * ((s.targets + rows - 1) / rows) * ((a.outputs + 63) / 64);
  return s.dtype == SIGE_FLOAT16 && a.group == 1 && s.channels % 4 == 0 && a.outputs % 8 == 0 && s.taps <= MAX_TAPS &&
         aligned16(s) && (!s.channels_2 || (s.channels - s.channels_2) % DEPTH == 0) &&
         tiles * s.taps * ((s.channels + DEPTH - 1) / DEPTH) <= MAX_WORK;
}

sige_status launch_conv_mma(const sige_conv_args& a, cudaStream_t stream) {
  return a.source.channels % 8 ? launch_shape<4>(a, stream) : launch_shape<8>(a, stream);
}

}  // namespace sige::cuda
