#pragma once

#include "call.h"

namespace sige::trt {

class Scatter {
 public:
  static constexpr const char* NAME = "Scatter";
  static constexpr const auto& INPUTS = SCATTER_INPUTS;
  static constexpr std::array<Attribute, 0> ATTRIBUTES{};

  Scatter(const Attributes&, const Inputs&) {}
  Shape shape(const Shapes& shapes) const;
  size_t workspace(const Call&) const { return 0; }
  void check_shapes(const Call& call) const { scatter_args(call, call.dtype()); }
  void prepare(const Call&) {}
  void run(const Call& call, void* out, const sige_execution& execution) const;
};

}  // namespace sige::trt
