#include "conv.h"

namespace sige::ort {

// The arguments as far as packing reads them.
static sige_conv_args weight_args(const Tensor& weight, int32_t group, sige_dtype dtype) {
  sige_conv_args args{};
  args.source.dtype = dtype;
  args.source.batch = args.source.pixels = 1;
  args.source.taps = weight.size(0);
  args.source.channels = to_int32(weight.shape[1] * group, "the number of channels");
  args.weight = weight.data;
  args.outputs = weight.size(2);
  args.group = group;
  return args;
}

Conv::Conv(const Ort::ConstKernelInfo& info, const Target& target)
    : Kernel(info, target),
      sources_(info, 6, 11),
      group_(to_int32(attribute<int64_t>(info, "group", 1), "group")),
      activation_in_(activation(info, "activation_in")),
      activation_out_(activation(info, "activation_out")),
      alpha_in_(attribute(info, "alpha_in", 0.01f)),
      alpha_out_(attribute(info, "alpha_out", 0.01f)),
      early_(attribute<int64_t>(info, "early", 0) != 0) {
  if (target.backend == SIGE_CUDA) {
    sige_plans* plans = nullptr;
    check(sige_plans_create(&plans));
    plans_.reset(plans);
  }
  int constant = 0;
  const Ort::ConstValue value = info.GetTensorConstantInput(WEIGHT, &constant);
  constant_ = constant != 0;
  if (!constant_) return;
  const Tensor weight = tensor_of(value, INPUTS[WEIGHT]);
  expect(weight, INPUTS[WEIGHT], {ANY, ANY, ANY});
  const sige_conv_args args = weight_args(weight, group_, target.dtype);
  size_t bytes = 0;
  check(sige_conv_packed_size(&args, target.backend, &bytes));
  if (!bytes) return;
  packed_.reset(::operator new(bytes, std::align_val_t{SIGE_WORKSPACE_ALIGNMENT}));
  check(sige_conv_pack(&args, target.backend, packed_.get()));
}

void Conv::run(Call& call) const {
  sige_conv_args args{};
  args.source = source(call, target_, sources_, activation_in_, alpha_in_);
  const sige_source& s = args.source;
  const Tensor weight = call.input(WEIGHT, {s.taps, s.channels / group_, ANY});
  const int64_t outputs = weight.shape[2];
  const Tensor embedding = call.input(8, {ANY, 1, outputs});
  args.weight = packed_ ? packed_.get() : weight.data;
  args.bias = call.input(5, {outputs}).data;
  args.embedding = embedding.data;
  args.residual = call.input(9, {s.batch, s.targets, outputs}).data;
  args.multiplier = call.input(10, {s.batch, s.targets, outputs}).data;
  args.outputs = weight.size(2);
  args.group = group_;
  args.embedding_batch = embedding.size(0);
  args.activation = activation_out_;
  args.alpha = alpha_out_;

  size_t bytes = 0, repacked_bytes = 0;
  check(sige_conv_workspace_size(&args, target_.backend, &bytes));
  if (!constant_) check(sige_conv_packed_size(&args, target_.backend, &repacked_bytes));
  const Workspace repacked(allocator_.get(), repacked_bytes);
  if (repacked_bytes) {
    check(sige_conv_pack(&args, target_.backend, repacked.at()));
    args.weight = repacked.at();
  }
  args.out = call.output({s.batch, s.targets, outputs});
  const Workspace workspace(allocator_.get(), bytes);
  sige_execution execution = call.execution(target_, workspace, bytes);
  if (!plans_) return check(sige_conv(&args, &execution));
  const std::lock_guard<std::mutex> guard(lock_);
  check(sige_plans_prepare(plans_.get(), &args, 1));
  execution.plans = plans_.get();
  if (!early_ || !sige_plans_one_kernel(plans_.get(), &args)) return check(sige_conv(&args, &execution));
  if (!branch_) branch_ = Branch::of(execution.stream);
  execution.stream = branch_->fork(execution.stream, this);
  check(sige_conv(&args, &execution));
  branch_->add(args.out);
}

}  // namespace sige::ort
