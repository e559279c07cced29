// The conv that gathers while it multiplies: one kernel.
#pragma once

#include <cuda_runtime.h>

#include "../backend.h"

namespace sige::cuda {

// Whether a device of this compute capability (major * 10 + minor) has the kernel: it needs clusters, and more shared
// memory than sm_120 has.
inline bool has_conv_mma(int capability) { return capability >= 90 && capability < 120; }

// Whether the kernel can do a conv: float16, one group, whole vectors of channels and outputs.
bool runs_on_mma(const sige_conv_args& a);

// Its work: stages of 16 rows and 64 columns, in all.
int64_t mma_work(const sige_conv_args& a);

sige_status launch_conv_mma(const sige_conv_args& a, cudaStream_t stream);

}  // namespace sige::cuda
