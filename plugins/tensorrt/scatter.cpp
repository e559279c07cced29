#include "scatter.h"

namespace sige::trt {

Shape Scatter::shape(const Shapes& shapes) const { return {shapes.size(0, 0), shapes.size(0, 1), shapes.size(0, 2)}; }

void Scatter::run(const Call& call, void* out, const sige_execution& execution) const {
  sige_scatter_args args = scatter_args(call, call.dtype());
  args.out = out;
  check(sige_scatter(&args, &execution));
}

}  // namespace sige::trt
