#pragma once

#include <memory>

#include "source.h"

namespace sige::trt {

class Conv {
 public:
  static constexpr const char* NAME = "Conv";
  static constexpr Input INPUTS[] = {
      ROWS, BASE, HALO, TABLE, {"weight", Type::VALUES, true}, {"bias", Type::VALUES, false}, SCALE, SHIFT,
      {"embedding", Type::VALUES, false}, {"residual", Type::VALUES, false},
      {"multiplier", Type::VALUES, false}, ROWS_2, BASE_2};
  // Not `early`: TensorRT orders the nodes itself.
  static constexpr std::array<Attribute, 5> ATTRIBUTES{{{"group", Kind::kINT32},
                                             {"activation_in", Kind::kCHAR},
                                             {"alpha_in", Kind::kFLOAT32},
                                             {"activation_out", Kind::kCHAR},
                                             {"alpha_out", Kind::kFLOAT32}}};

  Conv(const Attributes& attributes, const Inputs& inputs);
  Shape shape(const Shapes& shapes) const;
  size_t workspace(const Call& call) const;
  void check_shapes(const Call& call) const { args(call); }
  void prepare(const Call& call);
  void run(const Call& call, void* out, sige_execution execution) const;

 private:
  static constexpr size_t WEIGHT = 4;

  sige_conv_args args(const Call& call) const;

  Sources sources_;
  int32_t group_;
  sige_activation activation_in_, activation_out_;
  float alpha_in_, alpha_out_;
  struct Free {
    void operator()(sige_plans* plans) const { sige_plans_destroy(plans); }
  };
  // The products of the row counts seen so far. Made when shapes are first set for a run, on the machine that runs.
  std::unique_ptr<sige_plans, Free> plans_;
};

}  // namespace sige::trt
