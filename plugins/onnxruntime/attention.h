#pragma once

#include "kernel.h"

namespace sige::ort {

class Attention : Kernel {
 public:
  static constexpr const char* NAME = "Attention";
  static constexpr Input INPUTS[] = {{"q", Type::VALUES, true},      {"k", Type::VALUES, true},
                                     {"v", Type::VALUES, true},      {"k_base", Type::VALUES, true},
                                     {"v_base", Type::VALUES, true}, {"active", Type::INDICES, true}};

  Attention(const Ort::ConstKernelInfo& info, const Target& target);
  void run(Call& call) const;

 private:
  int32_t heads_;
  float scale_;
};

}  // namespace sige::ort
