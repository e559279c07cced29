// The memory of an NVIDIA GPU.
#pragma once

#include <cuda_runtime_api.h>

#include <mutex>
#include <set>

#include "device_memory.h"

namespace sige {

// One GPU's memory with a stream of its own. Throws Error (RUNTIME) where the driver or the device is missing.
class CudaMemory : public Memory {
 public:
  // callers: the stream behind whose work arrays of the caller's are read.
  CudaMemory(int index, void* callers);
  ~CudaMemory() override;

  int index() const { return index_; }
  // "9.0"
  std::string capability() const;

  int32_t backend() const override { return SIGE_CUDA; }
  void* stream() const override { return stream_; }
  std::string device() const override { return device_; }
  std::unique_ptr<Scope> current() override;
  std::shared_ptr<void> allocate(size_t bytes) override;
  void upload(const void* source, void* target, size_t bytes) override;
  void download(const void* source, void* target, size_t bytes) override;
  void copy(const void* source, void* target, size_t bytes) override;
  void take(const std::string& what, Place place, const void* source, void* target, size_t bytes) override;
  std::shared_ptr<void> landing(size_t bytes) override;
  void fetch(const void* source, void* landing, size_t bytes) override;
  void fill(void* target, int byte, size_t bytes) override;
  void synchronize() override;
  size_t free_bytes() const override;

  // Whether memory that `landing` made begins there.
  bool lands(const void* pointer) const { return landings_->count(pointer) != 0; }
  // Throws Error with one sentence unless a call of the CUDA runtime went well.
  void check(cudaError_t error) const;
  // Has no CUDA runtime of the process report a failed call again. Each holds what failed last until it is asked, and
  // an engine that launches a kernel and then asks takes an old failure, as of a capture that was given up, for that of
  // its kernel. This library has a runtime of its own, an engine the one that it has loaded.
  void forget_failures() const;

 private:
  void check_device() const;
  void queue(void* target, const void* source, size_t bytes, cudaMemcpyKind kind);
  char* room(size_t bytes);

  int index_;
  std::string device_;
  cudaStream_t stream_ = nullptr, callers_;
  cudaEvent_t event_ = nullptr;
  std::shared_ptr<std::set<const void*>> landings_ = std::make_shared<std::set<const void*>>();
  // A ring of pinned host memory: a copy from it is asynchronous, and it is not written again before the stream is past
  // it.
  std::shared_ptr<void> staging_;
  size_t staged_ = 0;
};

}  // namespace sige
