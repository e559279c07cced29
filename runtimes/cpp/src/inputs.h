// What a user hands in: checked, and compared with what was recorded.
#pragma once

#include <vector>

#include "device_memory.h"
#include "manifest.h"
#include "sige/indices.h"

namespace sige {

// Throws Error (INPUT) for unknown or missing names and another dtype or shape.
void check_inputs(const std::vector<InputSpec>& specs, const Inputs& given);
void check_mask(const Mask& mask, const InputSpec& spatial);

// All inputs of a bundle compared with the recorded ones by one call, where they lie.
class Comparison {
 public:
  // status: int32 [inputs, 2] of the memory, written by `launch`: nonzero where the given input holds NaN or infinity,
  // and where it differs from the recorded one in some bit.
  Comparison(const Memory& memory, const Manifest& manifest, int32_t* status);

  // Compares; stream-ordered. recorded: one for each input, or none to look for NaN and infinity alone. masks: uint8
  // [y, x] for each input, written 1 where a pixel is edited, else 0; null where none is wanted.
  void launch(const std::vector<const void*>& given, const std::vector<const void*>& recorded,
              const std::vector<uint8_t*>& masks);

 private:
  std::vector<sige_compare_args> args_;
  int32_t* status_;
  sige_execution execution_;
};

}  // namespace sige
