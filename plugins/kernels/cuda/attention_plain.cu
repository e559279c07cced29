// Attention without tensor cores, for float32, and for float16 heads that attention_wide.cu does not hold.
//
// A warp owns 4 queries; its lanes are 32 keys for the scores and 32 channels for the sums.
#include "attention.cuh"

namespace sige::cuda {

namespace {

constexpr int PLAIN_THREADS = 128;
constexpr int WARP_QUERIES = PLAIN_QUERIES / (PLAIN_THREADS / 32);
constexpr int DEPTH = 32;  // channels of the keys that are in shared memory at once
static_assert(PLAIN_KEYS == 32 && SEGMENT % PLAIN_KEYS == 0, "a lane per key");

template <typename T, int COLUMNS>
__global__ void __launch_bounds__(PLAIN_THREADS) attention_plain_kernel(const __grid_constant__ AttentionParameters p) {
  __shared__ float queries[PLAIN_QUERIES * MAX_PLAIN_HEAD];
  __shared__ float keys[PLAIN_KEYS][DEPTH + 1];
  __shared__ int32_t overlay[SEGMENT];

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int32_t first_query = blockIdx.x * PLAIN_QUERIES;
  const Head<T> head(p, blockIdx.y);
  const Range range = keys_of<PLAIN_KEYS>(p);

  for (int i = threadIdx.x; i < PLAIN_QUERIES * p.dk; i += PLAIN_THREADS) {
    const int32_t row = first_query + i / p.dk;
    queries[i] = row < p.fresh ? to_float(head.query(row)[i % p.dk]) * p.scale : 0.0f;
  }

  float sums[WARP_QUERIES][COLUMNS] = {}, maximum[WARP_QUERIES], total[WARP_QUERIES] = {};
#pragma unroll
  for (int m = 0; m < WARP_QUERIES; ++m) maximum[m] = -INFINITY;

  for (int32_t first_key = range.first; first_key < range.last; first_key += PLAIN_KEYS) {
    const int32_t place = (first_key - range.first) % SEGMENT;
    if (place == 0) {
      __syncthreads();  // the segment before is done
      fill_overlay(p, first_key, range.last - first_key < SEGMENT ? range.last : first_key + SEGMENT, overlay);
    }
    const int32_t valid = range.last - first_key < PLAIN_KEYS ? range.last - first_key : PLAIN_KEYS;

    float scores[WARP_QUERIES] = {};
    for (int32_t d = 0; d < p.dk; d += DEPTH) {
      for (int i = warp; i < PLAIN_KEYS; i += PLAIN_THREADS / 32) {
        const bool real = i < valid && d + lane < p.dk;
        keys[i][lane] = real ? to_float(head.key(first_key + i, overlay[place + i])[d + lane]) : 0.0f;
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
      if (lane >= valid) scores[m] = -INFINITY;
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
    for (int32_t n = 0; n < valid; ++n) {
      const T* const from = head.value(first_key + n, overlay[place + n]);
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
  }

#pragma unroll
  for (int m = 0; m < WARP_QUERIES; ++m) {
    for (int step = 16; step > 0; step /= 2) total[m] += __shfl_xor_sync(0xffffffff, total[m], step);
    const int32_t row = first_query + warp * WARP_QUERIES + m;
    if (row >= p.fresh) continue;
    const int64_t slot = (int64_t{blockIdx.z} * gridDim.y + blockIdx.y) * p.fresh + row;
    T* const out = head.out + row * head.channels;
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

template <typename T, int COLUMNS>
sige_status launch(const AttentionParameters& p, cudaStream_t stream) {
  const dim3 grid((p.fresh + PLAIN_QUERIES - 1) / PLAIN_QUERIES, p.batch * p.heads, p.splits);
  attention_plain_kernel<T, COLUMNS><<<grid, PLAIN_THREADS, 0, stream>>>(p);
  return launched();
}

template <typename T>
sige_status launch_columns(const AttentionParameters& p, cudaStream_t stream) {
  if (p.dv <= 32) return launch<T, 1>(p, stream);
  if (p.dv <= 64) return launch<T, 2>(p, stream);
  if (p.dv <= 160) return launch<T, 5>(p, stream);
  return launch<T, MAX_PLAIN_HEAD / 32>(p, stream);
}

}  // namespace

sige_status launch_attention_plain(const AttentionParameters& p, int32_t dtype, cudaStream_t stream) {
  return dtype == SIGE_FLOAT16 ? launch_columns<__half>(p, stream) : launch_columns<float>(p, stream);
}

}  // namespace sige::cuda
