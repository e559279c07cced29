// The caller's arrays into buffers of a memory, and buffers back into arrays.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "device_memory.h"

namespace sige {

class Exchange {
 public:
  // outputs: where the arrays lie that `give` makes.
  Exchange(Memory& memory, Place outputs);

  // Copies inputs that were checked into the buffers of their names. They must live until the memory is synchronised.
  void take(const Inputs& given, const Buffers& into);

  // Copies a mask as it is into the first buffer, uint8 [h, w], which has its size, resampled into the others.
  void take_mask(const Mask& mask, const std::vector<Buffer>& into, double threshold);

  // The buffers' contents after all work before; waits for it.
  Outputs give(const Buffers& results);

 private:
  class Pool;
  Memory& memory_;
  std::shared_ptr<Pool> pool_;  // null: outputs go to the host
};

}  // namespace sige
