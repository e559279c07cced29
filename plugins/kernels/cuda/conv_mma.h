// The one-kernel conv: neighbours are gathered while the product runs on tensor cores.
#pragma once

#include <cuda_runtime.h>

#include "../backend.h"

namespace sige::cuda {

// Whether a device of this compute capability (major * 10 + minor) has the kernel: it needs clusters, and more shared
// memory than sm_120 has.
inline bool has_conv_mma(int capability) { return capability >= 90 && capability < 120; }

// Whether the kernel serves a conv, and faster than a gather and a product: float16, one group, whole vectors of channels
// and outputs, little work.
bool runs_on_mma(const sige_conv_args& a);

sige_status launch_conv_mma(const sige_conv_args& a, cudaStream_t stream);

}  // namespace sige::cuda
