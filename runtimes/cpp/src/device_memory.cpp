#include "device_memory.h"

#include <cstdio>
#include <cstring>
#include <new>
#include <stdexcept>

#include "text.h"

namespace sige {

constexpr size_t ALIGNMENT = SIGE_WORKSPACE_ALIGNMENT;

Buffer Buffer::view(DType type, Shape sizes, size_t offset) const {
  Buffer part{static_cast<char*>(pointer) + offset, type, std::move(sizes), owner};
  if (offset + part.bytes() > bytes()) throw std::out_of_range("a view leaves its buffer");
  return part;
}

Buffer Memory::empty(DType dtype, Shape shape) {
  Buffer buffer{nullptr, dtype, std::move(shape), nullptr};
  buffer.owner = allocate(buffer.bytes());
  buffer.pointer = buffer.owner.get();
  return buffer;
}

Buffer Memory::uploaded(DType dtype, Shape shape, const void* values) {
  Buffer buffer = empty(dtype, std::move(shape));
  upload(values, buffer.pointer, buffer.bytes());
  return buffer;
}

sige_execution Memory::execution() const {
  sige_execution execution{};
  execution.backend = backend();
  execution.stream = stream();
  return execution;
}

std::shared_ptr<void> HostMemory::allocate(size_t bytes) {
  void* pointer = ::operator new(bytes, std::align_val_t{ALIGNMENT});
  return {pointer, [](void* p) { ::operator delete(p, std::align_val_t{ALIGNMENT}); }};
}

void HostMemory::copy(const void* source, void* target, size_t bytes) {
  if (bytes) std::memcpy(target, source, bytes);
}

void HostMemory::take(const std::string& what, Place place, const void* source, void* target, size_t bytes) {
  check_on_host(what, place);
  copy(source, target, bytes);
}

void HostMemory::fill(void* target, int byte, size_t bytes) {
  if (bytes) std::memset(target, byte, bytes);
}

void check_on_host(const std::string& what, Place place) {
  if (place != Place::HOST)
    throw Error(Kind::INPUT, what + " lies on a GPU, and this session runs on the CPU; pass host memory, or open the "
                                    "bundle with device \"cuda:0\".");
}

static size_t aligned(size_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

size_t laid_bytes(const std::vector<ArraySpec>& arrays) {
  size_t total = 0;
  for (const ArraySpec& array : arrays) total += aligned(bytes_of(array));
  return total;
}

Buffers laid_out(const Buffer& block, const std::vector<ArraySpec>& arrays) {
  Buffers views;
  size_t offset = 0;
  for (const ArraySpec& array : arrays) {
    views.insert_or_assign(array.name, block.view(array.dtype, array.shape, offset));
    offset += aligned(bytes_of(array));
  }
  return views;
}

Buffers laid_out(Memory& memory, const std::vector<ArraySpec>& arrays) {
  return laid_out(memory.empty(DType::UINT8, {static_cast<int64_t>(laid_bytes(arrays))}), arrays);
}

static std::string size_text(size_t bytes) {
  char text[64];
  if (bytes >= 100'000'000)
    std::snprintf(text, sizeof text, "%.1f GB", static_cast<double>(bytes) / 1e9);
  else
    std::snprintf(text, sizeof text, "%.1f MB", static_cast<double>(bytes) / 1e6);
  return text;
}

Error out_of_memory(const Memory& memory, size_t wanted) {
  return {Kind::RUNTIME, memory.device() + " is out of memory: " +
                             (wanted ? size_text(wanted) + " were needed and " : "") + size_text(memory.free_bytes()) +
                             " are free; close other sessions or programs on it, or export the network at a smaller "
                             "size."};
}

}  // namespace sige
