// The library's entry points, which TensorRT's plugin registry looks for when it loads the library.
#include "attention.h"
#include "conv.h"
#include "gather.h"
#include "plugin.h"
#include "scatter.h"

#define SIGE_EXPORT __attribute__((visibility("default")))

extern "C" {

SIGE_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
  using namespace sige::trt;
  static Creator<Gather> gather;
  static Creator<Conv> conv;
  static Creator<Scatter> scatter;
  static Creator<Attention> attention;
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&gather, &conv, &scatter, &attention};
  count = 0;
  if (sige_version() != SIGE_API_VERSION || sige_has_backend(SIGE_CUDA)) {
    std::cerr << "libsige_tensorrt needs the libsige_kernels it was built with, which has CUDA." << std::endl;
    return creators;
  }
  count = static_cast<int32_t>(std::size(creators));
  return creators;
}

// TensorRT's way to hand over its logger, whose binary interface differs between versions: errors go to stderr.
SIGE_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder*) {}

}  // extern "C"
