#include "scatter.h"

namespace sige::trt {

Shape Scatter::shape(const Shapes& shapes) const { return {shapes.size(0, 0), shapes.size(0, 1), shapes.size(0, 2)}; }

sige_scatter_args Scatter::args(const Call& call) const {
  const Tensor base = call.input(0, {ANY, ANY, ANY});
  const Tensor active = call.input(2, {ANY});
  const Tensor rows = call.input(1, {base.shape[0], active.shape[0], base.shape[2]});

  sige_scatter_args args{};
  args.base = base.data;
  args.rows = rows.data;
  args.active = active.as<int32_t>();
  args.dtype = call.dtype();
  args.batch = base.size(0);
  args.pixels = base.size(1);
  args.fresh = active.size(0);
  args.channels = base.size(2);
  return args;
}

void Scatter::run(const Call& call, void* out, const sige_execution& execution) const {
  sige_scatter_args args = this->args(call);
  args.out = out;
  check(sige_scatter(&args, &execution));
}

}  // namespace sige::trt
