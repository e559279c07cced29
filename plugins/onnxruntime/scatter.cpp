#include "scatter.h"

namespace sige::ort {

void Scatter::run(Call& call) const {
  const Tensor base = call.input(0, {ANY, ANY, ANY});
  const Tensor active = call.input(2, {ANY});
  const Tensor rows = call.input(1, {base.shape[0], active.shape[0], base.shape[2]});

  sige_scatter_args args{};
  args.base = base.data;
  args.rows = rows.data;
  args.active = active.as<int32_t>();
  args.dtype = target_.dtype;
  args.batch = base.size(0);
  args.pixels = base.size(1);
  args.fresh = active.size(0);
  args.channels = base.size(2);
  args.out = call.output({base.shape[0], base.shape[1], base.shape[2]});
  const Workspace none(allocator_.get(), 0);
  const sige_execution execution = call.execution(target_, none, 0);
  check(sige_scatter(&args, &execution));
}

}  // namespace sige::ort
