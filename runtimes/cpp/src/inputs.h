// What a user hands in: checked, and compared with what was recorded.
#pragma once

#include <vector>

#include "graphs.h"
#include "manifest.h"

namespace sige {

// Throws Error (INPUT) for unknown or missing names and another dtype or shape.
void check_inputs(const std::vector<InputSpec>& specs, const Inputs& given);
void check_mask(const Mask& mask, const InputSpec& spatial);

// Inputs beside the recorded ones.
struct Comparison {
  std::vector<std::vector<uint8_t>> masks;  // pixels that differ, of each spatial input; none if not asked for
  std::vector<bool> changed;                // whether an input differs in any bit
};

// recorded: null only looks for NaN and infinity. Throws Error (INPUT) where an input holds such.
Comparison compare(const Manifest& manifest, const Inputs& given, const Arrays* recorded, bool masks);

}  // namespace sige
