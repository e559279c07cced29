#include "cuda.h"

#include <dlfcn.h>
#include <link.h>

#include <cstring>

#include "text.h"

namespace sige {

constexpr size_t STAGING = 32 << 20;  // bytes of pinned host memory, through which arrays of up to half of it travel
constexpr size_t SLOT = 256;          // bytes to which staged arrays are aligned

// The thread's former device comes back at the end.
class CudaScope : public Scope {
 public:
  explicit CudaScope(const CudaMemory& memory) : index_(memory.index()) {
    memory.check(cudaGetDevice(&before_));
    if (before_ != index_) memory.check(cudaSetDevice(index_));
  }
  ~CudaScope() override {
    if (before_ != index_) cudaSetDevice(before_);
  }

 private:
  int index_, before_ = 0;
};

CudaMemory::CudaMemory(int index, void* callers)
    : index_(index), device_("cuda:" + std::to_string(index)), callers_(static_cast<cudaStream_t>(callers)) {
  check_device();
  const CudaScope here(*this);
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming));
}

CudaMemory::~CudaMemory() {
  cudaEventDestroy(event_);
  cudaStreamDestroy(stream_);
}

std::string CudaMemory::capability() const {
  int major = 0, minor = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index_));
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index_));
  return std::to_string(major) + "." + std::to_string(minor);
}

std::unique_ptr<Scope> CudaMemory::current() { return std::make_unique<CudaScope>(*this); }

std::shared_ptr<void> CudaMemory::allocate(size_t bytes) {
  void* pointer = nullptr;
  const cudaError_t error = cudaMalloc(&pointer, std::max<size_t>(bytes, 1));
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // or the next call would report it again
    throw out_of_memory(*this, bytes);
  }
  check(error);
  return {pointer, [](void* p) { cudaFree(p); }};
}

void CudaMemory::upload(const void* source, void* target, size_t bytes) {
  if (bytes > 0 && bytes <= STAGING / 2) {
    char* place = room(bytes);
    std::memcpy(place, source, bytes);
    source = place;
  }
  queue(target, source, bytes, cudaMemcpyHostToDevice);
}

void CudaMemory::download(const void* source, void* target, size_t bytes) {
  char* place = bytes > 0 && bytes <= STAGING / 2 ? room(bytes) : nullptr;
  queue(place ? place : target, source, bytes, cudaMemcpyDeviceToHost);
  synchronize();
  if (place) std::memcpy(target, place, bytes);
}

void CudaMemory::copy(const void* source, void* target, size_t bytes) {
  queue(target, source, bytes, cudaMemcpyDeviceToDevice);
}

void CudaMemory::take(const std::string& what, Place place, const void* source, void* target, size_t bytes) {
  if (place == Place::HOST) {
    upload(source, target, bytes);
    return;
  }
  cudaPointerAttributes found{};
  const bool known = bytes == 0 || cudaPointerGetAttributes(&found, source) == cudaSuccess;
  cudaGetLastError();  // or the next call would report it again
  const bool here =
      (found.type == cudaMemoryTypeDevice && found.device == index_) || found.type == cudaMemoryTypeManaged;
  if (bytes && (!known || !here))
    throw Error(Kind::INPUT, what + " is said to lie on a GPU, and its address is not in the memory of " + device_ +
                                 "; pass memory of that device, or a view of host memory.");
  check(cudaEventRecord(event_, callers_));
  check(cudaStreamWaitEvent(stream_, event_, 0));
  copy(source, target, bytes);
}

std::shared_ptr<void> CudaMemory::landing(size_t bytes) {
  void* pointer = nullptr;
  check(cudaHostAlloc(&pointer, std::max<size_t>(bytes, 1), cudaHostAllocDefault));
  landings_->insert(pointer);
  return {pointer, [landings = landings_](void* p) {
            landings->erase(p);
            cudaFreeHost(p);
          }};
}

void CudaMemory::fetch(const void* source, void* landing, size_t bytes) {
  queue(landing, source, bytes, cudaMemcpyDeviceToHost);
}

void CudaMemory::fill(void* target, int byte, size_t bytes) { check(cudaMemsetAsync(target, byte, bytes, stream_)); }

void CudaMemory::synchronize() {
  check(cudaStreamSynchronize(stream_));
  staged_ = 0;  // everything queued is done: all room is free again
}

size_t CudaMemory::free_bytes() const {
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total));
  return free;
}

void CudaMemory::check(cudaError_t error) const {
  if (error != cudaSuccess)
    throw Error(Kind::RUNTIME, device_ + " failed with '" + cudaGetErrorString(error) + "'; open the bundle again.");
}

void CudaMemory::forget_failures() const {
  cudaGetLastError();
  std::vector<std::string> runtimes;
  dl_iterate_phdr(
      [](dl_phdr_info* library, size_t, void* found) {
        if (std::strstr(library->dlpi_name, "/libcudart.so"))
          static_cast<std::vector<std::string>*>(found)->push_back(library->dlpi_name);
        return 0;
      },
      &runtimes);
  for (const std::string& path : runtimes)
    if (void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_NOLOAD)) {
      if (void* function = dlsym(handle, "cudaGetLastError")) reinterpret_cast<cudaError_t (*)()>(function)();
      dlclose(handle);
    }
}

void CudaMemory::check_device() const {
  const std::string instead = ", or open the bundle with device='cpu'.";
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  cudaGetLastError();  // or the next call would report it again
  if (error != cudaSuccess && error != cudaErrorNoDevice)
    throw Error(Kind::RUNTIME, "device " + named(device_) + " needs an NVIDIA driver for CUDA " +
                                   std::to_string(CUDART_VERSION / 1000) +
                                   " or later, and this machine has none; install it" + instead);
  if (index_ >= count)
    throw Error(Kind::RUNTIME, "there is no device " + named(device_) + ": this machine has " + std::to_string(count) +
                                   " CUDA device" + (count == 1 ? "" : "s") + "; choose another" + instead);
}

void CudaMemory::queue(void* target, const void* source, size_t bytes, cudaMemcpyKind kind) {
  if (bytes) check(cudaMemcpyAsync(target, source, bytes, kind, stream_));
}

// So many bytes of pinned memory that nothing in flight uses.
char* CudaMemory::room(size_t bytes) {
  if (!staging_) {
    void* pointer = nullptr;
    check(cudaHostAlloc(&pointer, STAGING, cudaHostAllocDefault));
    staging_ = {pointer, [](void* p) { cudaFreeHost(p); }};
  }
  if (staged_ + bytes > STAGING) synchronize();
  char* place = static_cast<char*>(staging_.get()) + staged_;
  staged_ += (bytes + SLOT - 1) / SLOT * SLOT;
  return place;
}

}  // namespace sige
