// What the two attention kernels share: the overlay of fresh keys, and the split of the keys over blocks.
#pragma once

#include "device.cuh"

namespace sige::cuda {

constexpr int ATTENTION_THREADS = 128;
constexpr int TARGET_BLOCKS = 512;  // keys are split over more blocks until there are about as many
constexpr int MAX_SPLITS = 32;

// One call, as the kernels see it. With `partial`, a block writes [split][batch * heads][fresh][dv] unnormalised sums
// relative to its own maximum, and {maximum, sum} beside them; else it writes `out`.
struct AttentionParameters {
  const void *q, *k, *v, *k_base, *v_base;
  const int32_t* active;
  void* out;
  float* partial;
  float2* partial_state;
  int32_t fresh, pixels, heads, dk, dv, splits;
  bool wide_k, wide_v;  // whether channels may be loaded 16 bytes at a time
  float scale;          // times log2(e): the softmax uses powers of two
};

// Splits so that the device is filled: at least one, and none of them empty.
inline int32_t splits_of(const sige_attention_args& a, int32_t query_tile, int32_t key_tile) {
  const int64_t blocks = int64_t{a.batch} * a.heads * ((a.fresh + query_tile - 1) / query_tile);
  const int64_t tiles = (a.pixels + key_tile - 1) / key_tile;
  const int64_t wanted = blocks >= TARGET_BLOCKS ? 1 : (TARGET_BLOCKS + blocks - 1) / blocks;
  const int64_t most = tiles < MAX_SPLITS ? tiles : MAX_SPLITS;
  return static_cast<int32_t>(wanted < most ? wanted : most);
}

// First index of the ascending `active` that is not below `pixel`; the whole block searches, a probe per thread.
__device__ inline int32_t lower_bound(const int32_t* active, int32_t count, int32_t pixel) {
  int32_t low = 0, high = count;
  while (low < high) {
    const int32_t step = (high - low + ATTENTION_THREADS - 1) / ATTENTION_THREADS;
    const int32_t probe = low + static_cast<int32_t>(threadIdx.x) * step;
    const int32_t below = __syncthreads_count(probe < high && active[probe] < pixel);
    if (below == 0) break;
    const int32_t next = low + below * step;
    low = next - step + 1;
    high = next < high ? next : high;
  }
  return low;
}

// Fills overlay[i] with the fresh row of pixel first + i, or -1, for a tile of KEYS pixels. `cursor` is the first active
// pixel not before the tile; the one of the next tile comes back in it. The whole block takes part and is in step
// afterwards.
template <int KEYS>
__device__ void overlay_tile(const AttentionParameters& p, int32_t first, int32_t (&overlay)[KEYS], int32_t& cursor,
                             int32_t& next) {
  for (int i = threadIdx.x; i < KEYS; i += ATTENTION_THREADS) overlay[i] = -1;
  if (threadIdx.x == 0) next = cursor;
  __syncthreads();
  for (int32_t i = cursor + threadIdx.x; i < p.fresh; i += ATTENTION_THREADS) {
    const int32_t pixel = p.active[i];
    if (pixel >= first + KEYS) break;
    if (i == cursor || p.active[i - 1] != pixel) overlay[pixel - first] = i;  // repeated pixels have equal rows
    if (i + 1 == p.fresh || p.active[i + 1] >= first + KEYS) next = i + 1;
  }
  __syncthreads();
  cursor = next;
}

// Tiles [first, last) of split `split`.
__device__ inline void tiles_of(const AttentionParameters& p, int32_t split, int32_t key_tile, int32_t& first,
                                int32_t& last) {
  const int32_t tiles = (p.pixels + key_tile - 1) / key_tile;
  first = static_cast<int64_t>(tiles) * split / p.splits;
  last = static_cast<int64_t>(tiles) * (split + 1) / p.splits;
}

// The tensor-core kernel for float16 heads of up to MAX_MMA_HEAD channels; SIGE_UNSUPPORTED for others.
constexpr int MAX_MMA_HEAD = 256;
constexpr int MMA_QUERIES = 64;
constexpr int MMA_KEYS = 64;
sige_status launch_attention_mma(const AttentionParameters& p, int32_t batch, cudaStream_t stream);

}  // namespace sige::cuda
