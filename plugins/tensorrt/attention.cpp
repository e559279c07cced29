#include "attention.h"

namespace sige::trt {

Attention::Attention(const Attributes& attributes, const Inputs&)
    : settings_(attention_settings([&](const char* name) { return attributes.number(name, 0); },
                                   attributes.real("scale", 0.0f))) {}

Shape Attention::shape(const Shapes& shapes) const {
  const int64_t channels = int64_t{settings_.heads} * settings_.dv;
  return {shapes.size(0, 0), shapes.size(0, 1), channels ? shapes.constant(channels) : shapes.size(4, 2)};
}

size_t Attention::workspace(const Call& call) const {
  const sige_attention_args args = attention_args(call, call.dtype(), settings_);
  size_t bytes = 0;
  check(sige_attention_workspace_size(&args, SIGE_CUDA, &bytes));
  return bytes;
}

void Attention::run(const Call& call, void* out, const sige_execution& execution) const {
  sige_attention_args args = attention_args(call, call.dtype(), settings_);
  args.out = out;
  check(sige_attention(&args, &execution));
}

}  // namespace sige::trt
