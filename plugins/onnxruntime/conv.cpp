#include "conv.h"

namespace sige::ort {

// The arguments as far as packing reads them.
static sige_conv_args weight_args(const Tensor& weight, const ConvSettings& settings, sige_dtype dtype) {
  sige_conv_args args{};
  args.source.dtype = dtype;
  args.source.batch = args.source.pixels = 1;
  args.source.taps = weight.size(0);
  args.source.channels = to_int32(weight.shape[1] * settings.group, "the number of channels");
  args.weight = weight.data;
  args.outputs = to_int32(outputs_of(weight.shape[2], settings.gated), "the number of outputs");
  args.group = settings.group;
  args.gated = settings.gated;
  args.gate = settings.gate;
  return args;
}

Conv::Conv(const Ort::ConstKernelInfo& info, const Target& target)
    : Kernel(info, target),
      sources_(sources_of(info, 6, 11)),
      settings_{to_int32(attribute<int64_t>(info, "group", 1), "group"), activation(info, "activation_in"),
                activation(info, "activation_out"), attribute(info, "alpha_in", 0.01f),
                attribute(info, "alpha_out", 0.01f), attribute(info, "norm_epsilon", 0.0f),
                gated(attribute<std::string>(info, "gate", "")), gate_of(attribute<std::string>(info, "gate", ""))},
      early_(attribute<int64_t>(info, "early", 0) != 0) {
  check_settings(settings_, sources_, [&](size_t index) { return has_input(info, index); });
  if (target.backend == SIGE_CUDA) {
    sige_plans* plans = nullptr;
    check(sige_plans_create(&plans));
    plans_.reset(plans);
  }
  int constant = 0;
  const Ort::ConstValue value = info.GetTensorConstantInput(CONV_WEIGHT, &constant);
  constant_ = constant != 0;
  if (!constant_) return;
  const Tensor weight = tensor_of(value, INPUTS[CONV_WEIGHT]);
  expect(weight, INPUTS[CONV_WEIGHT], {ANY, ANY, ANY});
  const sige_conv_args args = weight_args(weight, settings_, target.dtype);
  size_t bytes = 0;
  check(sige_conv_packed_size(&args, target.backend, &bytes));
  if (!bytes) return;
  packed_.reset(::operator new(bytes, std::align_val_t{SIGE_WORKSPACE_ALIGNMENT}));
  check(sige_conv_pack(&args, target.backend, packed_.get()));
}

void Conv::run(Call& call) const {
  sige_conv_args args = conv_args(call, target_.dtype, sources_, settings_);
  if (packed_) args.weight = packed_.get();

  size_t bytes = 0, repacked_bytes = 0;
  check(sige_conv_workspace_size(&args, target_.backend, &bytes));
  if (!constant_) check(sige_conv_packed_size(&args, target_.backend, &repacked_bytes));
  const Workspace repacked(allocator_.get(), repacked_bytes);
  if (repacked_bytes) {
    check(sige_conv_pack(&args, target_.backend, repacked.at()));
    args.weight = repacked.at();
  }
  args.out = call.output({args.source.batch, args.source.targets, args.outputs});
  const Workspace workspace(allocator_.get(), bytes);
  sige_execution execution = call.execution(target_, workspace, bytes);
  if (!plans_) return check(sige_conv(&args, &execution));
  const std::lock_guard<std::mutex> guard(lock_);
  check(sige_plans_prepare(plans_.get(), &args, 1));
  execution.plans = plans_.get();
  if (!early_ || !sige_plans_one_kernel(plans_.get(), &args)) return check(sige_conv(&args, &execution));
  if (!branch_) branch_ = Branch::of(execution.stream);
  void* const stream = execution.stream;
  execution.stream = branch_->fork(stream);
  check(sige_conv(&args, &execution));
  branch_->add(stream, args.out);
}

}  // namespace sige::ort
