#pragma once

#include "call.h"

namespace sige::trt {

class Attention {
 public:
  static constexpr const char* NAME = "Attention";
  static constexpr Input INPUTS[] = {{"q", Type::VALUES, true},      {"k", Type::VALUES, true},
                                     {"v", Type::VALUES, true},      {"k_base", Type::VALUES, true},
                                     {"v_base", Type::VALUES, true}, {"active", Type::INDICES, true}};
  static constexpr std::array<Attribute, 2> ATTRIBUTES{{{"heads", Kind::kINT32}, {"scale", Kind::kFLOAT32}}};

  Attention(const Attributes& attributes, const Inputs& inputs);
  Shape shape(const Shapes& shapes) const;
  size_t workspace(const Call& call) const;
  void check_shapes(const Call& call) const { args(call); }
  void prepare(const Call&) {}
  void run(const Call& call, void* out, const sige_execution& execution) const;

 private:
  sige_attention_args args(const Call& call) const;

  int32_t heads_;
  float scale_;
};

}  // namespace sige::trt
