// The source of Gather and Conv (docs/ops.md, "Order of operations"): inputs 0 to 3, and the affine where the op has it.
// Inputs 1 to 3 are left out together: every target then reads its own row.
#pragma once

#include "kernel.h"

namespace sige::ort {

constexpr Input ROWS{"rows", Type::VALUES, true}, BASE{"base", Type::VALUES, false},
    HALO{"halo", Type::INDICES, false}, TABLE{"table", Type::INDICES, false}, SCALE{"scale", Type::VALUES, false},
    SHIFT{"shift", Type::VALUES, false};

// Whether the node has base, halo and table; throws if it has only some of them.
inline bool has_table(const Ort::ConstKernelInfo& info) {
  const bool base = has_input(info, 1), halo = has_input(info, 2), table = has_input(info, 3);
  if (base != table || halo != table)
    throw std::runtime_error("base, halo and table go together, but the node has only some of them.");
  return table;
}

inline sige_source source(const Call& call, const Target& target, bool has_table, size_t scale_index,
                          size_t shift_index, sige_activation activation, float alpha) {
  Tensor base, halo, table;
  if (has_table) {
    base = call.input(1, {ANY, ANY, ANY});
    halo = call.input(2, {ANY});
    table = call.input(3, {ANY, ANY});
  }
  const Tensor rows = call.input(0, {has_table ? base.shape[0] : ANY, ANY, has_table ? base.shape[2] : ANY});
  const int64_t channels = rows.shape[2];
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
  source.batch = rows.size(0);
  source.fresh = rows.size(1);
  source.pixels = base.size(1);
  source.halo_count = halo.size(0);
  source.targets = has_table ? table.size(0) : rows.size(1);
  source.taps = has_table ? table.size(1) : 1;
  source.channels = rows.size(2);
  source.scale_batch = scale.size(0);
  source.shift_batch = shift.size(0);
  source.activation = activation;
  source.alpha = alpha;
  return source;
}

}  // namespace sige::ort
