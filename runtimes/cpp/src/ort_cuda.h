// ONNX Runtime on buffers at fixed addresses: on a GPU, or on the host to test what a GPU does.
#pragma once

#include <memory>

#include "bundle.h"
#include "device_engine.h"

namespace sige {

// Throws Error with one sentence where ONNX Runtime has no CUDA provider, or is too old.
void check_ort_cuda(const std::string& device);

// A bundle's graphs as sessions that read and write buffers of one memory, on its stream. index: of the GPU.
std::unique_ptr<BufferEngine> ort_on_buffers(const Bundle& bundle, std::shared_ptr<Memory> memory, int index,
                                             int threads);

}  // namespace sige
