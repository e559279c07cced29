#pragma once

#include "kernel.h"

namespace sige::ort {

class Attention : Kernel {
 public:
  static constexpr const char* NAME = "Attention";
  static constexpr const auto& INPUTS = ATTENTION_INPUTS;

  Attention(const Ort::ConstKernelInfo& info, const Target& target);
  void run(Call& call) const;

 private:
  AttentionSettings settings_;
};

}  // namespace sige::ort
