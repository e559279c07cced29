#include "device_exchange.h"

#include <mutex>

#include "indexer.h"
#include "text.h"

namespace sige {

// Memory of outputs that the caller has let go of, for the next ones: allocating it anew would wait for the device.
class Exchange::Pool : public std::enable_shared_from_this<Pool> {
 public:
  std::shared_ptr<const void> take(Memory& memory, size_t bytes) {
    std::shared_ptr<void> block = kept(bytes);
    if (!block) block = memory.allocate(bytes);
    const void* pointer = block.get();
    return {pointer, [pool = weak_from_this(), block = std::move(block), bytes](const void*) mutable {
              if (const auto alive = pool.lock()) alive->give_back(std::move(block), bytes);
            }};
  }

 private:
  std::shared_ptr<void> kept(size_t bytes) {
    const std::lock_guard<std::mutex> guard(mutex_);  // arrays are let go of in any thread
    const auto found = free_.find(bytes);
    if (found == free_.end()) return nullptr;
    std::shared_ptr<void> block = std::move(found->second);
    free_.erase(found);
    return block;
  }

  void give_back(std::shared_ptr<void> block, size_t bytes) {
    const std::lock_guard<std::mutex> guard(mutex_);
    free_.emplace(bytes, std::move(block));
  }

  std::mutex mutex_;
  std::multimap<size_t, std::shared_ptr<void>> free_;
};

Exchange::Exchange(Memory& memory, Place outputs)
    : memory_(memory), pool_(outputs == Place::CUDA ? std::make_shared<Pool>() : nullptr) {}

void Exchange::take(const Inputs& given, const Buffers& into) {
  for (const auto& [name, buffer] : into) {
    const View& view = given.at(name);
    memory_.take("input " + named(name), view.place, view.data, buffer.pointer, buffer.bytes());
  }
}

void Exchange::take_mask(const Mask& mask, const std::vector<Buffer>& into, double threshold) {
  memory_.take("mask", mask.place, mask.data, into[0].pointer, into[0].bytes());
  if (into.size() == 1) return;
  std::vector<uint8_t> pixels(into[0].bytes());
  Mask here = mask;
  if (mask.place != Place::HOST) {
    memory_.download(into[0].pointer, pixels.data(), pixels.size());
    here = {pixels.data(), mask.height, mask.width};
  }
  for (size_t i = 1; i < into.size(); ++i) {
    const std::vector<uint8_t> other = resampled(here, into[i].shape[0], into[i].shape[1], threshold);
    memory_.upload(other.data(), into[i].pointer, other.size());
  }
}

Outputs Exchange::give(const Buffers& results) {
  Outputs outputs;
  for (const auto& [name, buffer] : results) {
    Array& array = outputs[name];
    array.dtype = buffer.dtype;
    array.shape = buffer.shape;
    if (pool_) {
      array.cuda = pool_->take(memory_, buffer.bytes());
      memory_.copy(buffer.pointer, const_cast<void*>(array.cuda.get()), buffer.bytes());
    } else {
      array.bytes.resize(buffer.bytes());
      memory_.download(buffer.pointer, array.bytes.data(), array.bytes.size());
    }
  }
  memory_.synchronize();
  return outputs;
}

}  // namespace sige
