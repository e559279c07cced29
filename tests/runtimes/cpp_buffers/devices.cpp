// In place of device.cpp, with two devices more: "buffers" is the device of a GPU on host memory, "cuda:0" the same on a
// stand-in for CUDA. There runtime "tensorrt" checks the bundle's engines for what TARGET names: flavour, version,
// capability, API version, digests of the plugins and the kernels.
#include <cstdlib>
#include <sstream>

#include "device_cuda.h"
#include "device_native.h"
#include "engine_folder.h"
#include "ort_cuda.h"
#ifdef SIGE_WITH_CUDA
#include "fake_gpu.h"
#endif
#define make_device make_usual_device
#include "device.cpp"
#undef make_device

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
#ifdef SIGE_WITH_CUDA
  if (options.device == "cuda:0") return fake_gpu(bundle, options);
#endif
  if (options.device != "buffers") return make_usual_device(bundle, options);
  if (options.runtime == "tensorrt") check_engines(bundle);
  const auto memory = std::make_shared<HostMemory>();
  return std::make_unique<NativeDevice>(bundle, memory, ort_on_buffers(bundle, memory, 0, options.threads),
                                        std::make_unique<Direct>(), options.outputs);
}

}  // namespace sige
