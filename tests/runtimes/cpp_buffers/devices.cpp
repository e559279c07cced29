// In place of device.cpp: "cpu" is the device of a GPU on host memory, "cuda:0" the same on a stand-in for CUDA.
#include "device_native.h"
#include "ort_cuda.h"
#ifdef SIGE_DRIVER_CUDA
#include "fake_gpu.h"
#endif

namespace sige {

std::unique_ptr<Device> make_device(const Bundle& bundle, const Options& options) {
#ifdef SIGE_DRIVER_CUDA
  if (options.device == "cuda:0") return fake_gpu(bundle, options);
#endif
  const auto memory = std::make_shared<HostMemory>();
  return std::make_unique<NativeDevice>(bundle, memory, ort_on_buffers(bundle, memory, 0, options.threads),
                                        std::make_unique<Direct>(), options.outputs);
}

}  // namespace sige
