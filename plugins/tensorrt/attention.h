#pragma once

#include "call.h"

namespace sige::trt {

class Attention {
 public:
  static constexpr const char* NAME = "Attention";
  static constexpr const auto& INPUTS = ATTENTION_INPUTS;
  static constexpr std::array<Attribute, 2> ATTRIBUTES{{{"heads", Kind::kINT32}, {"scale", Kind::kFLOAT32}}};

  Attention(const Attributes& attributes, const Inputs& inputs);
  Shape shape(const Shapes& shapes) const;
  size_t workspace(const Call& call) const;
  void check_shapes(const Call& call) const { attention_args(call, call.dtype(), heads_, scale_); }
  void prepare(const Call&) {}
  void run(const Call& call, void* out, const sige_execution& execution) const;

 private:
  int32_t heads_;
  float scale_;
};

}  // namespace sige::trt
