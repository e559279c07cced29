// What api.cpp calls after its checks. Sizes and enums are valid, and no array is empty.
#pragma once

#include "sige/kernels.h"

namespace sige {

struct Backend {
  sige_status (*gather)(const sige_gather_args&, const sige_execution&);
  sige_status (*conv)(const sige_conv_args&, const sige_execution&);
  sige_status (*scatter)(const sige_scatter_args&, const sige_execution&);
  sige_status (*attention)(const sige_attention_args&, const sige_execution&);
  size_t (*gather_workspace)(const sige_gather_args&);
  size_t (*conv_workspace)(const sige_conv_args&);
  size_t (*attention_workspace)(const sige_attention_args&);
  size_t (*packed_size)(const sige_conv_args&);
  void (*pack)(const sige_conv_args&, void* packed);
};

const Backend& cpu_backend();
const Backend& cuda_backend();

// Static, not inline: files compiled for different instruction sets must not share one copy.
static inline bool transforms(const sige_source& source) {
  return source.scale || source.shift || source.activation != SIGE_IDENTITY;
}

static inline bool is_depthwise(const sige_conv_args& args) {
  return args.group == args.source.channels && args.outputs == args.group && args.group > 1;
}

// Elements from row to row of an array of Attention.
static inline int32_t row_stride(int32_t stride, int32_t heads, int32_t width) {
  return stride ? stride : heads * width;
}

// Columns of the weight, of the product and of the bias.
static inline int64_t columns_of(const sige_conv_args& args) {
  return args.gated ? 2 * int64_t{args.outputs} : int64_t{args.outputs};
}

static inline size_t align(size_t bytes) {
  return (bytes + SIGE_WORKSPACE_ALIGNMENT - 1) / SIGE_WORKSPACE_ALIGNMENT * SIGE_WORKSPACE_ALIGNMENT;
}

}  // namespace sige
