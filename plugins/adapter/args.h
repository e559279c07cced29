// The inputs of the ops (docs/ops.md), and the structs of the C API that calls of them come down to; `out` is left to the
// engine's adapter.
#pragma once

#include "source.h"

namespace sige::adapter {

inline constexpr Input GATHER_INPUTS[] = {ROWS, BASE, HALO, TABLE, SCALE, SHIFT, ROWS_2, BASE_2};
inline constexpr Input CONV_INPUTS[] = {
    ROWS, BASE, HALO, TABLE, {"weight", Type::VALUES, true}, {"bias", Type::VALUES, false}, SCALE, SHIFT,
    {"embedding", Type::VALUES, false}, {"residual", Type::VALUES, false},
    {"multiplier", Type::VALUES, false}, ROWS_2, BASE_2};
inline constexpr Input SCATTER_INPUTS[] = {
    {"base", Type::VALUES, true}, {"rows", Type::VALUES, true}, {"active", Type::INDICES, true}};
inline constexpr Input ATTENTION_INPUTS[] = {{"q", Type::VALUES, true},      {"k", Type::VALUES, false},
                                             {"v", Type::VALUES, false},     {"k_base", Type::VALUES, true},
                                             {"v_base", Type::VALUES, true}, {"active", Type::INDICES, false}};

constexpr size_t CONV_WEIGHT = 4;

// An attribute that counts something; throws unless it is 1 or more.
inline int32_t positive(int32_t value, const char* name) {
  if (value < 1) throw std::runtime_error(std::string(name) + " is " + std::to_string(value) + ", expected 1 or more.");
  return value;
}

// Throws unless Gather may have that many phases with these sources.
inline void check_phases(int32_t phases, const Sources& sources) {
  positive(phases, "phases");
  if (phases != 1 && (!sources.table || sources.two))
    throw std::runtime_error("phases is " + std::to_string(phases) + ", expected 1 " +
                             (sources.two ? "with two sources." : "without a table."));
}

struct ConvSettings {
  int32_t group;
  sige_activation activation_in, activation_out;
  float alpha_in, alpha_out;
};

// With the weight as the node has it.
template <typename Call>
sige_conv_args conv_args(const Call& call, sige_dtype dtype, const Sources& sources, const ConvSettings& settings) {
  sige_conv_args args{};
  args.source = source(call, dtype, sources, settings.activation_in, settings.alpha_in);
  const sige_source& s = args.source;
  const Tensor weight = call.input(CONV_WEIGHT, {s.taps, s.channels / settings.group, ANY});
  const int64_t outputs = weight.shape[2];
  const Tensor embedding = call.input(8, {ANY, 1, outputs});
  args.weight = weight.data;
  args.bias = call.input(5, {outputs}).data;
  args.embedding = embedding.data;
  args.residual = call.input(9, {s.batch, s.targets, outputs}).data;
  args.multiplier = call.input(10, {s.batch, s.targets, outputs}).data;
  args.outputs = weight.size(2);
  args.group = settings.group;
  args.embedding_batch = embedding.size(0);
  args.activation = settings.activation_out;
  args.alpha = settings.alpha_out;
  return args;
}

template <typename Call>
sige_scatter_args scatter_args(const Call& call, sige_dtype dtype) {
  const Tensor base = call.input(0, {ANY, ANY, ANY});
  const Tensor active = call.input(2, {ANY});
  const Tensor rows = call.input(1, {base.shape[0], active.shape[0], base.shape[2]});

  sige_scatter_args args{};
  args.base = base.data;
  args.rows = rows.data;
  args.active = active.as<int32_t>();
  args.dtype = dtype;
  args.batch = base.size(0);
  args.pixels = base.size(1);
  args.fresh = active.size(0);
  args.channels = base.size(2);
  return args;
}

// `heads` is positive.
template <typename Call>
sige_attention_args attention_args(const Call& call, sige_dtype dtype, int32_t heads, float scale) {
  const Tensor q = call.input(0, {ANY, ANY, ANY});
  const Tensor k_base = call.input(3, {q.shape[0], ANY, q.shape[2]});
  const Tensor v_base = call.input(4, {q.shape[0], k_base.shape[1], ANY});
  const Tensor k = call.input(1, {q.shape[0], q.shape[1], q.shape[2]});
  const Tensor v = call.input(2, {q.shape[0], q.shape[1], v_base.shape[2]});
  const Tensor active = call.input(5, {q.shape[1]});
  if (!k.rank != !v.rank || !k.rank != !active.rank)
    throw std::runtime_error("k, v and active have to be given together or not at all.");
  if (q.shape[2] % heads || v_base.shape[2] % heads)
    throw std::runtime_error("heads is " + std::to_string(heads) + ", which does not divide the channels.");

  sige_attention_args args{};
  args.q = q.data;
  args.k = k.data;
  args.v = v.data;
  args.k_base = k_base.data;
  args.v_base = v_base.data;
  args.active = active.as<int32_t>();
  args.dtype = dtype;
  args.batch = q.size(0);
  args.fresh = q.size(1);
  args.pixels = k_base.size(1);
  args.heads = heads;
  args.dk = q.size(2) / heads;
  args.dv = v_base.size(2) / heads;
  args.scale = scale;
  return args;
}

}  // namespace sige::adapter
