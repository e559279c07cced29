#include "scatter.h"

namespace sige::ort {

void Scatter::run(Call& call) const {
  sige_scatter_args args = scatter_args(call, target_.dtype);
  args.out = call.output({args.batch, args.pixels, args.channels});
  const Workspace none(allocator_.get(), 0);
  const sige_execution execution = call.execution(target_, none, 0);
  check(sige_scatter(&args, &execution));
}

}  // namespace sige::ort
