// Attention in float16 on tensor cores: one warp per 16 queries; queries, scores and weights stay in registers.
//
// The tiling is FlashAttention-2's (Dao, arXiv 2307.08691) with keys and values from two places; the softmax is online
// (Milakov and Gimelshein, arXiv 1805.02867).
#include "attention_finish.cuh"

namespace sige::cuda {

namespace {

constexpr int MMA_THREADS = MMA_QUERIES * 2;
constexpr int SOON_KEYS = 128;  // whose way into the L2 cache starts first of all

// Heads padded to D_ channels: KEYS keys per tile, STAGES tiles in flight; all fits into 64 KiB.
template <int D_>
struct Tiling {
  static constexpr int D = D_, LEADING = D + PAD;
  static constexpr int KEYS = D <= 64 ? 64 : 32;
  static constexpr int STAGES = D <= 64 ? 3 : D <= 80 ? 4 : D <= 128 ? 3 : 2;
  static constexpr int STAGE = 2 * KEYS * LEADING;  // halves
  static constexpr size_t TILES = STAGES * STAGE * sizeof(__half);
  static constexpr size_t SHARED = TILES + SEGMENT * sizeof(int32_t) + MMA_QUERIES * sizeof(float2);
  static_assert(MMA_QUERIES * LEADING <= STAGE, "the queries pass through the memory of the last stage");
  static_assert(MMA_QUERIES * LEADING * sizeof(float) <= TILES, "the sums end in the memory of the tiles");
  static_assert(SEGMENT % KEYS == 0 && SHARED <= 65536 && D % 16 == 0);
};

// A row of `width` halves into shared memory, zeros behind them up to D; `from` may be null. LANES threads share it.
template <int D, int LANES>
__device__ void load_row(int32_t width, bool wide, const __half* from, const __half* any, __half* to) {
  constexpr int VECTORS = D / 8;
  const int lane = threadIdx.x % LANES;
  if (wide) {
#pragma unroll
    for (int j = 0; j < (VECTORS + LANES - 1) / LANES; ++j) {
      const int c = (j * LANES + lane) * 8;
      if (VECTORS % LANES && c >= D) break;
      const bool valid = from && c < width;
      copy_vector(valid ? from + c : any, to + c, valid);
    }
  } else {
#pragma unroll 1
    for (int c = lane; c < D; c += LANES) to[c] = from && c < width ? from[c] : __half(0.0f);
  }
}

template <typename S>
__global__ void __launch_bounds__(MMA_THREADS) attention_mma_kernel(const __grid_constant__ AttentionParameters p) {
  constexpr int D = S::D, KEYS = S::KEYS, LEADING = S::LEADING;
  extern __shared__ __align__(16) unsigned char shared[];
  __half* const tiles = reinterpret_cast<__half*>(shared);
  int32_t* const overlay = reinterpret_cast<int32_t*>(shared + S::TILES);
  float2* const states = reinterpret_cast<float2*>(overlay + SEGMENT);

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, lane_row = lane / 4, lane_column = lane % 4 * 2;
  const int32_t first_query = blockIdx.x * MMA_QUERIES;
  const Head<__half> head(p, blockIdx.y);
  const Range range = keys_of<KEYS>(p);
  const int32_t soon = range.last - range.first < SOON_KEYS ? range.last : range.first + SOON_KEYS;
  prefetch_rows(range.first, soon, p.dk, [&](int32_t n) { return head.key(n, -1); });
  prefetch_rows(range.first, soon, p.dv, [&](int32_t n) { return head.value(n, -1); });
  release_successor();

  uint32_t query[D / 16][4];
  float sums[D / 8][4] = {};  // rows lane_row and lane_row + 8, columns lane_column and + 1
  float maximum[2] = {-INFINITY, -INFINITY}, total[2] = {};

  for (int32_t first = range.first; first < range.last; first += SEGMENT) {
    const int32_t last = range.last - first < SEGMENT ? range.last : first + SEGMENT;
    const int32_t count = (last - first + KEYS - 1) / KEYS;
    const auto load = [&](int32_t t) {  // called in one place, since its code is long
      constexpr int LANES = MMA_THREADS / KEYS;
      const int row = threadIdx.x / LANES, at = t * KEYS + row;
      const bool real = first + at < last;
      const int32_t fresh = real ? overlay[at] : -1;
      __half* const to = tiles + t % S::STAGES * S::STAGE + row * LEADING;
      load_row<D, LANES>(p.dk, p.wide_k, real ? head.key(first + at, fresh) : nullptr, head.base_keys, to);
      load_row<D, LANES>(p.dv, p.wide_v, real ? head.value(first + at, fresh) : nullptr, head.base_values,
                         to + KEYS * LEADING);
    };

    if (first > range.first) __syncthreads();  // the segment before is done
    fill_overlay(p, first, last, overlay);
    if (first == range.first) {
      wait_for_predecessor();
      const int row = threadIdx.x / 2;
      const __half* const from = first_query + row < p.fresh ? head.query(first_query + row) : nullptr;
      load_row<D, 2>(p.dk, p.wide_k, from, head.queries, tiles + (S::STAGES - 1) * S::STAGE + row * LEADING);
      copies_commit();
    }

    for (int32_t t = 1 - S::STAGES; t < count; ++t) {
      if (t >= 0) {
        copies_wait<S::STAGES - 2>();
        __syncthreads();  // the tile is complete, and the one before is free again
      }
      if (t == 0 && first == range.first) {
        const __half* at = tiles + (S::STAGES - 1) * S::STAGE + (warp * 16 + lane % 16) * LEADING + lane / 16 * 8;
#pragma unroll
        for (int j = 0; j < D / 16; ++j) load_matrices(at + j * 16, query[j]);
        __syncthreads();  // the last stage is free for a tile
      }
      if (t + S::STAGES - 1 < count) load(t + S::STAGES - 1);
      copies_commit();
      if (t < 0 || first_query + warp * 16 >= p.fresh) continue;  // or none of this warp's queries exists
      const __half* const keys = tiles + t % S::STAGES * S::STAGE;
      const __half* const values = keys + KEYS * LEADING;

      float scores[KEYS / 8][4] = {};
#pragma unroll
      for (int j = 0; j < D / 16; ++j) {
#pragma unroll
        for (int n = 0; n < KEYS / 8; n += 2) {  // inside: products in a row do not wait for each other
          uint32_t right[4];
          load_matrices(keys + (n * 8 + lane / 16 * 8 + lane % 8) * LEADING + j * 16 + lane / 8 % 2 * 8, right);
          mma(scores[n], query[j], right[0], right[1]);
          mma(scores[n + 1], query[j], right[2], right[3]);
        }
      }

      const int32_t left = last - first - t * KEYS;  // keys, of which there may be fewer than a tile
      float top[2] = {maximum[0], maximum[1]};
#pragma unroll
      for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          scores[n][i] = left >= KEYS || n * 8 + lane_column + i % 2 < left ? scores[n][i] * p.scale : -INFINITY;
          top[i / 2] = fmaxf(top[i / 2], scores[n][i]);
        }
      float shrink[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        top[i] = fmaxf(top[i], __shfl_xor_sync(0xffffffff, top[i], 1));
        top[i] = fmaxf(top[i], __shfl_xor_sync(0xffffffff, top[i], 2));
        shrink[i] = power2(maximum[i] - top[i]);
        maximum[i] = top[i];
        total[i] *= shrink[i];
      }
#pragma unroll
      for (int d = 0; d < D / 8; ++d)
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[d][i] *= shrink[i / 2];
#pragma unroll
      for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          scores[n][i] = power2(scores[n][i] - maximum[i / 2]);
          total[i / 2] += scores[n][i];
        }

#pragma unroll
      for (int j = 0; j < KEYS / 16; ++j) {
        const uint32_t weights[4] = {
            to_halves(scores[2 * j][0], scores[2 * j][1]), to_halves(scores[2 * j][2], scores[2 * j][3]),
            to_halves(scores[2 * j + 1][0], scores[2 * j + 1][1]),
            to_halves(scores[2 * j + 1][2], scores[2 * j + 1][3])};
#pragma unroll
        for (int d = 0; d < D / 8; d += 2) {
          uint32_t right[4];
          load_matrices_transposed(values + (j * 16 + lane % 16) * LEADING + d * 8 + lane / 16 * 8, right);
          mma(sums[d], weights, right[0], right[1]);
          mma(sums[d + 1], weights, right[2], right[3]);
        }
      }
    }
  }

  __syncthreads();  // the memory of the tiles takes the sums
  float* const block_sums = reinterpret_cast<float*>(shared);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    total[i] += __shfl_xor_sync(0xffffffff, total[i], 1);
    total[i] += __shfl_xor_sync(0xffffffff, total[i], 2);
    const int row = warp * 16 + lane_row + i * 8;
    if (lane % 4 == 0) states[row] = make_float2(maximum[i], total[i]);
#pragma unroll
    for (int d = 0; d < D / 8; ++d)
      *reinterpret_cast<float2*>(block_sums + row * LEADING + d * 8 + lane_column) =
          make_float2(sums[d][i * 2], sums[d][i * 2 + 1]);
  }
  const int32_t rows = p.fresh - first_query < MMA_QUERIES ? p.fresh - first_query : MMA_QUERIES;
  finish(p, head, blockIdx.y, first_query, rows, 0, p.dv, block_sums, LEADING, states);
}

template <int D>
sige_status launch(const AttentionParameters& p, const Machine& machine, cudaStream_t stream) {
  const dim3 grid((p.fresh + MMA_QUERIES - 1) / MMA_QUERIES, p.batch * p.heads, p.splits);
  return launch_tensor_cores(attention_mma_kernel<Tiling<D>>, p, machine, grid, MMA_THREADS, Tiling<D>::SHARED, stream);
}

}  // namespace

int32_t mma_key_tile(int32_t widest) { return widest <= 64 ? Tiling<64>::KEYS : Tiling<160>::KEYS; }

sige_status launch_attention_mma(const AttentionParameters& p, const Machine& machine, cudaStream_t stream) {
  const int32_t widest = p.dk > p.dv ? p.dk : p.dv;
  if (widest <= 32) return launch<32>(p, machine, stream);
  if (widest <= 48) return launch<48>(p, machine, stream);
  if (widest <= 64) return launch<64>(p, machine, stream);
  if (widest <= 80) return launch<80>(p, machine, stream);
  if (widest <= 128) return launch<128>(p, machine, stream);
  return launch<MAX_MMA_HEAD>(p, machine, stream);
}

}  // namespace sige::cuda
