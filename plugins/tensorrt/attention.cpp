#include "attention.h"

#include <stdexcept>

namespace sige::trt {

Attention::Attention(const Attributes& attributes, const Inputs&)
    : heads_(attributes.number("heads", 0)), scale_(attributes.real("scale", 0.0f)) {
  if (heads_ < 1) throw std::runtime_error("heads is " + std::to_string(heads_) + ", expected 1 or more.");
}

Shape Attention::shape(const Shapes& shapes) const { return {shapes.size(0, 0), shapes.size(0, 1), shapes.size(2, 2)}; }

sige_attention_args Attention::args(const Call& call) const {
  const Tensor q = call.input(0, {ANY, ANY, ANY}), v = call.input(2, {q.shape[0], q.shape[1], ANY});
  const Tensor k = call.input(1, {q.shape[0], q.shape[1], q.shape[2]});
  const Tensor k_base = call.input(3, {q.shape[0], ANY, q.shape[2]});
  const Tensor v_base = call.input(4, {q.shape[0], k_base.shape[1], v.shape[2]});
  const Tensor active = call.input(5, {q.shape[1]});
  if (q.shape[2] % heads_ || v.shape[2] % heads_)
    throw std::runtime_error("heads is " + std::to_string(heads_) + ", which does not divide the channels.");

  sige_attention_args args{};
  args.q = q.data;
  args.k = k.data;
  args.v = v.data;
  args.k_base = k_base.data;
  args.v_base = v_base.data;
  args.active = active.as<int32_t>();
  args.dtype = call.dtype();
  args.batch = q.size(0);
  args.fresh = q.size(1);
  args.pixels = k_base.size(1);
  args.heads = heads_;
  args.dk = q.size(2) / heads_;
  args.dv = v.size(2) / heads_;
  args.scale = scale_;
  return args;
}

size_t Attention::workspace(const Call& call) const {
  const sige_attention_args args = this->args(call);
  size_t bytes = 0;
  check(sige_attention_workspace_size(&args, SIGE_CUDA, &bytes));
  return bytes;
}

void Attention::run(const Call& call, void* out, const sige_execution& execution) const {
  sige_attention_args args = this->args(call);
  args.out = out;
  check(sige_attention(&args, &execution));
}

}  // namespace sige::trt
