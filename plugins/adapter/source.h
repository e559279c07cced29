// The source of Gather and Conv (docs/ops.md, "Order of operations"): inputs 0 to 3, and affine and second source where
// the op has them. Inputs 1 to 3 are left out together: every target then reads its own row.
//
// A `Call` of any engine has input(index, shape): the Tensor, checked against that shape.
#pragma once

#include "tensor.h"

namespace sige::adapter {

constexpr Input ROWS{"rows", Type::VALUES, true}, BASE{"base", Type::VALUES, false},
    HALO{"halo", Type::INDICES, false}, TABLE{"table", Type::INDICES, false}, SCALE{"scale", Type::VALUES, false},
    SHIFT{"shift", Type::VALUES, false}, ROWS_2{"rows_2", Type::VALUES, false}, BASE_2{"base_2", Type::VALUES, false};

// Where an op has the inputs of its source behind the first four: the index of scale (shift follows) and of rows_2
// (base_2 follows). And which of them a node has.
struct Sources {
  size_t affine, second;
  bool table = false, two = false;

  // `has(index)` says whether the node has an input. Throws if it has only some of those that go together.
  template <typename Has>
  Sources(const Has& has, size_t affine, size_t second)
      : affine(affine), second(second), table(has(3)), two(has(second)) {
    if (has(1) != table || has(2) != table)
      throw std::runtime_error("base, halo and table go together, but the node has only some of them.");
    if (has(second + 1) != (two && table))
      throw std::runtime_error("base_2 belongs to rows_2 and base, but the node does not have all or none of them.");
  }
};

template <typename Call>
sige_source source(const Call& call, sige_dtype dtype, const Sources& has, sige_activation activation, float alpha) {
  Tensor base, halo, table, rows_2, base_2;
  if (has.table) {
    base = call.input(1, {ANY, ANY, ANY});
    halo = call.input(2, {ANY});
    table = call.input(3, {ANY, ANY});
  }
  const Tensor rows = call.input(0, {has.table ? base.shape[0] : ANY, ANY, has.table ? base.shape[2] : ANY});
  if (has.two) {
    if (has.table) base_2 = call.input(has.second + 1, {rows.shape[0], base.shape[1], ANY});
    rows_2 = call.input(has.second, {rows.shape[0], rows.shape[1], has.table ? base_2.shape[2] : ANY});
  }
  const int64_t channels = rows.shape[2] + rows_2.shape[2];
  const Tensor scale = call.input(has.affine, {ANY, 1, channels});
  const Tensor shift = call.input(has.affine + 1, {ANY, 1, channels});

  sige_source source{};
  source.rows = rows.data;
  source.base = base.data;
  source.halo = halo.as<int32_t>();
  source.table = table.as<int32_t>();
  source.scale = scale.data;
  source.shift = shift.data;
  source.dtype = dtype;
  source.batch = rows.size(0);
  source.fresh = rows.size(1);
  source.pixels = base.size(1);
  source.halo_count = halo.size(0);
  source.targets = has.table ? table.size(0) : rows.size(1);
  source.taps = has.table ? table.size(1) : 1;
  source.channels = to_int32(channels, "the number of channels");
  source.scale_batch = scale.size(0);
  source.shift_batch = shift.size(0);
  source.activation = activation;
  source.alpha = alpha;
  source.rows_2 = rows_2.data;
  source.base_2 = base_2.data;
  source.channels_2 = rows_2.size(2);
  return source;
}

}  // namespace sige::adapter
