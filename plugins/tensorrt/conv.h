#pragma once

#include <memory>

#include "source.h"

namespace sige::trt {

class Conv {
 public:
  static constexpr const char* NAME = "Conv";
  static constexpr const auto& INPUTS = CONV_INPUTS;
  // Not `early`: TensorRT orders the nodes itself.
  static constexpr std::array<Attribute, 7> ATTRIBUTES{{{"group", Kind::kINT32},
                                             {"activation_in", Kind::kCHAR},
                                             {"alpha_in", Kind::kFLOAT32},
                                             {"activation_out", Kind::kCHAR},
                                             {"alpha_out", Kind::kFLOAT32},
                                             {"norm_epsilon", Kind::kFLOAT32},
                                             {"gate", Kind::kCHAR}}};

  Conv(const Attributes& attributes, const Inputs& inputs);
  Shape shape(const Shapes& shapes) const;
  size_t workspace(const Call& call) const;
  void check_shapes(const Call& call) const { conv_args(call, call.dtype(), sources_, settings_); }
  void prepare(const Call& call);
  void run(const Call& call, void* out, sige_execution execution) const;

 private:
  Sources sources_;
  ConvSettings settings_;
  struct Free {
    void operator()(sige_plans* plans) const { sige_plans_destroy(plans); }
  };
  // The products of the row counts seen so far. Made when shapes are first set for a run, on the machine that runs.
  std::unique_ptr<sige_plans, Free> plans_;
};

}  // namespace sige::trt
