#pragma once

#include "source.h"

namespace sige::trt {

class Gather {
 public:
  static constexpr const char* NAME = "Gather";
  static constexpr const auto& INPUTS = GATHER_INPUTS;
  static constexpr std::array<Attribute, 4> ATTRIBUTES{{
      {"activation", Kind::kCHAR}, {"alpha", Kind::kFLOAT32}, {"phases", Kind::kINT32}, {"pad_value", Kind::kFLOAT32}}};

  Gather(const Attributes& attributes, const Inputs& inputs);
  Shape shape(const Shapes& shapes) const;
  size_t workspace(const Call& call) const;
  void check_shapes(const Call& call) const { args(call); }
  void prepare(const Call&) {}
  void run(const Call& call, void* out, const sige_execution& execution) const;

 private:
  sige_gather_args args(const Call& call) const;

  Sources sources_;
  sige_activation activation_;
  float alpha_;
  int32_t phases_;
  float pad_value_;
};

}  // namespace sige::trt
