#include "gather.h"

namespace sige::ort {

Gather::Gather(const Ort::ConstKernelInfo& info, const Target& target)
    : Kernel(info, target),
      sources_(sources_of(info, 4, 6)),
      activation_(activation(info, "activation")),
      alpha_(attribute(info, "alpha", 0.01f)),
      phases_(to_int32(attribute<int64_t>(info, "phases", 1), "phases")),
      pad_value_(attribute(info, "pad_value", 0.0f)) {
  check_phases(phases_, sources_);
}

void Gather::run(Call& call) const {
  sige_gather_args args{};
  args.source = source(call, target_.dtype, sources_, activation_, alpha_);
  args.phases = phases_;
  args.pad_value = pad_value_;
  size_t bytes = 0;
  check(sige_gather_workspace_size(&args, target_.backend, &bytes));
  const int64_t width = int64_t{args.source.taps} * (args.source.channels / phases_);
  args.out = call.output({args.source.batch, args.source.targets, width});
  const Workspace workspace(allocator_.get(), bytes);
  const sige_execution execution = call.execution(target_, workspace, bytes);
  check(sige_gather(&args, &execution));
}

}  // namespace sige::ort
