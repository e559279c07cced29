#include "device.h"

#include "device_host.h"
#include "text.h"

namespace sige {

std::unique_ptr<Device> make_device(const Bundle& bundle, const Options& options) {
  if (options.device == "cpu") return std::make_unique<HostDevice>(bundle, options.threads);
  throw Error(Kind::INPUT, "there is no device " + named(options.device) + "; use 'cpu' or 'cuda:0'.");
}

}  // namespace sige
