// Failures of the CUDA runtime as statuses. It notes a failure for the thread until it is asked: one that stayed would be
// taken for that of a later launch.
#pragma once

#include <cuda_runtime.h>

#include "sige/kernels.h"

namespace sige::cuda {

// For a call of the runtime that returned an error.
inline sige_status failed() {
  cudaGetLastError();
  return SIGE_ENGINE_FAILURE;
}

// For launches, which return nothing.
inline sige_status launched() { return cudaGetLastError() == cudaSuccess ? SIGE_OK : SIGE_ENGINE_FAILURE; }

}  // namespace sige::cuda
