// Attention in float16 on tensor cores for wide heads or few queries: the warps of a block share its 16 or 32 queries.
//
// For the scores of a tile each warp takes 8 keys and half of the channels, for the sums 16 channels of the values; in
// between, scores and weights lie in shared memory. Heads whose values have more than WIDE_SLICE channels are cut into
// slices, one block each, which compute the scores anew. The softmax is online (Milakov and Gimelshein,
// arXiv 1805.02867).
#include "attention_finish.cuh"

namespace sige::cuda {

namespace {

constexpr int WARPS = 8;
constexpr int STEP = 32;  // channels of two products, loaded at once: heads are padded to a multiple
constexpr int VALUE_LEADING = WIDE_SLICE + PAD;
constexpr int SCORE_LEADING = WIDE_KEYS + PAD;
static_assert(WIDE_KEYS == 32, "a lane per key");
static_assert(WIDE_KEYS / 8 * 2 == WARPS && WIDE_SLICE / 16 == WARPS);

__host__ __device__ inline int32_t padded(int32_t dk) { return (dk + STEP - 1) / STEP * STEP; }
__host__ __device__ inline int32_t stage_halves(int32_t leading) { return WIDE_KEYS * (leading + VALUE_LEADING); }

// Bytes of the tiles' memory, which takes the sums in the end.
__host__ __device__ inline int32_t tile_bytes(int32_t leading, int32_t queries, int32_t stages) {
  const int32_t tiles = stages * stage_halves(leading) * 2, sums = queries * VALUE_LEADING * 4;
  return tiles > sums ? tiles : sums;
}

size_t shared_bytes(int32_t dk, int32_t queries, int32_t stages) {
  const int32_t leading = padded(dk) + PAD;
  return tile_bytes(leading, queries, stages) + queries * leading * sizeof(__half) +
         2 * queries * SCORE_LEADING * sizeof(float) + queries * SCORE_LEADING * sizeof(__half) +
         queries * (sizeof(float2) + sizeof(float)) + SEGMENT * sizeof(int32_t);
}

// COUNT rows of `width` halves into shared memory, zeros behind them up to `padded_width`; LANES lanes per row.
// row_of(i) is row i's address or null.
template <int LANES, int COUNT, typename RowOf>
__device__ void load_rows(int32_t width, int32_t padded_width, bool wide, __half* to, int32_t leading,
                          const __half* any, const RowOf& row_of) {
  constexpr int AT_ONCE = WARPS * 32 / LANES;
  static_assert(COUNT % AT_ONCE == 0);
  const int lane = threadIdx.x % LANES, first = threadIdx.x / LANES;
  if (wide) {
#pragma unroll
    for (int i = 0; i < COUNT; i += AT_ONCE) {
      const __half* const from = row_of(first + i);
#pragma unroll 1
      for (int c = lane * 8; c < padded_width; c += LANES * 8) {
        const bool valid = from && c < width;
        copy_vector(valid ? from + c : any, to + (first + i) * leading + c, valid);
      }
    }
  } else {
#pragma unroll 1
    for (int i = first; i < COUNT; i += AT_ONCE) {
      const __half* const from = row_of(i);
#pragma unroll 1
      for (int c = lane; c < padded_width; c += LANES)
        to[i * leading + c] = from && c < width ? from[c] : __half(0.0f);
    }
  }
}

template <int M>  // times 16 queries
__global__ void __launch_bounds__(WARPS * 32, 2)
    attention_wide_kernel(const __grid_constant__ AttentionParameters p) {
  constexpr int QUERIES = M * 16;
  const int32_t stages = p.stages, ahead = stages - 1;
  const int32_t depth = padded(p.dk), leading = depth + PAD;
  extern __shared__ __align__(16) unsigned char shared[];
  __half* const tiles = reinterpret_cast<__half*>(shared);
  __half* const queries = reinterpret_cast<__half*>(shared + tile_bytes(leading, QUERIES, stages));
  float* const scores = reinterpret_cast<float*>(queries + QUERIES * leading);  // [half of the channels][query][key]
  __half* const weights = reinterpret_cast<__half*>(scores + 2 * QUERIES * SCORE_LEADING);  // [query][key]
  float2* const states = reinterpret_cast<float2*>(weights + QUERIES * SCORE_LEADING);
  float* const shrinks = reinterpret_cast<float*>(states + QUERIES);
  int32_t* const overlay = reinterpret_cast<int32_t*>(shrinks + QUERIES);

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, lane_row = lane / 4, lane_column = lane % 4 * 2;
  const int key_tile = warp % 4 * 8, half = warp / 4;
  const int32_t first_query = blockIdx.x * QUERIES;
  const int32_t head_index = blockIdx.y / p.slices, first_column = blockIdx.y % p.slices * p.slice;
  const int32_t columns = p.dv - first_column < p.slice ? p.dv - first_column : p.slice;
  const Head<__half> head(p, head_index);
  const Range range = keys_of<WIDE_KEYS>(p);
  prefetch_base(p, head, head_index, range);
  release_successor();

  float sums[M][2][4] = {};                   // 16 queries, 2 tiles of 8 channels of the values
  float maximum[2 * M], total[2 * M] = {};    // of queries warp, warp + 8, ...; `total` of this lane's keys
#pragma unroll
  for (int i = 0; i < 2 * M; ++i) maximum[i] = -INFINITY;
  const int32_t steps = depth / STEP, middle = (steps + 1) / 2;
  const int32_t first_step = half ? middle : 0, last_step = half ? steps : middle;

  for (int32_t first = range.first; first < range.last; first += SEGMENT) {
    const int32_t last = range.last - first < SEGMENT ? range.last : first + SEGMENT;
    const int32_t count = (last - first + WIDE_KEYS - 1) / WIDE_KEYS;
    // Two groups of copies: the keys, the values; empty ones behind the last tile. Called in one place, since its code
    // is long.
    const auto load = [&](int32_t t) {
      __half* const to = tiles + (t & ahead) * stage_halves(leading);
      if (t < count) load_rows<32, WIDE_KEYS>(p.dk, depth, p.wide_k, to, leading, head.base_keys, [&](int i) {
        const int32_t at = t * WIDE_KEYS + i;
        return first + at < last ? head.key(first + at, overlay[at]) : nullptr;
      });
      copies_commit();
      if (t < count) load_rows<16, WIDE_KEYS>(columns, WIDE_SLICE, p.wide_v, to + WIDE_KEYS * leading, VALUE_LEADING,
                               head.base_values, [&](int i) {
        const int32_t at = t * WIDE_KEYS + i;
        return first + at < last ? head.value(first + at, overlay[at]) + first_column : nullptr;
      });
      copies_commit();
    };

    if (first > range.first) __syncthreads();  // the segment before is done
    fill_overlay(p, first, last, overlay);
    if (first == range.first) {
      wait_for_predecessor();
      load_rows<32, QUERIES>(p.dk, depth, p.wide_k, queries, leading, head.queries, [&](int i) {
        return first_query + i < p.fresh ? head.query(first_query + i) : nullptr;
      });
    }

    for (int32_t t = -ahead; t < count; ++t) {
      if (t > 0) __syncthreads();  // the tile before is done
      load(t + ahead);
      if (t < 0) continue;
      const __half* const keys = tiles + (t & ahead) * stage_halves(leading);
      const __half* const values = keys + WIDE_KEYS * leading;
      if (ahead) {
        copies_wait<3>();
      } else {
        copies_wait<1>();
      }
      __syncthreads();  // the keys are there

      float products[M][2][4] = {};
      const __half* const left = queries + lane % 16 * leading + lane / 16 * 8;
      const __half* const right = keys + (key_tile + lane % 8) * leading + lane / 8 * 8;
#pragma unroll 4
      for (int32_t s = first_step; s < last_step; ++s) {
        uint32_t b[4];
        load_matrices(right + s * STEP, b);
#pragma unroll
        for (int k = 0; k < 2; ++k)
#pragma unroll
          for (int m = 0; m < M; ++m) {
            uint32_t a[4];
            load_matrices(left + m * 16 * leading + s * STEP + k * 16, a);
            mma(products[m][k], a, b[k * 2], b[k * 2 + 1]);
          }
      }
#pragma unroll
      for (int m = 0; m < M; ++m)
#pragma unroll
        for (int i = 0; i < 4; i += 2)
          *reinterpret_cast<float2*>(scores + (half * QUERIES + m * 16 + lane_row + i * 4) * SCORE_LEADING + key_tile +
                                     lane_column) =
              make_float2(products[m][0][i] + products[m][1][i], products[m][0][i + 1] + products[m][1][i + 1]);
      __syncthreads();

      const bool valid = first + t * WIDE_KEYS + lane < last;
#pragma unroll
      for (int i = 0; i < 2 * M; ++i) {
        const int row = warp + i * WARPS;
        const float* const at = scores + row * SCORE_LEADING + lane;
        const float score = valid ? (at[0] + at[QUERIES * SCORE_LEADING]) * p.scale : -INFINITY;
        float top = score;
#pragma unroll
        for (int step = 16; step > 0; step /= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffff, top, step));
        top = fmaxf(top, maximum[i]);
        const float shrink = power2(maximum[i] - top), weight = power2(score - top);
        maximum[i] = top;
        total[i] = total[i] * shrink + weight;
        weights[row * SCORE_LEADING + lane] = __float2half_rn(weight);
        if (lane == 0) shrinks[row] = shrink;
      }
      if (ahead) {
        copies_wait<2>();
      } else {
        copies_wait<0>();
      }
      __syncthreads();  // the weights and the values are there

      if (warp * 16 < columns) {
#pragma unroll
        for (int m = 0; m < M; ++m) {
          const float shrink[2] = {shrinks[m * 16 + lane_row], shrinks[m * 16 + lane_row + 8]};
#pragma unroll
          for (int n = 0; n < 2; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) sums[m][n][i] *= shrink[i / 2];
        }
#pragma unroll
        for (int k = 0; k < WIDE_KEYS; k += 16) {
          uint32_t b[4];
          load_matrices_transposed(values + (k + lane % 16) * VALUE_LEADING + warp * 16 + lane / 16 * 8, b);
#pragma unroll
          for (int m = 0; m < M; ++m) {
            uint32_t a[4];
            load_matrices(weights + (m * 16 + lane % 16) * SCORE_LEADING + k + lane / 16 * 8, a);
            mma(sums[m][0], a, b[0], b[1]);
            mma(sums[m][1], a, b[2], b[3]);
          }
        }
      }
    }
  }

  __syncthreads();  // the memory of the tiles takes the sums
  float* const block_sums = reinterpret_cast<float*>(shared);
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int i = 0; i < 4; i += 2)
        *reinterpret_cast<float2*>(block_sums + (m * 16 + lane_row + i * 4) * VALUE_LEADING + warp * 16 + n * 8 +
                                   lane_column) = make_float2(sums[m][n][i], sums[m][n][i + 1]);
#pragma unroll
  for (int i = 0; i < 2 * M; ++i) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) total[i] += __shfl_xor_sync(0xffffffff, total[i], step);
    if (lane == 0) states[warp + i * WARPS] = make_float2(maximum[i], total[i]);
  }
  const int32_t rows = p.fresh - first_query < QUERIES ? p.fresh - first_query : QUERIES;
  finish(p, head, head_index, first_query, rows, first_column, columns, block_sums, VALUE_LEADING, states);
}

}  // namespace

int32_t wide_queries(const Machine& machine, int32_t fresh, int32_t dk) {
  if (fresh > 16 && shared_bytes(dk, 32, 1) <= machine.shared) return 32;
  return shared_bytes(dk, 16, 1) <= machine.shared ? 16 : 0;
}

sige_status launch_attention_wide(const AttentionParameters& p, const Machine& machine, cudaStream_t stream) {
  const int32_t queries = wide_queries(machine, p.fresh, p.dk);
  const bool several = p.pixels > WIDE_KEYS * int64_t{p.splits};  // tiles per block
  AttentionParameters staged = p;
  staged.stages = several && shared_bytes(p.dk, queries, 2) <= machine.shared ? 2 : 1;
  const dim3 grid((p.fresh + queries - 1) / queries, p.batch * p.heads * p.slices, p.splits);
  return launch_tensor_cores(queries == 32 ? attention_wide_kernel<2> : attention_wide_kernel<1>, staged, machine, grid,
                             WARPS * 32, shared_bytes(p.dk, queries, staged.stages), stream);
}

}  // namespace sige::cuda
