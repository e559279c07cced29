// The product of a conv with all that follows it: one kernel.
#pragma once

#include <cuda_runtime.h>

#include "../backend.h"

namespace sige::cuda {

// Whether a device of this compute capability (major * 10 + minor) has the kernel, and this library its code.
bool has_conv_product(int capability);

// Whether the kernel can multiply the rows of a conv, gathered [batch * targets, taps * channels] or as they lie: float16,
// one group, whole vectors of both.
bool runs_as_product(const sige_conv_args& a);

// Whether the kernel reads the rows of a conv's source as they lie: one source, or two side by side, with any affine and
// the activations that it knows.
bool product_reads_rows(const sige_conv_args& a);

// left: the rows, gathered and aligned to 16 bytes, or source.rows for all rows of the source (product_reads_rows).
sige_status launch_product(const sige_conv_args& a, const void* left, cudaStream_t stream);

}  // namespace sige::cuda
