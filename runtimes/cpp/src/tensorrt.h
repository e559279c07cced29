// TensorRT on buffers at fixed addresses of a GPU.
#pragma once

#include <memory>

#include "bundle.h"
#include "cuda.h"
#include "device_engine.h"

namespace sige {

// The bundle's engines for the TensorRT that is installed and this GPU, checked before TensorRT reads any of them. To
// be called inside the memory's `current()`. Throws Error of kinds BUNDLE and RUNTIME.
std::unique_ptr<BufferEngine> tensorrt_on_buffers(const Bundle& bundle, std::shared_ptr<CudaMemory> memory);

}  // namespace sige
