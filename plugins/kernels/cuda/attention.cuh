// What the attention kernels share: their parameters, where a head's rows lie, which keys are fresh, their share of
// the keys.
#pragma once

#include "launch.cuh"

namespace sige::cuda {

constexpr int MAX_SPLITS = 32;
constexpr int SEGMENT = 1024;  // keys whose overlay is in shared memory at once; a multiple of every tile of keys

// One call, as the kernels see it. Keys are split over blocks in z. With `partial`, a block writes [split][batch *
// heads][fresh][dv] unnormalised sums relative to its own maximum, and {maximum, sum} beside them; else the blocks of
// all splits are one cluster, which writes `out`.
struct AttentionParameters {
  const void *q, *k, *v, *k_base, *v_base;
  const int32_t* active;
  void* out;
  float* partial;
  float2* partial_state;
  int32_t batch, fresh, pixels, heads, dk, dv, splits;
  int32_t slices, slice;  // attention_wide: blocks that share the channels of a head's values, and channels of each
  int32_t stages;         // attention_wide: tiles of keys in flight
  int32_t groups;         // attention_mma: groups of warps that share the keys of a tile
  int32_t q_stride, k_stride, v_stride, k_base_stride, v_base_stride;  // elements from row to row
  bool wide_k, wide_v;    // whether channels may be loaded 16 bytes at a time
  bool wide_out;          // whether outputs may be stored 4 at a time
  float scale;            // times log2(e): the softmax uses powers of two
};

// The rows of one head of one image. Fresh keys and values lie over those of the base.
template <typename T>
struct Head {
  const T *queries, *fresh_keys, *base_keys, *fresh_values, *base_values;
  T* out;
  int32_t q_stride, k_stride, v_stride, k_base_stride, v_base_stride, channels;

  __device__ Head(const AttentionParameters& p, uint32_t index)
      : q_stride(p.q_stride), k_stride(p.k_stride), v_stride(p.v_stride), k_base_stride(p.k_base_stride),
        v_base_stride(p.v_base_stride), channels(p.heads * p.dv) {
    const int64_t b = index / static_cast<uint32_t>(p.heads), h = index - b * p.heads;
    queries = static_cast<const T*>(p.q) + b * p.fresh * q_stride + h * p.dk;
    fresh_keys = static_cast<const T*>(p.k) + b * p.fresh * k_stride + h * p.dk;
    base_keys = static_cast<const T*>(p.k_base) + b * p.pixels * k_base_stride + h * p.dk;
    fresh_values = static_cast<const T*>(p.v) + b * p.fresh * v_stride + h * p.dv;
    base_values = static_cast<const T*>(p.v_base) + b * p.pixels * v_base_stride + h * p.dv;
    out = static_cast<T*>(p.out) + b * p.fresh * channels + h * p.dv;
  }
  __device__ const T* query(int32_t row) const { return queries + int64_t{row} * q_stride; }
  // `fresh` is the pixel's fresh row or -1.
  __device__ const T* key(int32_t pixel, int32_t fresh) const {
    return (fresh >= 0 ? fresh_keys : base_keys) + int64_t{fresh >= 0 ? fresh : pixel} *
                                                       (fresh >= 0 ? k_stride : k_base_stride);
  }
  __device__ const T* value(int32_t pixel, int32_t fresh) const {
    return (fresh >= 0 ? fresh_values : base_values) + int64_t{fresh >= 0 ? fresh : pixel} *
                                                           (fresh >= 0 ? v_stride : v_base_stride);
  }
};

struct Range {
  int32_t first, last;
};

// The keys of split blockIdx.z: whole tiles of TILE keys, the last of which may reach beyond the last key.
template <uint32_t TILE>
__device__ Range keys_of(const AttentionParameters& p) {
  const uint32_t tiles = (p.pixels + TILE - 1) / TILE, splits = p.splits, pixels = p.pixels;
  static_assert(TILE >= MAX_SPLITS, "(split + 1) * tiles has 32 bits");
  const uint32_t last = tiles * (blockIdx.z + 1) / splits * TILE, first = tiles * blockIdx.z / splits * TILE;
  return {static_cast<int32_t>(first), static_cast<int32_t>(last < pixels ? last : pixels)};
}

// overlay[n - first] becomes the fresh row of pixel n or -1, for n in [first, last), at most SEGMENT pixels. The whole
// block takes part and is in step afterwards.
__device__ inline void fill_overlay(const AttentionParameters& p, int32_t first, int32_t last, int32_t* overlay) {
  constexpr int BATCH = 4;  // loads of a thread in flight
  const int32_t count = last - first;
  const int32_t most = !p.active ? 0 : p.fresh < last ? p.fresh : last;  // pixel n comes at index n at the latest
#pragma unroll 1
  for (int32_t i = threadIdx.x; i < count; i += blockDim.x) overlay[i] = -1;
  __syncthreads();
#pragma unroll 1
  for (int32_t start = threadIdx.x; start < most; start += BATCH * blockDim.x) {
    int32_t pixels[BATCH], before[BATCH];
#pragma unroll
    for (int j = 0; j < BATCH; ++j) {
      const int32_t i = start + j * blockDim.x;
      pixels[j] = i < most ? __ldg(p.active + i) : -1;
      before[j] = i < most && i > 0 ? __ldg(p.active + i - 1) : -1;
    }
#pragma unroll
    for (int j = 0; j < BATCH; ++j) {
      const uint32_t place = pixels[j] - first;
      // The last pixel may be repeated, with equal rows: the first of them counts.
      if (pixels[j] >= first && place < count && pixels[j] != before[j]) overlay[place] = start + j * blockDim.x;
    }
  }
  __syncthreads();
}

// The device as far as the choice of kernel and splits depends on it.
struct Machine {
  int32_t processors;
  size_t shared;  // bytes of shared memory that one block may have
  bool clusters;  // whether blocks form clusters and may start while the kernel before still runs
  int capability;  // 90 for 9.0
};

// attention_hopper.cu: float16, heads of up to MAX_HOPPER_HEAD channels. A warpgroup has 64 queries. It chooses the splits.
constexpr int MAX_HOPPER_HEAD = 160;
bool runs_on_hopper(const AttentionParameters& p, const Machine& machine);
sige_status launch_attention_hopper(const AttentionParameters& p, cudaStream_t stream);

// attention_overlay.cu: base keys and values with the fresh ones in their places, for attention_hopper.cu. p then reads these.
bool pays_to_overlay(const sige_attention_args& a);
size_t overlay_bytes(const sige_attention_args& a);  // of its workspace
sige_status launch_attention_overlay(AttentionParameters& p, void* workspace, cudaStream_t stream);

// attention_mma.cu: float16, heads of up to MAX_MMA_HEAD channels. A warp has 16 queries.
constexpr int MAX_MMA_HEAD = 160;
constexpr int MMA_WARPS = 10;  // of a block at most
struct MmaShape {
  int32_t queries;  // of a block
  int32_t groups;   // of warps that have all of these and share the keys of a tile
  int32_t keys;     // of a tile
  int32_t blocks;   // that a processor holds at once

  int32_t threads() const { return queries * 2 * groups; }
};
MmaShape mma_shape(int32_t fresh, int32_t widest);
sige_status launch_attention_mma(const AttentionParameters& p, const Machine& machine, cudaStream_t stream);

// attention_wide.cu: float16, wide heads or few queries. Warps share the queries.
constexpr int WIDE_KEYS = 32;
constexpr int WIDE_SLICE = 128;  // most channels of the values that a block sums up
int32_t wide_queries(const Machine& machine, int32_t fresh, int32_t dk);  // per block; 0 if the head does not fit
sige_status launch_attention_wide(const AttentionParameters& p, const Machine& machine, cudaStream_t stream);

// attention_plain.cu: heads of up to MAX_PLAIN_HEAD channels, without tensor cores. Splits are partial.
constexpr int MAX_PLAIN_HEAD = 512;
constexpr int PLAIN_QUERIES = 16;
constexpr int PLAIN_KEYS = 32;
sige_status launch_attention_plain(const AttentionParameters& p, int32_t dtype, cudaStream_t stream);

// attention_combine.cu: adds up the partial splits; tells which architecture the code was compiled for.
cudaError_t attention_code(cudaFuncAttributes* attributes);
sige_status launch_attention_combine(const AttentionParameters& p, int32_t dtype, cudaStream_t stream);

}  // namespace sige::cuda
