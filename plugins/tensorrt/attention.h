#pragma once

#include "call.h"

namespace sige::trt {

class Attention {
 public:
  static constexpr const char* NAME = "Attention";
  static constexpr const auto& INPUTS = ATTENTION_INPUTS;
  static constexpr std::array<Attribute, 9> ATTRIBUTES{{{"heads", Kind::kINT32},
                                                        {"scale", Kind::kFLOAT32},
                                                        {"q_offset", Kind::kINT32},
                                                        {"k_offset", Kind::kINT32},
                                                        {"v_offset", Kind::kINT32},
                                                        {"k_base_offset", Kind::kINT32},
                                                        {"v_base_offset", Kind::kINT32},
                                                        {"dk", Kind::kINT32},
                                                        {"dv", Kind::kINT32}}};

  Attention(const Attributes& attributes, const Inputs& inputs);
  Shape shape(const Shapes& shapes) const;
  size_t workspace(const Call& call) const;
  void check_shapes(const Call& call) const { attention_args(call, call.dtype(), settings_); }
  void prepare(const Call&) {}
  void run(const Call& call, void* out, const sige_execution& execution) const;

 private:
  AttentionSettings settings_;
};

}  // namespace sige::trt
