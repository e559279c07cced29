// In place of device.cpp: "cpu" is the device of a GPU on host memory, "cuda:0" the same on a stand-in for CUDA; others
// are what they are. Runtime "tensorrt" checks the bundle's engines for what TARGET names: flavour, version,
// capability, API version, digests of the plugins and the kernels.
#include <cstdlib>
#include <sstream>

#include "device_cuda.h"
#include "device_native.h"
#include "engine_folder.h"
#include "ort_cuda.h"
#ifdef SIGE_DRIVER_CUDA
#include "fake_gpu.h"
#endif

namespace sige {

static void check_engines(const Bundle& bundle) {
  std::istringstream target(std::getenv("TARGET"));
  std::string flavour, version, capability;
  PluginSpec plugin;
  target >> flavour >> version >> capability >> plugin.api_version >> plugin.libsige_tensorrt >> plugin.libsige_kernels;
  const EngineManifest found = read_engine(find_engine(bundle, flavour, version, capability));
  check_engine(found, flavour, version, capability, plugin, bundle);
}

std::unique_ptr<Device> make_device(const Bundle& bundle, const Options& options) {
  if (options.runtime == "tensorrt") check_engines(bundle);
#ifdef SIGE_DRIVER_CUDA
  if (options.device == "cuda:0") return fake_gpu(bundle, options);
#endif
  if (options.device != "cpu") return cuda_device(bundle, options);
  const auto memory = std::make_shared<HostMemory>();
  return std::make_unique<NativeDevice>(bundle, memory, ort_on_buffers(bundle, memory, 0, options.threads),
                                        std::make_unique<Direct>(), options.outputs);
}

}  // namespace sige
