#include "device.h"

#include "device_cuda.h"
#include "device_host.h"
#include "text.h"

namespace sige {

std::unique_ptr<Device> make_device(const Bundle& bundle, const Options& options) {
  if (options.runtime == "tensorrt") return tensorrt_device(bundle, options);
  if (options.runtime != "onnxruntime")
    throw Error(Kind::INPUT, "there is no runtime " + named(options.runtime) +
                                 "; use 'onnxruntime', 'tensorrt', or leave runtime out.");
  if (options.device.rfind("cuda", 0) == 0) return cuda_device(bundle, options);
  if (options.device != "cpu")
    throw Error(Kind::INPUT, "there is no device " + named(options.device) + "; use 'cpu' or 'cuda:0'.");
  if (options.outputs != Place::HOST)
    throw Error(Kind::INPUT, "outputs on a GPU need a session on one; open the bundle with device='cuda:0', or leave "
                             "outputs on the host.");
  return std::make_unique<HostDevice>(bundle, options.threads);
}

}  // namespace sige
