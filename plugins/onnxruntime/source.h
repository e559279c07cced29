// The source of Gather and Conv (docs/ops.md, "Order of operations"): inputs 0 to 3, and the affine where the op has it.
#pragma once

#include "kernel.h"

namespace sige::ort {

inline sige_source source(const Call& call, const Target& target, size_t scale_index, size_t shift_index,
                          sige_activation activation, float alpha) {
  const Tensor base = call.input(1, {ANY, ANY, ANY});
  const int64_t batch = base.shape[0], channels = base.shape[2];
  const Tensor rows = call.input(0, {batch, ANY, channels});
  const Tensor halo = call.input(2, {ANY});
  const Tensor table = call.input(3, {ANY, ANY});
  const Tensor scale = call.input(scale_index, {ANY, 1, channels});
  const Tensor shift = call.input(shift_index, {ANY, 1, channels});

  sige_source source{};
  source.rows = rows.data;
  source.base = base.data;
  source.halo = halo.as<int32_t>();
  source.table = table.as<int32_t>();
  source.scale = scale.data;
  source.shift = shift.data;
  source.dtype = target.dtype;
  source.batch = base.size(0);
  source.fresh = rows.size(1);
  source.pixels = base.size(1);
  source.halo_count = halo.size(0);
  source.targets = table.size(0);
  source.taps = table.size(1);
  source.channels = base.size(2);
  source.scale_batch = scale.size(0);
  source.shift_batch = shift.size(0);
  source.activation = activation;
  source.alpha = alpha;
  return source;
}

constexpr Input ROWS{"rows", Type::VALUES, true}, BASE{"base", Type::VALUES, true},
    HALO{"halo", Type::INDICES, true}, TABLE{"table", Type::INDICES, true}, SCALE{"scale", Type::VALUES, false},
    SHIFT{"shift", Type::VALUES, false};

}  // namespace sige::ort
