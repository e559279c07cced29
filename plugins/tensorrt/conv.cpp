#include "conv.h"

namespace sige::trt {

Conv::Conv(const Attributes& attributes, const Inputs& inputs)
    : sources_(sources_of(inputs, 6, 11)),
      settings_{positive(attributes.number("group", 1), "group"), attributes.activation("activation_in"),
                attributes.activation("activation_out"), attributes.real("alpha_in", 0.01f),
                attributes.real("alpha_out", 0.01f), attributes.real("norm_epsilon", 0.0f),
                gated(attributes.text("gate", "")), gate_of(attributes.text("gate", ""))} {
  check_settings(settings_, sources_, [&](size_t index) { return inputs.has(index); });
}

Shape Conv::shape(const Shapes& shapes) const {
  const nvinfer1::IDimensionExpr* const columns = shapes.size(CONV_WEIGHT, 2);
  return {shapes.size(0, 0), targets(shapes, sources_),
          settings_.gated ? shapes.quotient(columns, shapes.constant(2)) : columns};
}

size_t Conv::workspace(const Call& call) const {
  const sige_conv_args args = conv_args(call, call.dtype(), sources_, settings_);
  size_t bytes = 0;
  check(sige_conv_workspace_size(&args, SIGE_CUDA, &bytes));
  return bytes;
}

void Conv::prepare(const Call& call) {
  const sige_conv_args args = conv_args(call, call.dtype(), sources_, settings_);
  if (!plans_) {
    sige_plans* plans = nullptr;
    check(sige_plans_create(&plans));
    plans_.reset(plans);
  }
  check(sige_plans_prepare(plans_.get(), &args, 1));
}

void Conv::run(const Call& call, void* out, sige_execution execution) const {
  sige_conv_args args = conv_args(call, call.dtype(), sources_, settings_);
  args.out = out;
  execution.plans = plans_.get();
  check(sige_conv(&args, &execution));
}

}  // namespace sige::trt
