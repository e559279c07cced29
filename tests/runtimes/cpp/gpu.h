// Arrays on a GPU, for the driver where it is built with CUDA.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <vector>

inline void sure(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::cerr << "the driver: " << cudaGetErrorString(error) << std::endl;
  std::exit(1);
}

// A stream that nothing waits for by itself; null where the device cannot be used, which the library then says.
inline cudaStream_t stream_of(const std::string& device) {
  cudaStream_t stream = nullptr;
  if (cudaSetDevice(std::atoi(device.substr(std::min<size_t>(device.size(), 5)).c_str())) == cudaSuccess)
    sure(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  return stream;
}

// A copy, queued on a stream.
inline std::shared_ptr<void> on_gpu(const std::vector<char>& bytes, cudaStream_t stream) {
  void* pointer = nullptr;
  sure(cudaMalloc(&pointer, bytes.size() + 1));
  sure(cudaMemcpyAsync(pointer, bytes.data(), bytes.size(), cudaMemcpyHostToDevice, stream));
  return {pointer, [](void* p) { cudaFree(p); }};
}

inline std::vector<char> from_gpu(const void* pointer, size_t bytes, cudaStream_t stream) {
  std::vector<char> result(bytes);
  sure(cudaMemcpyAsync(result.data(), pointer, bytes, cudaMemcpyDeviceToHost, stream));
  sure(cudaStreamSynchronize(stream));
  return result;
}
