#include "attention.h"

namespace sige::trt {

Attention::Attention(const Attributes& attributes, const Inputs&)
    : heads_(positive(attributes.number("heads", 0), "heads")), scale_(attributes.real("scale", 0.0f)) {}

Shape Attention::shape(const Shapes& shapes) const { return {shapes.size(0, 0), shapes.size(0, 1), shapes.size(4, 2)}; }

size_t Attention::workspace(const Call& call) const {
  const sige_attention_args args = attention_args(call, call.dtype(), heads_, scale_);
  size_t bytes = 0;
  check(sige_attention_workspace_size(&args, SIGE_CUDA, &bytes));
  return bytes;
}

void Attention::run(const Call& call, void* out, const sige_execution& execution) const {
  sige_attention_args args = attention_args(call, call.dtype(), heads_, scale_);
  args.out = out;
  check(sige_attention(&args, &execution));
}

}  // namespace sige::trt
