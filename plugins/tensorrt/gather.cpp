#include "gather.h"

namespace sige::trt {

Gather::Gather(const Attributes& attributes, const Inputs& inputs)
    : sources_(sources_of(inputs, 4, 6)),
      activation_(attributes.activation("activation")),
      alpha_(attributes.real("alpha", 0.01f)),
      phases_(attributes.number("phases", 1)),
      pad_value_(attributes.real("pad_value", 0.0f)) {
  check_phases(phases_, sources_);
}

Shape Gather::shape(const Shapes& shapes) const {
  const nvinfer1::IDimensionExpr* width = shapes.size(0, 2);
  if (sources_.two) width = shapes.sum(width, shapes.size(sources_.second, 2));
  if (phases_ != 1) width = shapes.quotient(width, shapes.constant(phases_));
  if (sources_.table) width = shapes.product(shapes.size(3, 1), width);
  return {shapes.size(0, 0), targets(shapes, sources_), width};
}

sige_gather_args Gather::args(const Call& call) const {
  sige_gather_args args{};
  args.source = source(call, call.dtype(), sources_, activation_, alpha_);
  args.phases = phases_;
  args.pad_value = pad_value_;
  return args;
}

size_t Gather::workspace(const Call& call) const {
  const sige_gather_args args = this->args(call);
  size_t bytes = 0;
  check(sige_gather_workspace_size(&args, SIGE_CUDA, &bytes));
  return bytes;
}

void Gather::run(const Call& call, void* out, const sige_execution& execution) const {
  sige_gather_args args = this->args(call);
  args.out = out;
  check(sige_gather(&args, &execution));
}

}  // namespace sige::trt
