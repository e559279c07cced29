// Matrix-product plans: for each product of a conv, the descriptors and the algorithm that cuBLASLt chose for it.
#pragma once

#include "cublaslt.h"

#include "../backend.h"

namespace sige::cuda {

constexpr size_t PRODUCT_WORKSPACE = 32 << 20;  // bytes that an algorithm may use: cuBLAS's own default on Hopper

// out [group][rows, outputs] = epilogue(gathered [group][rows, depth] @ weight [group][depth, outputs] + addend)
struct Product {
  int32_t dtype, rows, depth, outputs, group;
  int32_t epilogue;     // cublasLtEpilogue_t
  int32_t add;          // whether an addend shaped like out is added
  int32_t allow_tf32;

  bool operator==(const Product& other) const {
    return dtype == other.dtype && rows == other.rows && depth == other.depth && outputs == other.outputs &&
           group == other.group && epilogue == other.epilogue && add == other.add && allow_tf32 == other.allow_tf32;
  }
};

// The product that a conv (not depthwise) comes down to.
Product product_of(const sige_conv_args& a);

// Whether the addends are written to the output first, and the product added to them.
bool seeds_output(const sige_conv_args& a);

// The ways to run a conv that is not depthwise.
enum class ConvPath {
  GATHERING,  // conv_mma.cu: one kernel
  PRODUCT,    // conv_product.cu, behind a gather unless rows are read as they lie
  CUBLAS,     // the same with cuBLASLt, which then needs a plan
};
ConvPath path_of(const sige_plans& plans, const sige_conv_args& a);

// Whether a kernel may start while the one before still runs on the plans' device.
bool overlaps(const sige_plans& plans);

// Runs a product that the plans hold; SIGE_NOT_PREPARED if they do not.
sige_status multiply(const sige_plans& plans, const Product& product, const void* gathered, const void* weight,
                     const void* bias, const void* addend, void* out, void* workspace, cudaStream_t stream);

}  // namespace sige::cuda
