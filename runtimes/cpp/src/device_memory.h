// Memory that native kernels and engines share: buffers at fixed addresses, on the host or on a GPU.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "device.h"
#include "sige/kernels.h"

namespace sige {

// A dense row-major array at a fixed address of some memory, which lives as long as the buffer or a view of it.
struct Buffer {
  void* pointer = nullptr;
  DType dtype = DType::UINT8;
  Shape shape;
  std::shared_ptr<void> owner;

  size_t bytes() const { return static_cast<size_t>(count_of(shape)) * size_of(dtype); }
  // The same memory, from byte `offset` on, as another array.
  Buffer view(DType type, Shape sizes, size_t offset = 0) const;
  template <typename T>
  T* as() const {
    return static_cast<T*>(pointer);
  }
};

using Buffers = std::map<std::string, Buffer>;

// One kind of memory with one stream of work; everything below is ordered on that stream. All methods throw Error with
// one sentence; on a GPU they are called inside `current()`.
class Memory {
 public:
  virtual ~Memory() = default;
  virtual int32_t backend() const = 0;  // sige_backend
  virtual void* stream() const = 0;     // cudaStream_t, null on the host
  virtual std::string device() const = 0;  // "cpu", "cuda:0", ...
  virtual std::unique_ptr<Scope> current() = 0;
  // New memory of any contents, aligned to SIGE_WORKSPACE_ALIGNMENT.
  virtual std::shared_ptr<void> allocate(size_t bytes) = 0;
  // Copies from the host; `source` may change as soon as this returns.
  virtual void upload(const void* source, void* target, size_t bytes) = 0;
  // Copies to the host, after all work before; waits for it.
  virtual void download(const void* source, void* target, size_t bytes) = 0;
  virtual void copy(const void* source, void* target, size_t bytes) = 0;
  // Takes in an array of the caller's, from wherever it lies. Throws Error (INPUT) where this memory cannot read it.
  virtual void take(const std::string& what, Place place, const void* source, void* target, size_t bytes) = 0;
  // New host memory for `fetch`, and a copy into it, which is there after `synchronize`.
  virtual std::shared_ptr<void> landing(size_t bytes) = 0;
  virtual void fetch(const void* source, void* landing, size_t bytes) = 0;
  virtual void fill(void* target, int byte, size_t bytes) = 0;
  virtual void synchronize() = 0;
  // Bytes that could be allocated now, about.
  virtual size_t free_bytes() const = 0;

  Buffer empty(DType dtype, Shape shape);
  // A new buffer with the host's values.
  Buffer uploaded(DType dtype, Shape shape, const void* values);
  // Where calls of the kernels run that need no workspace.
  sige_execution execution() const;
};

// Host memory, where everything happens at once: the kernels' CPU backend runs on it.
class HostMemory : public Memory {
 public:
  int32_t backend() const override { return SIGE_CPU; }
  void* stream() const override { return nullptr; }
  std::string device() const override { return "cpu"; }
  std::unique_ptr<Scope> current() override { return nullptr; }
  std::shared_ptr<void> allocate(size_t bytes) override;
  void upload(const void* source, void* target, size_t bytes) override { copy(source, target, bytes); }
  void download(const void* source, void* target, size_t bytes) override { copy(source, target, bytes); }
  void copy(const void* source, void* target, size_t bytes) override;
  void take(const std::string& what, Place place, const void* source, void* target, size_t bytes) override;
  std::shared_ptr<void> landing(size_t bytes) override { return allocate(bytes); }
  void fetch(const void* source, void* landing, size_t bytes) override { copy(source, landing, bytes); }
  void fill(void* target, int byte, size_t bytes) override;
  void synchronize() override {}
  size_t free_bytes() const override { return size_t{1} << 62; }  // the system's to judge
};

// Throws Error (INPUT) unless the host can read what lies there. what: "input 'image'".
void check_on_host(const std::string& what, Place place);

// Bytes of one allocation for all arrays, and a view for each of them at an aligned address of it.
size_t laid_bytes(const std::vector<ArraySpec>& arrays);
Buffers laid_out(const Buffer& block, const std::vector<ArraySpec>& arrays);
Buffers laid_out(Memory& memory, const std::vector<ArraySpec>& arrays);

// The one sentence about it. wanted: bytes, 0 where that is not known.
Error out_of_memory(const Memory& memory, size_t wanted);

}  // namespace sige
