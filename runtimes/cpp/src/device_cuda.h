// Devices on an NVIDIA GPU.
#pragma once

#include "device.h"

namespace sige {

// N of "cuda:N", 0 of "cuda"; throws Error (INPUT) for any other text.
int device_index(const std::string& device);

// ONNX Runtime's CUDA provider, or TensorRT, on the GPU that the options name. They throw Error of kinds INPUT, RUNTIME
// and BUNDLE with one sentence where the driver, the GPU, the engine or the kernels for it are missing, or this library
// was built without them.
std::unique_ptr<Device> cuda_device(const Bundle& bundle, const Options& options);
std::unique_ptr<Device> tensorrt_device(const Bundle& bundle, const Options& options);

}  // namespace sige
