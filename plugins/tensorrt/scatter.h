#pragma once

#include "call.h"

namespace sige::trt {

class Scatter {
 public:
  static constexpr const char* NAME = "Scatter";
  static constexpr Input INPUTS[] = {
      {"base", Type::VALUES, true}, {"rows", Type::VALUES, true}, {"active", Type::INDICES, true}};

  static constexpr std::array<Attribute, 0> ATTRIBUTES{};

  Scatter(const Attributes&, const Inputs&) {}
  Shape shape(const Shapes& shapes) const;
  size_t workspace(const Call&) const { return 0; }
  void check_shapes(const Call& call) const { args(call); }
  void prepare(const Call&) {}
  void run(const Call& call, void* out, const sige_execution& execution) const;

 private:
  sige_scatter_args args(const Call& call) const;
};

}  // namespace sige::trt
