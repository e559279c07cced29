// What the attention kernels share: their parameters, where a head's rows lie, which keys are fresh, their share of
// the keys.
#pragma once

#include "device.cuh"

namespace sige::cuda {

constexpr int MAX_CLUSTER = 8;  // blocks of a portable cluster
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
  bool wide_k, wide_v;    // whether channels may be loaded 16 bytes at a time
  bool wide_out;          // whether outputs may be stored 4 at a time
  float scale;            // times log2(e): the softmax uses powers of two
};

// The rows of one head of one image. Fresh keys and values lie over those of the base.
template <typename T>
struct Head {
  const T *queries, *fresh_keys, *base_keys, *fresh_values, *base_values;
  T* out;
  int64_t key_channels, value_channels;

  __device__ Head(const AttentionParameters& p, int32_t index)
      : key_channels(int64_t{p.heads} * p.dk), value_channels(int64_t{p.heads} * p.dv) {
    const int64_t b = index / p.heads, h = index % p.heads;
    queries = static_cast<const T*>(p.q) + b * p.fresh * key_channels + h * p.dk;
    fresh_keys = static_cast<const T*>(p.k) + b * p.fresh * key_channels + h * p.dk;
    base_keys = static_cast<const T*>(p.k_base) + b * p.pixels * key_channels + h * p.dk;
    fresh_values = static_cast<const T*>(p.v) + b * p.fresh * value_channels + h * p.dv;
    base_values = static_cast<const T*>(p.v_base) + b * p.pixels * value_channels + h * p.dv;
    out = static_cast<T*>(p.out) + b * p.fresh * value_channels + h * p.dv;
  }
  __device__ const T* query(int64_t row) const { return queries + row * key_channels; }
  // `fresh` is the pixel's fresh row or -1.
  __device__ const T* key(int64_t pixel, int64_t fresh) const {
    return fresh >= 0 ? fresh_keys + fresh * key_channels : base_keys + pixel * key_channels;
  }
  __device__ const T* value(int64_t pixel, int64_t fresh) const {
    return fresh >= 0 ? fresh_values + fresh * value_channels : base_values + pixel * value_channels;
  }
};

struct Range {
  int32_t first, last;
};

// The keys of split blockIdx.z: whole tiles, the last of which may reach beyond the last key.
__device__ inline Range keys_of(const AttentionParameters& p, int32_t tile) {
  const int64_t tiles = (int64_t{p.pixels} + tile - 1) / tile, split = blockIdx.z;
  const int64_t last = tiles * (split + 1) / p.splits * tile;
  return {static_cast<int32_t>(tiles * split / p.splits * tile), static_cast<int32_t>(last < p.pixels ? last : p.pixels)};
}

// overlay[n - first] becomes the fresh row of pixel n or -1, for n in [first, last), at most SEGMENT pixels. The whole
// block takes part and is in step afterwards.
__device__ inline void fill_overlay(const AttentionParameters& p, int32_t first, int32_t last, int32_t* overlay) {
  for (int i = threadIdx.x; i < last - first; i += blockDim.x) overlay[i] = -1;
  __syncthreads();
  const int32_t most = p.fresh < last ? p.fresh : last;  // ascending: pixel n comes first at index n at the latest
#pragma unroll 8
  for (int32_t i = threadIdx.x; i < most; i += blockDim.x) {
    const int32_t pixel = __ldg(p.active + i), before = i ? __ldg(p.active + i - 1) : -1;
    // The last pixel may be repeated, with equal rows: the first of them counts.
    if (pixel >= first && pixel < last && pixel != before) overlay[pixel - first] = i;
  }
  __syncthreads();
}

// The device as far as the choice of kernel and splits depends on it.
struct Machine {
  int32_t processors;
  size_t shared;  // bytes of shared memory that one block may have
  bool clusters;  // whether blocks form clusters and may start while the kernel before still runs
};

// attention_mma.cu: float16, heads of up to MAX_MMA_HEAD channels. A warp owns 16 queries.
constexpr int MAX_MMA_HEAD = 160;
constexpr int MMA_QUERIES = 64;
int32_t mma_key_tile(int32_t widest);
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
