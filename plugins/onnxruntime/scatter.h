#pragma once

#include "kernel.h"

namespace sige::ort {

class Scatter : Kernel {
 public:
  static constexpr const char* NAME = "Scatter";
  static constexpr const auto& INPUTS = SCATTER_INPUTS;

  using Kernel::Kernel;
  void run(Call& call) const;
};

}  // namespace sige::ort
