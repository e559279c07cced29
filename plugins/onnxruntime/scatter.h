#pragma once

#include "kernel.h"

namespace sige::ort {

class Scatter : Kernel {
 public:
  static constexpr const char* NAME = "Scatter";
  static constexpr Input INPUTS[] = {
      {"base", Type::VALUES, true}, {"rows", Type::VALUES, true}, {"active", Type::INDICES, true}};

  using Kernel::Kernel;
  void run(Call& call) const;
};

}  // namespace sige::ort
