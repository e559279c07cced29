#include "gather.h"

namespace sige::ort {

Gather::Gather(const Ort::ConstKernelInfo& info, const Target& target)
    : Kernel(info, target),
      sources_(info, 4, 6),
      activation_(activation(info, "activation")),
      alpha_(attribute(info, "alpha", 0.01f)),
      phases_(to_int32(attribute<int64_t>(info, "phases", 1), "phases")),
      pad_value_(attribute(info, "pad_value", 0.0f)) {
  if (phases_ < 1) throw std::runtime_error("phases is " + std::to_string(phases_) + ", expected 1 or more.");
  if (phases_ != 1 && (!sources_.table || sources_.two))
    throw std::runtime_error("phases is " + std::to_string(phases_) + ", expected 1 " +
                             (sources_.two ? "with two sources." : "without a table."));
}

void Gather::run(Call& call) const {
  sige_gather_args args{};
  args.source = source(call, target_, sources_, activation_, alpha_);
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
