#include "attention.h"

namespace sige::ort {

Attention::Attention(const Ort::ConstKernelInfo& info, const Target& target)
    : Kernel(info, target),
      settings_(attention_settings(
          [&](const char* name) { return to_int32(attribute(info, name, int64_t{0}), name); },
          attribute(info, "scale", 0.0f))) {}

void Attention::run(Call& call) const {
  sige_attention_args args = attention_args(call, target_.dtype, settings_);
  size_t bytes = 0;
  check(sige_attention_workspace_size(&args, target_.backend, &bytes));
  args.out = call.output({args.batch, args.fresh, int64_t{args.heads} * args.dv});
  const Workspace workspace(allocator_.get(), bytes);
  const sige_execution execution = call.execution(target_, workspace, bytes);
  check(sige_attention(&args, &execution));
}

}  // namespace sige::ort
