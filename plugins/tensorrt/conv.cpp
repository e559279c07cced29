#include "conv.h"

namespace sige::trt {

Conv::Conv(const Attributes& attributes, const Inputs& inputs)
    : sources_(inputs, 6, 11),
      group_(attributes.number("group", 1)),
      activation_in_(attributes.activation("activation_in")),
      activation_out_(attributes.activation("activation_out")),
      alpha_in_(attributes.real("alpha_in", 0.01f)),
      alpha_out_(attributes.real("alpha_out", 0.01f)) {
  if (group_ < 1) throw std::runtime_error("group is " + std::to_string(group_) + ", expected 1 or more.");
}

Shape Conv::shape(const Shapes& shapes) const {
  return {shapes.size(0, 0), targets(shapes, sources_), shapes.size(WEIGHT, 2)};
}

sige_conv_args Conv::args(const Call& call) const {
  sige_conv_args args{};
  args.source = source(call, sources_, activation_in_, alpha_in_);
  const sige_source& s = args.source;
  const Tensor weight = call.input(WEIGHT, {s.taps, s.channels / group_, ANY});
  const int64_t outputs = weight.shape[2];
  const Tensor embedding = call.input(8, {ANY, 1, outputs});
  args.weight = weight.data;
  args.bias = call.input(5, {outputs}).data;
  args.embedding = embedding.data;
  args.residual = call.input(9, {s.batch, s.targets, outputs}).data;
  args.multiplier = call.input(10, {s.batch, s.targets, outputs}).data;
  args.outputs = weight.size(2);
  args.group = group_;
  args.embedding_batch = embedding.size(0);
  args.activation = activation_out_;
  args.alpha = alpha_out_;
  return args;
}

size_t Conv::workspace(const Call& call) const {
  const sige_conv_args args = this->args(call);
  size_t bytes = 0;
  check(sige_conv_workspace_size(&args, SIGE_CUDA, &bytes));
  return bytes;
}

void Conv::prepare(const Call& call) {
  const sige_conv_args args = this->args(call);
  if (!plans_) {
    sige_plans* plans = nullptr;
    check(sige_plans_create(&plans));
    plans_.reset(plans);
  }
  check(sige_plans_prepare(plans_.get(), &args, 1));
}

void Conv::run(const Call& call, void* out, sige_execution execution) const {
  sige_conv_args args = this->args(call);
  args.out = out;
  execution.plans = plans_.get();
  check(sige_conv(&args, &execution));
}

}  // namespace sige::trt
