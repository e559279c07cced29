// Attention in float16 on tensor cores: a warp has 16 queries; queries, scores and weights stay in registers.
//
// A block has up to MOST_WARPS * 16 queries, so that every key it loads serves all of them. Where that leaves few warps,
// several have the same queries and share the keys of each tile; their sums are added up in the end. The tiling is
// FlashAttention-2's (Dao, arXiv 2307.08691) with keys and values from two places; the softmax is online (Milakov and
// Gimelshein, arXiv 1805.02867).
#include "attention_finish.cuh"

namespace sige::cuda {

namespace {

// Heads padded to D_ channels: KEYS keys per tile, STAGES tiles in flight; all fits into 64 KiB.
template <int D_>
struct Tiling {
  static constexpr int D = D_, LEADING = D + PAD;
  static constexpr int KEYS = D <= 64 ? 64 : 32;
  static constexpr int STAGES = D <= 64 ? 3 : D <= 80 ? 4 : D <= 128 ? 3 : 2;
  static constexpr int STAGE = 2 * KEYS * LEADING;  // halves
  static constexpr int TILES = STAGES * STAGE * static_cast<int>(sizeof(__half));
  static constexpr int ROOM = TILES / (16 * LEADING * static_cast<int>(sizeof(float)));  // the sums end in the tiles
  static constexpr int MOST_WARPS = ROOM < MMA_WARPS ? ROOM : MMA_WARPS;
  static constexpr int MOST_GROUPS = KEYS / 16;
  static constexpr int STATES = MOST_WARPS * 16;
  static constexpr size_t SHARED = TILES + SEGMENT * sizeof(int32_t) + 2 * STATES * sizeof(float2);
  static_assert(SEGMENT % KEYS == 0 && SHARED <= 65536 && D % 16 == 0 && TILES % 16 == 0);
};

// Calls op(Tiling<D>{}) for the narrowest tiling that holds heads of `widest` channels.
template <typename Op>
auto with_tiling(int32_t widest, const Op& op) {
  if (widest <= 32) return op(Tiling<32>{});
  if (widest <= 48) return op(Tiling<48>{});
  if (widest <= 64) return op(Tiling<64>{});
  if (widest <= 80) return op(Tiling<80>{});
  if (widest <= 128) return op(Tiling<128>{});
  return op(Tiling<MAX_MMA_HEAD>{});
}

// A place in rows of `channels` halves, of which `width` are copied at once, and the step to the next. Threads in a row have
// places in a row: the rows of a head lie apart, and every line of memory that a warp touches costs.
struct Walk {
  int32_t row, column, rows, columns;

  __device__ Walk(int32_t channels, int32_t width) {
    const int32_t pieces = channels / width, index = threadIdx.x, count = blockDim.x;
    row = index / pieces;
    column = (index - row * pieces) * width;
    rows = count / pieces;
    columns = (count - rows * pieces) * width;
  }
};

// ROWS rows of `channels` halves into shared memory, from `real` on zeros. overlay[i] is row i's fresh row or -1, and
// row_of(i, fresh) its address.
template <int ROWS, int LEADING, typename RowOf>
__device__ void load_rows(Walk walk, int32_t channels, bool wide, int32_t real, const int32_t* overlay, __half* to,
                          const RowOf& row_of) {
#pragma unroll 1
  while (walk.row < ROWS) {
    const bool valid = walk.row < real;
    const __half* const from = row_of(valid ? walk.row : 0, valid ? overlay[walk.row] : -1) + walk.column;
    __half* const at = to + walk.row * LEADING + walk.column;
    if (wide) {
      copy_vector(from, at, valid);
    } else {
      *at = valid ? *from : __half(0.0f);
    }
    walk.row += walk.rows;
    walk.column += walk.columns;
    if (walk.column >= channels) {
      walk.column -= channels;
      ++walk.row;
    }
  }
}

// The left operand of products: 16 queries, of which `row` is this lane's first, in halves of one sign or the other.
template <int D>
__device__ void load_queries(const AttentionParameters& p, const Head<__half>& head, int32_t row, int lane_column,
                             uint32_t (&query)[D / 16][4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int32_t at = row + i % 2 * 8;
    const __half* const from = head.query(at) + lane_column + i / 2 * 8;
    const int32_t width = at < p.fresh ? p.dk - lane_column - i / 2 * 8 : 0;
    if (p.wide_k) {
#pragma unroll
      for (int j = 0; j < D / 16; ++j)
        query[j][i] = j * 16 < width ? *reinterpret_cast<const uint32_t*>(from + j * 16) : 0;
    } else {
#pragma unroll
      for (int j = 0; j < D / 16; ++j) {
        const __half low = j * 16 < width ? from[j * 16] : __half(0.0f);
        const __half high = j * 16 + 1 < width ? from[j * 16 + 1] : __half(0.0f);
        const __half2 both = __halves2half2(low, high);
        query[j][i] = *reinterpret_cast<const uint32_t*>(&both);
      }
    }
  }
  if (p.scale < 0) {
#pragma unroll
    for (int j = 0; j < D / 16; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) query[j][i] ^= 0x80008000u;
  }
}

// Adds up what the groups of a block have: `sums` [groups][rows][LEADING] into the first group's place, `states`
// [groups][rows] into `combined` [rows]. The whole block takes part and was in step.
template <int LEADING>
__device__ void combine(int32_t groups, int32_t rows, int32_t columns, float* sums, const float2* states,
                        float2* combined) {
  const uint32_t vectors = (columns + 3) / 4;
#pragma unroll 1
  for (uint32_t i = threadIdx.x; i < rows * vectors; i += blockDim.x) {
    const uint32_t row = i / vectors, column = i % vectors * 4;
    float maximum = -INFINITY, total = 0;
#pragma unroll 1
    for (int g = 0; g < groups; ++g) maximum = fmaxf(maximum, states[g * rows + row].x);
    float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 1
    for (int g = 0; g < groups; ++g) {
      const float2 state = states[g * rows + row];
      const float shrink = power2(state.x - maximum);
      const float4 part = *reinterpret_cast<const float4*>(sums + (g * rows + row) * LEADING + column);
      total += state.y * shrink;
      sum = make_float4(sum.x + part.x * shrink, sum.y + part.y * shrink, sum.z + part.z * shrink,
                        sum.w + part.w * shrink);
    }
    *reinterpret_cast<float4*>(sums + row * LEADING + column) = sum;
    if (column == 0) combined[row] = make_float2(maximum, total);
  }
}

// SHARE: keys whose scores a warp has at once.
template <typename S, int SHARE>
__global__ void __launch_bounds__(S::MOST_WARPS * 32, S::D <= 48 ? 2 : 1)
    attention_mma_kernel(const __grid_constant__ AttentionParameters p) {
  constexpr int D = S::D, KEYS = S::KEYS, LEADING = S::LEADING;
  extern __shared__ __align__(16) unsigned char shared[];
  __half* const tiles = reinterpret_cast<__half*>(shared);
  int32_t* const overlay = reinterpret_cast<int32_t*>(shared + S::TILES);
  float2* const states = reinterpret_cast<float2*>(overlay + SEGMENT);  // [group][query]
  float2* const combined = states + S::STATES;

  const int warps = blockDim.x / 32 / p.groups, block_rows = warps * 16;  // of a group; queries
  const int group = threadIdx.x / 32 / warps, warp = threadIdx.x / 32 - group * warps;
  const int lane = threadIdx.x % 32, lane_row = lane / 4, lane_column = lane % 4 * 2;
  const int32_t first_query = blockIdx.x * block_rows;
  const bool busy = first_query + warp * 16 < p.fresh;  // some of the warp's queries exist
  const Head<__half> head(p, blockIdx.y);
  const Range range = keys_of<KEYS>(p);
  prefetch_base(p, head, blockIdx.y, range);
  release_successor();
  const Walk key_walk(p.dk, p.wide_k ? 8 : 1), value_walk(p.dv, p.wide_v ? 8 : 1);
  for (int i = threadIdx.x; i < S::TILES / 16; i += blockDim.x)  // channels behind a row's last one stay zeros
    reinterpret_cast<uint4*>(shared)[i] = make_uint4(0, 0, 0, 0);

  uint32_t query[D / 16][4];
  float sums[D / 8][4] = {};  // rows lane_row and lane_row + 8, columns lane_column and + 1
  float maximum[2] = {-INFINITY, -INFINITY}, total[2] = {};
  const float scale = fabsf(p.scale);  // its sign goes to the queries, so that the largest product has the largest weight

  for (int32_t first = range.first; first < range.last; first += SEGMENT) {
    const int32_t last = range.last - first < SEGMENT ? range.last : first + SEGMENT;
    const int32_t count = (last - first + KEYS - 1) / KEYS;
    const auto load = [&](int32_t t) {
      __half* const to = tiles + t % S::STAGES * S::STAGE;
      const int32_t start = first + t * KEYS;
      load_rows<KEYS, LEADING>(key_walk, p.dk, p.wide_k, last - start, overlay + t * KEYS, to,
                               [&](int32_t i, int32_t fresh) { return head.key(start + i, fresh); });
      load_rows<KEYS, LEADING>(value_walk, p.dv, p.wide_v, last - start, overlay + t * KEYS, to + KEYS * LEADING,
                               [&](int32_t i, int32_t fresh) { return head.value(start + i, fresh); });
    };

    if (first > range.first) __syncthreads();  // the segment before is done
    fill_overlay(p, first, last, overlay);
    if (first == range.first) {
      wait_for_predecessor();
      load_queries<D>(p, head, first_query + warp * 16 + lane_row, lane_column, query);
    }

#pragma unroll 1
    for (int32_t t = 1 - S::STAGES; t < count; ++t) {
      if (t >= 0) {
        copies_wait<S::STAGES - 2>();
        __syncthreads();  // the tile is complete, and the one before is free again
      }
      if (t + S::STAGES - 1 < count) load(t + S::STAGES - 1);
      copies_commit();
      if (t < 0 || !busy) continue;
#pragma unroll 1
      for (int start = group * SHARE; start < KEYS; start += p.groups * SHARE) {
        const int32_t left = last - first - t * KEYS - start;  // keys, of which there may be fewer than a share
        if (left <= 0) break;
        const __half* const keys = tiles + t % S::STAGES * S::STAGE + start * LEADING;
        const __half* const values = keys + KEYS * LEADING;

        float scores[SHARE / 8][4] = {};
#pragma unroll
        for (int j = 0; j < D / 16; ++j) {
#pragma unroll
          for (int n = 0; n < SHARE / 8; n += 2) {  // inside: products in a row do not wait for each other
            uint32_t right[4];
            load_matrices(keys + (n * 8 + lane / 16 * 8 + lane % 8) * LEADING + j * 16 + lane / 8 % 2 * 8, right);
            mma(scores[n], query[j], right[0], right[1]);
            mma(scores[n + 1], query[j], right[2], right[3]);
          }
        }
        if (left < SHARE) {
#pragma unroll
          for (int n = 0; n < SHARE / 8; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i)
              if (n * 8 + lane_column + i % 2 >= left) scores[n][i] = -INFINITY;
        }

        float top[2] = {maximum[0], maximum[1]}, shift[2];
#pragma unroll
        for (int n = 0; n < SHARE / 8; ++n)
#pragma unroll
          for (int i = 0; i < 4; ++i) top[i / 2] = fmaxf(top[i / 2], scores[n][i]);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          top[i] = fmaxf(top[i], __shfl_xor_sync(0xffffffff, top[i], 1));
          top[i] = fmaxf(top[i], __shfl_xor_sync(0xffffffff, top[i], 2));
          shift[i] = top[i] * scale;
          const float shrink = power2(maximum[i] * scale - shift[i]);
          maximum[i] = top[i];
          total[i] *= shrink;
#pragma unroll
          for (int d = 0; d < D / 8; ++d) {
            sums[d][2 * i] *= shrink;
            sums[d][2 * i + 1] *= shrink;
          }
        }
#pragma unroll
        for (int n = 0; n < SHARE / 8; ++n)
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            scores[n][i] = power2(fmaf(scores[n][i], scale, -shift[i / 2]));
            total[i / 2] += scores[n][i];
          }

#pragma unroll
        for (int j = 0; j < SHARE / 16; ++j) {
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
  }

  __syncthreads();  // the memory of the tiles takes the sums
  float* const block_sums = reinterpret_cast<float*>(shared);  // [group][query][LEADING]
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    total[i] += __shfl_xor_sync(0xffffffff, total[i], 1);
    total[i] += __shfl_xor_sync(0xffffffff, total[i], 2);
    const int row = group * block_rows + warp * 16 + lane_row + i * 8;
    if (lane % 4 == 0) states[row] = make_float2(maximum[i] * scale, total[i]);
#pragma unroll
    for (int d = 0; d < D / 8; ++d)
      *reinterpret_cast<float2*>(block_sums + row * LEADING + d * 8 + lane_column) =
          make_float2(sums[d][i * 2], sums[d][i * 2 + 1]);
  }
  if (p.groups > 1) {
    __syncthreads();
    combine<LEADING>(p.groups, block_rows, p.dv, block_sums, states, combined);
  }
  const int32_t rows = p.fresh - first_query < block_rows ? p.fresh - first_query : block_rows;
  finish(p, head, blockIdx.y, first_query, rows, 0, p.dv, block_sums, LEADING, p.groups > 1 ? combined : states);
}

template <typename S>
sige_status launch(const AttentionParameters& p, const MmaShape& shape, const Machine& machine, cudaStream_t stream) {
  AttentionParameters grouped = p;
  grouped.groups = shape.groups;
  const dim3 grid((p.fresh + shape.queries - 1) / shape.queries, p.batch * p.heads, p.splits);
  return launch_tensor_cores(shape.groups == S::MOST_GROUPS ? attention_mma_kernel<S, 16> : attention_mma_kernel<S, 32>,
                             grouped, machine, grid, shape.threads(), S::SHARED, stream);
}

}  // namespace

MmaShape mma_shape(int32_t fresh, int32_t widest) {
  return with_tiling(widest, [&](auto tiling) {
    using S = decltype(tiling);
    const int32_t warps = (fresh + 15) / 16, blocks = (warps + S::MOST_WARPS - 1) / S::MOST_WARPS;
    const int32_t each = (warps + blocks - 1) / blocks;
    int32_t groups = 1;
    while (groups < S::MOST_GROUPS && each * groups * 2 <= S::MOST_WARPS) groups *= 2;
    return MmaShape{each * 16, groups, S::KEYS, S::D <= 48 || each * groups <= 6 ? 2 : 1};
  });
}

sige_status launch_attention_mma(const AttentionParameters& p, const Machine& machine, cudaStream_t stream) {
  const int32_t widest = p.dk > p.dv ? p.dk : p.dv;
  return with_tiling(widest, [&](auto tiling) {
    return launch<decltype(tiling)>(p, mma_shape(p.fresh, widest), machine, stream);
  });
}

}  // namespace sige::cuda
