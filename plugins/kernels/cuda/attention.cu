// Attention: row queries against base keys and values overlaid with fresh ones; scores never reach device memory.
//
// float16 heads of common sizes run on tensor cores (attention_mma.cu). The kernel here serves float32 and wide
// heads: a warp owns 4 queries, its lanes are 32 keys for the scores and 32 channels for the sums.
#include "attention.cuh"

namespace sige::cuda {

constexpr int MAX_HEAD = 512;  // channels of a head, by the shared memory of the queries
constexpr int QUERIES = 16;    // per block
constexpr int WARP_QUERIES = QUERIES / (ATTENTION_THREADS / 32);
constexpr int KEYS = 32;       // per tile: one per lane
constexpr int DEPTH = 32;      // channels of the keys that are in shared memory at once

template <typename T, int COLUMNS>
__global__ void __launch_bounds__(ATTENTION_THREADS) attention_kernel(const __grid_constant__ AttentionParameters p) {
  __shared__ float queries[QUERIES * MAX_HEAD];
  __shared__ float keys[KEYS][DEPTH + 1];
  __shared__ int32_t overlay[KEYS];
  __shared__ int32_t next;

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int32_t h = blockIdx.y % p.heads, b = blockIdx.y / p.heads, split = blockIdx.z;
  const int32_t first_query = blockIdx.x * QUERIES;
  const int64_t key_channels = int64_t{p.heads} * p.dk, value_channels = int64_t{p.heads} * p.dv;
  const T* const fresh_keys = static_cast<const T*>(p.k) + b * p.fresh * key_channels + h * p.dk;
  const T* const base_keys = static_cast<const T*>(p.k_base) + b * p.pixels * key_channels + h * p.dk;
  const T* const fresh_values = static_cast<const T*>(p.v) + b * p.fresh * value_channels + h * p.dv;
  const T* const base_values = static_cast<const T*>(p.v_base) + b * p.pixels * value_channels + h * p.dv;

  for (int i = threadIdx.x; i < QUERIES * p.dk; i += ATTENTION_THREADS) {
    const int32_t row = first_query + i / p.dk;
    const T* from = static_cast<const T*>(p.q) + (int64_t{b} * p.fresh + row) * key_channels + h * p.dk;
    queries[i] = row < p.fresh ? to_float(from[i % p.dk]) * p.scale : 0.0f;
  }

  float sums[WARP_QUERIES][COLUMNS] = {}, maximum[WARP_QUERIES], total[WARP_QUERIES] = {};
#pragma unroll
  for (int m = 0; m < WARP_QUERIES; ++m) maximum[m] = -INFINITY;
  int32_t first_tile, last_tile;
  tiles_of(p, split, KEYS, first_tile, last_tile);
  int32_t cursor = lower_bound(p.active, p.fresh, first_tile * KEYS);

  for (int32_t t = first_tile; t < last_tile; ++t) {
    const int32_t first_key = t * KEYS;
    overlay_tile<KEYS>(p, first_key, overlay, cursor, next);

    float scores[WARP_QUERIES] = {};
    for (int32_t d = 0; d < p.dk; d += DEPTH) {
      for (int i = warp; i < KEYS; i += ATTENTION_THREADS / 32) {
        const int32_t n = first_key + i, fresh = overlay[i];
        const T* from = fresh >= 0 ? fresh_keys + fresh * key_channels : base_keys + n * key_channels;
        keys[i][lane] = n < p.pixels && d + lane < p.dk ? to_float(from[d + lane]) : 0.0f;
      }
      __syncthreads();
      const int32_t depth = p.dk - d < DEPTH ? p.dk - d : DEPTH;
      for (int32_t c = 0; c < depth; ++c)
#pragma unroll
        for (int m = 0; m < WARP_QUERIES; ++m)
          scores[m] += queries[(warp * WARP_QUERIES + m) * p.dk + d + c] * keys[lane][c];
      __syncthreads();
    }

#pragma unroll
    for (int m = 0; m < WARP_QUERIES; ++m) {
      if (first_key + lane >= p.pixels) scores[m] = -INFINITY;
      float top = scores[m];
      for (int step = 16; step > 0; step /= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffff, top, step));
      top = fmaxf(top, maximum[m]);
      const float shrink = exp2f(maximum[m] - top);
      maximum[m] = top;
      scores[m] = exp2f(scores[m] - top);
      total[m] = total[m] * shrink + scores[m];
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) sums[m][c] *= shrink;
    }
    const int32_t valid = p.pixels - first_key < KEYS ? p.pixels - first_key : KEYS;
    for (int32_t n = 0; n < valid; ++n) {
      const int32_t fresh = overlay[n];
      const T* from = fresh >= 0 ? fresh_values + fresh * value_channels : base_values + (first_key + n) * value_channels;
      float weights[WARP_QUERIES];
#pragma unroll
      for (int m = 0; m < WARP_QUERIES; ++m) weights[m] = __shfl_sync(0xffffffff, scores[m], n);
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) {
        const float value = c * 32 + lane < p.dv ? to_float(from[c * 32 + lane]) : 0.0f;
#pragma unroll
        for (int m = 0; m < WARP_QUERIES; ++m) sums[m][c] += weights[m] * value;
      }
    }
    __syncthreads();  // the overlay is overwritten next
  }

#pragma unroll
  for (int m = 0; m < WARP_QUERIES; ++m) {
    for (int step = 16; step > 0; step /= 2) total[m] += __shfl_xor_sync(0xffffffff, total[m], step);
    const int32_t row = first_query + warp * WARP_QUERIES + m;
    if (row >= p.fresh) continue;
    const int64_t slot = (int64_t{split} * gridDim.y + blockIdx.y) * p.fresh + row;
    T* out = static_cast<T*>(p.out) + (int64_t{b} * p.fresh + row) * value_channels + h * p.dv;
    if (p.partial && lane == 0) p.partial_state[slot] = make_float2(maximum[m], total[m]);
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) {
      const int32_t column = c * 32 + lane;
      if (column >= p.dv) continue;
      if (p.partial) {
        p.partial[slot * p.dv + column] = sums[m][c];
      } else {
        out[column] = from_float<T>(sums[m][c] / total[m]);
      }
    }
  }
}

// Adds up the splits: one thread per output value.
template <typename T>
__global__ void __launch_bounds__(THREADS) combine_kernel(const __grid_constant__ AttentionParameters p, int64_t rows) {
  const int64_t index = int64_t{blockIdx.x} * THREADS + threadIdx.x;
  if (index >= rows * p.dv) return;
  const int64_t row = index / p.dv, column = index % p.dv;  // row of [batch * heads][fresh]
  float maximum = -INFINITY, total = 0, sum = 0;
  for (int32_t s = 0; s < p.splits; ++s) maximum = fmaxf(maximum, p.partial_state[s * rows + row].x);
  for (int32_t s = 0; s < p.splits; ++s) {
    const float2 state = p.partial_state[s * rows + row];
    const float shrink = exp2f(state.x - maximum);
    total += state.y * shrink;
    sum += p.partial[(s * rows + row) * p.dv + column] * shrink;
  }
  const int64_t fresh = row % p.fresh, h = row / p.fresh % p.heads, b = row / p.fresh / p.heads;
  static_cast<T*>(p.out)[(b * p.fresh + fresh) * p.heads * p.dv + h * p.dv + column] = from_float<T>(sum / total);
}

template <typename T, int COLUMNS>
static sige_status launch(const AttentionParameters& p, int32_t batch, cudaStream_t stream) {
  const dim3 grid((p.fresh + QUERIES - 1) / QUERIES, batch * p.heads, p.splits);
  attention_kernel<T, COLUMNS><<<grid, ATTENTION_THREADS, 0, stream>>>(p);
  return launched();
}

template <typename T>
static sige_status launch_general(const AttentionParameters& p, int32_t batch, cudaStream_t stream) {
  if (p.dv <= 32) return launch<T, 1>(p, batch, stream);
  if (p.dv <= 64) return launch<T, 2>(p, batch, stream);
  if (p.dv <= 160) return launch<T, 5>(p, batch, stream);
  return launch<T, MAX_HEAD / 32>(p, batch, stream);
}

template <typename T>
static sige_status launch_combine(const AttentionParameters& p, int32_t batch, cudaStream_t stream) {
  const int64_t rows = int64_t{batch} * p.heads * p.fresh;
  combine_kernel<T><<<(rows * p.dv + THREADS - 1) / THREADS, THREADS, 0, stream>>>(p, rows);
  return launched();
}

static bool on_tensor_cores(const sige_attention_args& a) {
  return a.dtype == SIGE_FLOAT16 && a.dk <= MAX_MMA_HEAD && a.dv <= MAX_MMA_HEAD;
}

// Keys are split only while there are fewer than TARGET_BLOCKS blocks, so all splits have less than twice that.
static int64_t most_partial_rows(const sige_attention_args& a) {
  const int64_t tile = on_tensor_cores(a) ? MMA_QUERIES : QUERIES;
  const int64_t blocks = int64_t{a.batch} * a.heads * ((a.fresh + tile - 1) / tile);
  return tile * (blocks * MAX_SPLITS < 2 * TARGET_BLOCKS ? blocks * MAX_SPLITS : 2 * TARGET_BLOCKS);
}

size_t attention_workspace(const sige_attention_args& a) {
  const int64_t rows = most_partial_rows(a);
  return align(rows * a.dv * sizeof(float)) + align(rows * sizeof(float2));
}

sige_status attention(const sige_attention_args& a, const sige_execution& execution) {
  constexpr float LOG2E = 1.44269504f;
  constexpr int32_t MAX_GRID = 65535;
  if (a.dk > MAX_HEAD || a.dv > MAX_HEAD || int64_t{a.batch} * a.heads > MAX_GRID) return SIGE_UNSUPPORTED;
  const bool mma = on_tensor_cores(a);
  const cudaStream_t stream = stream_of(execution);
  const int32_t splits = mma ? splits_of(a, MMA_QUERIES, MMA_KEYS) : splits_of(a, QUERIES, KEYS);
  char* workspace = static_cast<char*>(execution.workspace);
  const size_t sums = align(most_partial_rows(a) * a.dv * sizeof(float));
  const AttentionParameters p{
      a.q,
      a.k,
      a.v,
      a.k_base,
      a.v_base,
      a.active,
      a.out,
      splits > 1 ? reinterpret_cast<float*>(workspace) : nullptr,
      reinterpret_cast<float2*>(workspace + sums),
      a.fresh,
      a.pixels,
      a.heads,
      a.dk,
      a.dv,
      splits,
      a.dk % 8 == 0 && aligned(a.q, 16) && aligned(a.k, 16) && aligned(a.k_base, 16),
      a.dv % 8 == 0 && aligned(a.v, 16) && aligned(a.v_base, 16),
      LOG2E * (a.scale != 0 ? a.scale : 1.0f / sqrtf(static_cast<float>(a.dk)))};

  const bool half = a.dtype == SIGE_FLOAT16;
  const sige_status status = mma    ? launch_attention_mma(p, a.batch, stream)
                             : half ? launch_general<__half>(p, a.batch, stream)
                                    : launch_general<float>(p, a.batch, stream);
  if (status || splits == 1) return status;
  return half ? launch_combine<__half>(p, a.batch, stream) : launch_combine<float>(p, a.batch, stream);
}

}  // namespace sige::cuda
