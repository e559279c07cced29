// Attention in float16 on tensor cores: one warp per 16 queries, scores and weights stay in registers.
//
// The tiling is FlashAttention-2's (Dao, arXiv 2307.08691) with keys and values from two places; the softmax is online
// (Milakov and Gimelshein, arXiv 1805.02867).
#include "attention.cuh"
#include "mma.cuh"

namespace sige::cuda {

constexpr int PAD = 8;  // halves behind each row of a tile in shared memory, against bank conflicts

__device__ inline uint32_t pair(float low, float high) {
  const __half2 both = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&both);
}

// ROWS rows of `width` halves into shared memory, zeros behind them up to D. row_of(i) is row i's address or null; the
// loads of a thread are independent, so that all are in flight at once.
template <int D, int ROWS, typename RowOf>
__device__ void load_rows(int32_t width, bool wide, __half* to, const __half* any, const RowOf& row_of) {
  constexpr int VECTORS = D / 8;
  if (wide) {
#pragma unroll
    for (int i = threadIdx.x; i < ROWS * VECTORS; i += ATTENTION_THREADS) {
      const int row = i / VECTORS, column = i % VECTORS * 8;
      const __half* from = row_of(row);
      const bool valid = from && column < width;
      copy_vector(valid ? from + column : any, to + row * (D + PAD) + column, valid);
    }
  } else {
    for (int i = threadIdx.x; i < ROWS * D; i += ATTENTION_THREADS) {
      const __half* from = row_of(i / D);
      to[i / D * (D + PAD) + i % D] = from && i % D < width ? from[i % D] : __half(0.0f);
    }
  }
}

template <int D, int KEYS>
__global__ void __launch_bounds__(ATTENTION_THREADS) attention_mma_kernel(const __grid_constant__ AttentionParameters p) {
  constexpr int LEADING = D + PAD;
  __shared__ __align__(16) __half tile[2 * KEYS * LEADING];
  __shared__ int32_t overlay[KEYS];
  __shared__ int32_t next;
  __half* const keys = tile;
  __half* const values = tile + KEYS * LEADING;

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, lane_row = lane / 4, lane_column = lane % 4 * 2;
  const int32_t h = blockIdx.y % p.heads, b = blockIdx.y / p.heads, split = blockIdx.z;
  const int32_t first_query = blockIdx.x * MMA_QUERIES;
  const int64_t key_channels = int64_t{p.heads} * p.dk, value_channels = int64_t{p.heads} * p.dv;
  const __half* const fresh_keys = static_cast<const __half*>(p.k) + b * p.fresh * key_channels + h * p.dk;
  const __half* const base_keys = static_cast<const __half*>(p.k_base) + b * p.pixels * key_channels + h * p.dk;
  const __half* const fresh_values = static_cast<const __half*>(p.v) + b * p.fresh * value_channels + h * p.dv;
  const __half* const base_values = static_cast<const __half*>(p.v_base) + b * p.pixels * value_channels + h * p.dv;

  const __half* const queries = static_cast<const __half*>(p.q) + b * p.fresh * key_channels + h * p.dk;

  // Queries pass through the memory of the tile (KEYS rows at a time) into registers.
  uint32_t query[D / 16][4];
  for (int first = 0; first < MMA_QUERIES; first += KEYS) {
    load_rows<D, KEYS>(p.dk, p.wide_k, keys, queries, [&](int i) {
      const int32_t row = first_query + first + i;
      return row < p.fresh ? queries + row * key_channels : nullptr;
    });
    copies_commit();
    copies_wait<0>();
    __syncthreads();
    const int mine = warp * 16 - first;
    if (mine >= 0 && mine < KEYS) {
#pragma unroll
      for (int j = 0; j < D / 16; ++j) {
        const __half* at = keys + (mine + lane_row) * LEADING + j * 16 + lane_column;
        query[j][0] = *reinterpret_cast<const uint32_t*>(at);
        query[j][1] = *reinterpret_cast<const uint32_t*>(at + 8 * LEADING);
        query[j][2] = *reinterpret_cast<const uint32_t*>(at + 8);
        query[j][3] = *reinterpret_cast<const uint32_t*>(at + 8 * LEADING + 8);
      }
    }
    __syncthreads();
  }

  float sums[D / 8][4] = {};                        // rows lane_row and lane_row + 8, columns lane_column and + 1
  float maximum[2] = {-INFINITY, -INFINITY}, total[2] = {};
  int32_t first_tile, last_tile;
  tiles_of(p, split, KEYS, first_tile, last_tile);
  int32_t cursor = lower_bound(p.active, p.fresh, first_tile * KEYS);

  for (int32_t t = first_tile; t < last_tile; ++t) {
    const int32_t first_key = t * KEYS;
    overlay_tile<KEYS>(p, first_key, overlay, cursor, next);
    load_rows<D, KEYS>(p.dk, p.wide_k, keys, base_keys, [&](int i) {
      const int32_t n = first_key + i, fresh = overlay[i];
      const __half* from = fresh >= 0 ? fresh_keys + fresh * key_channels : base_keys + n * key_channels;
      return n < p.pixels ? from : nullptr;
    });
    load_rows<D, KEYS>(p.dv, p.wide_v, values, base_values, [&](int i) {
      const int32_t n = first_key + i, fresh = overlay[i];
      const __half* from = fresh >= 0 ? fresh_values + fresh * value_channels : base_values + n * value_channels;
      return n < p.pixels ? from : nullptr;
    });
    copies_commit();
    copies_wait<0>();
    __syncthreads();

    float scores[KEYS / 8][4] = {};
#pragma unroll
    for (int j = 0; j < D / 16; ++j) {
#pragma unroll
      for (int n = 0; n < KEYS / 8; ++n) {  // inside: products in a row do not wait for each other
        const __half* at = keys + (n * 8 + lane_row) * LEADING + j * 16 + lane_column;
        mma(scores[n], query[j], *reinterpret_cast<const uint32_t*>(at), *reinterpret_cast<const uint32_t*>(at + 8));
      }
    }

    float top[2] = {maximum[0], maximum[1]};
#pragma unroll
    for (int n = 0; n < KEYS / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const bool valid = first_key + n * 8 + lane_column + i % 2 < p.pixels;
        scores[n][i] = valid ? scores[n][i] * p.scale : -INFINITY;
        top[i / 2] = fmaxf(top[i / 2], scores[n][i]);
      }
    }
    float shrink[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      top[i] = fmaxf(top[i], __shfl_xor_sync(0xffffffff, top[i], 1));
      top[i] = fmaxf(top[i], __shfl_xor_sync(0xffffffff, top[i], 2));
      shrink[i] = exp2f(maximum[i] - top[i]);
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
        scores[n][i] = exp2f(scores[n][i] - maximum[i / 2]);
        total[i / 2] += scores[n][i];
      }

#pragma unroll
    for (int j = 0; j < KEYS / 16; ++j) {
      const uint32_t weights[4] = {pair(scores[2 * j][0], scores[2 * j][1]), pair(scores[2 * j][2], scores[2 * j][3]),
                                   pair(scores[2 * j + 1][0], scores[2 * j + 1][1]),
                                   pair(scores[2 * j + 1][2], scores[2 * j + 1][3])};
#pragma unroll
      for (int d = 0; d < D / 8; d += 2) {
        uint32_t right[4];
        load_matrices_transposed(values + (j * 16 + lane % 16) * LEADING + d * 8 + lane / 16 * 8, right);
        mma(sums[d], weights, right[0], right[1]);
        mma(sums[d + 1], weights, right[2], right[3]);
      }
    }
    __syncthreads();  // the tile is overwritten next
  }

#pragma unroll
  for (int i = 0; i < 2; ++i) {
    total[i] += __shfl_xor_sync(0xffffffff, total[i], 1);
    total[i] += __shfl_xor_sync(0xffffffff, total[i], 2);
    const int32_t row = first_query + warp * 16 + lane_row + i * 8;
    if (row >= p.fresh) continue;
    const int64_t slot = (int64_t{split} * gridDim.y + blockIdx.y) * p.fresh + row;
    __half* out = static_cast<__half*>(p.out) + (int64_t{b} * p.fresh + row) * value_channels + h * p.dv;
    if (p.partial && lane % 4 == 0) p.partial_state[slot] = make_float2(maximum[i], total[i]);
#pragma unroll
    for (int d = 0; d < D / 8; ++d)
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int32_t column = d * 8 + lane_column + j;
        if (column >= p.dv) continue;
        if (p.partial) {
          p.partial[slot * p.dv + column] = sums[d][i * 2 + j];
        } else {
          out[column] = __float2half_rn(sums[d][i * 2 + j] / total[i]);
        }
      }
  }
}

template <int D>
static sige_status launch(const AttentionParameters& p, int32_t batch, cudaStream_t stream) {
  constexpr int KEYS = D <= 160 ? MMA_KEYS : 32;  // both tiles fit into 48 KiB
  const dim3 grid((p.fresh + MMA_QUERIES - 1) / MMA_QUERIES, batch * p.heads, p.splits);
  attention_mma_kernel<D, KEYS><<<grid, ATTENTION_THREADS, 0, stream>>>(p);
  return launched();
}

sige_status launch_attention_mma(const AttentionParameters& p, int32_t batch, cudaStream_t stream) {
  const int32_t widest = p.dk > p.dv ? p.dk : p.dv;
  if (widest <= 32) return launch<32>(p, batch, stream);
  if (widest <= 48) return launch<48>(p, batch, stream);
  if (widest <= 64) return launch<64>(p, batch, stream);
  if (widest <= 80) return launch<80>(p, batch, stream);
  if (widest <= 128) return launch<128>(p, batch, stream);
  if (widest <= 160) return launch<160>(p, batch, stream);
  if (widest <= MAX_MMA_HEAD) return launch<256>(p, batch, stream);
  return SIGE_UNSUPPORTED;
}

}  // namespace sige::cuda
