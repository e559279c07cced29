// Launches of kernels whose blocks form clusters and that may start while the kernel before still runs.
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <cstdint>

#include "device.cuh"

namespace sige::cuda {

constexpr int MAX_DEVICES = 64;
constexpr int MAX_CLUSTER = 8;  // blocks of a portable cluster
constexpr int64_t PROCESSORS = 132;  // of an H200: estimates of time are fitted to it

// The attributes are part of it.
struct Launch {
  cudaLaunchConfig_t config{};
  cudaLaunchAttribute attributes[2]{};

  // A grid of columns x rows clusters of `splits` blocks in z.
  Launch(unsigned columns, unsigned rows, unsigned splits, int threads, size_t shared, cudaStream_t stream) {
    attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[0].val.programmaticStreamSerializationAllowed = 1;
    attributes[1].id = cudaLaunchAttributeClusterDimension;
    attributes[1].val.clusterDim.x = attributes[1].val.clusterDim.y = 1;
    attributes[1].val.clusterDim.z = splits;
    config.gridDim = dim3(columns, rows, splits);
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared;
    config.stream = stream;
    config.attrs = attributes;
    config.numAttrs = 2;
  }
};

// Clusters of so many blocks that run at once on the current device; 0 if it cannot be told. `shared` is about the same at
// every call with the same KIND.
template <auto KERNEL, size_t KIND = 0>
int clusters_at_once(int threads, unsigned splits, size_t shared) {
  static std::atomic<int> known[MAX_DEVICES][MAX_CLUSTER + 1];
  int device, count = 0;
  if (cudaGetDevice(&device) || device >= MAX_DEVICES) return 0;
  std::atomic<int>& answer = known[device][splits];
  if ((count = answer.load(std::memory_order_relaxed))) return count;
  const Launch one(1, 1, splits, threads, shared, nullptr);
  if (cudaOccupancyMaxActiveClusters(&count, KERNEL, &one.config)) {
    cudaGetLastError();
    return 0;
  }
  answer.store(count, std::memory_order_relaxed);
  return count;
}

// Whether a kernel was compiled with the instructions that order overlapping kernels, on the current device.
template <auto KERNEL>
bool may_overlap() {
  enum { UNKNOWN, NO, YES };
  static std::atomic<int> known[MAX_DEVICES];
  int device;
  if (cudaGetDevice(&device) || device >= MAX_DEVICES) return false;
  int answer = known[device].load(std::memory_order_relaxed);
  if (answer == UNKNOWN) {
    cudaFuncAttributes attributes;
    if (cudaFuncGetAttributes(&attributes, KERNEL)) {
      cudaGetLastError();
      return false;
    }
    answer = attributes.ptxVersion >= 90 ? YES : NO;
    known[device].store(answer, std::memory_order_relaxed);
  }
  return answer == YES;
}

// Launches an elementwise kernel. With `overlap` it may start while the one before still runs: it calls
// wait_for_predecessor before it touches what others read or write.
template <auto KERNEL, typename... Arguments>
sige_status launch_elementwise(bool overlap, dim3 grid, cudaStream_t stream, const Arguments&... arguments) {
  Launch launch(grid.x, grid.y, 1, THREADS, 0, stream);
  launch.config.numAttrs = overlap ? 1 : 0;  // the first: it has no clusters
  return cudaLaunchKernelEx(&launch.config, KERNEL, arguments...) == cudaSuccess ? SIGE_OK : failed();
}

// The same, where the kernel was compiled for it.
template <auto KERNEL, typename... Arguments>
sige_status launch_overlapping(dim3 grid, cudaStream_t stream, const Arguments&... arguments) {
  return launch_elementwise<KERNEL>(may_overlap<KERNEL>(), grid, stream, arguments...);
}

}  // namespace sige::cuda
