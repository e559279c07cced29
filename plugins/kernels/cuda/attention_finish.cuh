// How the tensor-core kernels begin and end: launch, rows into shared memory, the sum over the blocks of a cluster.
#pragma once

#include <cooperative_groups.h>

#include "attention.cuh"
#include "launch.cuh"
#include "mma.cuh"

namespace sige::cuda {

constexpr int PAD = 8;  // halves or floats behind each row of a tile in shared memory, against bank conflicts

// Starts the way of the range's base keys and values into the L2 cache: all heads of some rows, as the other heads' blocks
// do it for the other rows. Nothing is read, so what comes before may still write them.
__device__ inline void prefetch_base(const AttentionParameters& p, const Head<__half>& head, int32_t head_index,
                                     const Range& range) {
  if (threadIdx.x % 32) return;  // an instruction of single lanes
  const int32_t h = head_index % p.heads, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const int32_t soon = range.last - range.first < SEGMENT ? range.last - range.first : SEGMENT;
  const int32_t first = range.first + soon * h / p.heads, last = range.first + soon * (h + 1) / p.heads;
  const auto fetch = [&](const __half* from, int32_t width, int32_t stride) {  // of row `first`
    const int32_t rows = stride == width ? last - first : 1;  // that lie side by side
#pragma unroll 1
    for (int32_t n = warp * rows; n < last - first; n += warps * rows)
      prefetch(from + int64_t{n} * stride, rows * width);
  };
  if (p.wide_k) fetch(head.key(first, -1) - h * p.dk, p.heads * p.dk, p.k_base_stride);
  if (p.wide_v) fetch(head.value(first, -1) - h * p.dv, p.heads * p.dv, p.v_base_stride);
}

// Finishes a block: `sums` [rows][leading] relative to the maxima in `states` {maximum, sum}, both in shared memory,
// are added up over the cluster (or the block alone) and become columns [first_column, first_column + columns) of the
// head's outputs; or, with partial splits, they are written as they are. The whole block takes part.
__device__ inline void finish(const AttentionParameters& p, const Head<__half>& head, int32_t head_index,
                              int32_t first_query, int32_t rows, int32_t first_column, int32_t columns,
                              const float* sums, int32_t leading, const float2* states) {
  int32_t parts = 1, rank = 0;
#if __CUDA_ARCH__ >= 900
  const auto cluster = cooperative_groups::this_cluster();
  if (!p.partial) {
    parts = p.splits;
    rank = blockIdx.z;
  }
#endif
  if (parts > 1) {
    cluster_publish();
  } else {
    __syncthreads();
  }

  const uint32_t vectors = (columns + 3) / 4;
#pragma unroll 1  // small code: a kernel that runs for a few microseconds waits for its instructions
  for (uint32_t i = rank * blockDim.x + threadIdx.x; i < rows * vectors; i += parts * blockDim.x) {
    const int32_t row = i / vectors, column = i % vectors * 4;
    float4 sum[MAX_CLUSTER];
    float2 state[MAX_CLUSTER];
#pragma unroll
    for (int part = 0; part < MAX_CLUSTER; ++part) {
      sum[part] = make_float4(0, 0, 0, 0);
      state[part] = make_float2(-INFINITY, 0);
      if (part >= parts) continue;
      const float* from = sums + row * leading + column;
      const float2* of = states + row;
#if __CUDA_ARCH__ >= 900
      if (parts > 1) {
        from = cluster.map_shared_rank(from, part);
        of = cluster.map_shared_rank(of, part);
      }
#endif
      sum[part] = *reinterpret_cast<const float4*>(from);
      state[part] = *of;
    }

    const int32_t width = columns - column < 4 ? columns - column : 4;
    if (p.partial) {
      const int64_t slot = (int64_t{blockIdx.z} * p.batch * p.heads + head_index) * p.fresh + first_query + row;
      float* to = p.partial + slot * p.dv + first_column + column;
      const float values[4] = {sum[0].x, sum[0].y, sum[0].z, sum[0].w};
#pragma unroll
      for (int c = 0; c < 4; ++c)
        if (c < width) to[c] = values[c];
      if (first_column + column == 0) p.partial_state[slot] = state[0];
      continue;
    }

    float maximum = state[0].x;
#pragma unroll
    for (int part = 1; part < MAX_CLUSTER; ++part) maximum = fmaxf(maximum, state[part].x);
    float total = 0, values[4] = {};
#pragma unroll
    for (int part = 0; part < MAX_CLUSTER; ++part) {
      const float shrink = power2(state[part].x - maximum);
      total += state[part].y * shrink;
      values[0] += sum[part].x * shrink;
      values[1] += sum[part].y * shrink;
      values[2] += sum[part].z * shrink;
      values[3] += sum[part].w * shrink;
    }
    const float share = __fdividef(1.0f, total);
    __half* to = head.out + (first_query + row) * head.channels + first_column + column;
    if (p.wide_out) {
      *reinterpret_cast<uint2*>(to) =
          make_uint2(to_halves(values[0] * share, values[1] * share), to_halves(values[2] * share, values[3] * share));
    } else {
#pragma unroll
      for (int c = 0; c < 4; ++c)
        if (c < width) to[c] = __float2half_rn(values[c] * share);
    }
  }
  if (parts > 1) cluster_leave();
}

// Launches a tensor-core kernel; where the machine has clusters, the splits are one, and the start overlaps with the
// end of the kernel before.
inline sige_status launch_tensor_cores(void (*kernel)(AttentionParameters), const AttentionParameters& p,
                                       const Machine& machine, dim3 grid, int threads, size_t shared,
                                       cudaStream_t stream) {
  const auto bytes = static_cast<int>(shared);
  if (cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes)) return failed();
  Launch launch(grid.x, grid.y, grid.z, threads, shared, stream);
  launch.config.numAttrs = machine.clusters ? 2 : 0;
  return cudaLaunchKernelEx(&launch.config, kernel, p) == cudaSuccess ? SIGE_OK : failed();
}

}  // namespace sige::cuda
