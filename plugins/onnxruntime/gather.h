#pragma once

#include "source.h"

namespace sige::ort {

class Gather : Kernel {
 public:
  static constexpr const char* NAME = "Gather";
  static constexpr const auto& INPUTS = GATHER_INPUTS;

  Gather(const Ort::ConstKernelInfo& info, const Target& target);
  void run(Call& call) const;

 private:
  Sources sources_;
  sige_activation activation_;
  float alpha_;
  int32_t phases_;
  float pad_value_;
};

}  // namespace sige::ort
