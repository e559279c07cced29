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

constexpr size_t CONV_WEIGHT = 4, CONV_EMBEDDING = 8;

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
  float norm_epsilon;
  bool gated;
  sige_activation gate;
};

// The attribute `gate`: none if it is empty.
inline bool gated(const std::string& gate) { return !gate.empty(); }
inline sige_activation gate_of(const std::string& gate) {
  return gated(gate) ? activation_of("gate", gate) : SIGE_IDENTITY;
}

// Outputs of a conv whose weight has that many columns, or ANY; throws unless a gate can share them.
inline int64_t outputs_of(int64_t columns, bool gated) {
  if (!gated || columns == ANY) return columns;
  if (columns % 2)
    throw std::runtime_error("weight has " + std::to_string(columns) + " columns, expected 2 for each output of a gate.");
  return columns / 2;
}

// Throws unless row norms and gates may stand beside the other attributes and the inputs that a node has.
template <typename Has>
void check_settings(const ConvSettings& settings, const Sources& sources, const Has& has) {
  const auto refuse = [](const char* what) { throw std::runtime_error(what); };
  if (!(settings.norm_epsilon >= 0)) refuse("norm_epsilon is negative, expected 0 or more.");
  if (settings.norm_epsilon > 0 && (sources.table || sources.two || has(sources.affine) || has(sources.affine + 1) ||
                                    settings.activation_in != SIGE_IDENTITY || settings.group != 1))
    refuse("norm_epsilon goes with rows alone: no table, affine, activation_in or rows_2, and a group of 1.");
  if (settings.gated && (settings.gate == SIGE_LEAKY_RELU || settings.group != 1 || has(CONV_EMBEDDING)))
    refuse("gate goes with a group of 1 and without an embedding, and is not leaky_relu.");
}

// With the weight as the node has it.
template <typename Call>
sige_conv_args conv_args(const Call& call, sige_dtype dtype, const Sources& sources, const ConvSettings& settings) {
  sige_conv_args args{};
  args.source = source(call, dtype, sources, settings.activation_in, settings.alpha_in);
  const sige_source& s = args.source;
  const Tensor weight = call.input(CONV_WEIGHT, {s.taps, s.channels / settings.group, ANY});
  const int64_t outputs = outputs_of(weight.shape[2], settings.gated);
  const Tensor embedding = call.input(CONV_EMBEDDING, {ANY, 1, outputs});
  args.weight = weight.data;
  args.bias = call.input(5, {weight.shape[2]}).data;
  args.embedding = embedding.data;
  args.residual = call.input(9, {s.batch, s.targets, outputs}).data;
  args.multiplier = call.input(10, {s.batch, s.targets, outputs}).data;
  args.outputs = to_int32(outputs, "the number of outputs");
  args.group = settings.group;
  args.embedding_batch = embedding.size(0);
  args.activation = settings.activation_out;
  args.alpha = settings.alpha_out;
  args.norm_epsilon = settings.norm_epsilon;
  args.gated = settings.gated;
  args.gate = settings.gate;
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

struct AttentionSettings {
  int32_t heads, dk, dv;  // dk and dv may be 0: channels / heads
  std::array<int32_t, 5> offsets;  // of the inputs in ATTENTION_INPUTS' order
  float scale;
};

// integer(name) is an attribute's value, 0 where the node has none. Throws for attributes that do not fit together.
template <typename Integer>
AttentionSettings attention_settings(const Integer& integer, float scale) {
  AttentionSettings settings{positive(integer("heads"), "heads"), integer("dk"), integer("dv"), {}, scale};
  if (settings.dk < 0 || settings.dv < 0 || !settings.dk != !settings.dv)
    throw std::runtime_error("dk and dv are " + std::to_string(settings.dk) + " and " + std::to_string(settings.dv) +
                             ", expected both positive or both 0.");
  for (size_t i = 0; i < settings.offsets.size(); ++i) {
    const std::string name = std::string(ATTENTION_INPUTS[i].name) + "_offset";
    settings.offsets[i] = integer(name.c_str());
    if (settings.offsets[i] < 0 || (settings.offsets[i] && !settings.dk))
      throw std::runtime_error(name + " is " + std::to_string(settings.offsets[i]) + ", expected " +
                               (settings.dk ? "0 or more." : "0 without dk and dv."));
  }
  return settings;
}

template <typename Call>
sige_attention_args attention_args(const Call& call, sige_dtype dtype, const AttentionSettings& settings) {
  const int32_t heads = settings.heads;
  const bool wide = settings.dk;
  const Tensor q = call.input(0, {ANY, ANY, ANY});
  const Tensor k_base = call.input(3, {q.shape[0], ANY, wide ? ANY : q.shape[2]});
  const Tensor v_base = call.input(4, {q.shape[0], k_base.shape[1], ANY});
  const Tensor k = call.input(1, {q.shape[0], q.shape[1], wide ? ANY : q.shape[2]});
  const Tensor v = call.input(2, {q.shape[0], q.shape[1], wide ? ANY : v_base.shape[2]});
  const Tensor active = call.input(5, {q.shape[1]});
  if (!k.rank != !v.rank || !k.rank != !active.rank)
    throw std::runtime_error("k, v and active have to be given together or not at all.");
  if (!wide && (q.shape[2] % heads || v_base.shape[2] % heads))
    throw std::runtime_error("heads is " + std::to_string(heads) + ", which does not divide the channels.");

  sige_attention_args args{};
  args.heads = heads;
  args.dk = wide ? settings.dk : q.size(2) / heads;
  args.dv = wide ? settings.dv : v_base.size(2) / heads;
  const auto part = [&](size_t input, const Tensor& tensor, int32_t width, const void*& data, int32_t& stride) {
    if (!tensor.rank) return;
    const int64_t offset = settings.offsets[input], end = offset + int64_t{heads} * width;
    if (tensor.shape[2] < end)
      throw std::runtime_error(std::string(ATTENTION_INPUTS[input].name) + " has " + std::to_string(tensor.shape[2]) +
                               " channels, expected " + std::to_string(end) + " or more.");
    const int64_t bytes = offset * (dtype == SIGE_FLOAT16 ? 2 : 4);
    if (tensor.data) data = tensor.as<char>() + bytes;
    stride = tensor.size(2);
  };
  part(0, q, args.dk, args.q, args.q_stride);
  part(1, k, args.dk, args.k, args.k_stride);
  part(2, v, args.dv, args.v, args.v_stride);
  part(3, k_base, args.dk, args.k_base, args.k_base_stride);
  part(4, v_base, args.dv, args.v_base, args.v_base_stride);
  args.active = active.as<int32_t>();
  args.dtype = dtype;
  args.batch = q.size(0);
  args.fresh = q.size(1);
  args.pixels = k_base.size(1);
  args.scale = settings.scale;
  return args;
}

}  // namespace sige::adapter
