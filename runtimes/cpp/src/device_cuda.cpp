#include "device_cuda.h"

#include <algorithm>

#include "ort_cuda.h"
#include "sige/indices.h"
#include "text.h"
#ifdef SIGE_WITH_CUDA
#include "cuda_captures.h"
#include "device_native.h"
#endif
#ifdef SIGE_WITH_TENSORRT
#include "tensorrt.h"
#endif

namespace sige {

int device_index(const std::string& device) {
  const std::string digits = device.size() > 5 ? device.substr(5) : "";
  const bool numbered = device.rfind("cuda:", 0) == 0 && !digits.empty() && digits.size() < 6 &&
                        digits.find_first_not_of("0123456789") == std::string::npos;
  if (device != "cuda" && !numbered)
    throw Error(Kind::INPUT, "there is no device " + named(device) + "; use 'cpu' or 'cuda:0'.");
  return numbered ? std::stoi(digits) : 0;
}

#ifdef SIGE_WITH_CUDA

// The GPU's memory, where the kernels can run on it.
static std::shared_ptr<CudaMemory> cuda_memory(int index, const Options& options) {
  auto memory = std::make_shared<CudaMemory>(index, options.stream);
  char sentence[512];
  if (sige_check_device(index, sentence, sizeof sentence)) throw Error(Kind::RUNTIME, sentence);
  return memory;
}

static void check_kernel_types(const Manifest& manifest) {
  std::set<std::string> types{manifest.precision};
  for (const CacheSpec& cache : manifest.caches)
    if (cache.kind == "base") types.insert(name_of(cache.dtype));
  for (const std::string& type : types)
    if (type != "float16" && type != "float32") {
      std::string held;
      for (const std::string& one : types) held += (held.empty() ? "" : ", ") + one;
      throw Error(Kind::RUNTIME, "the CUDA kernels know float16 and float32, and this bundle holds " + held +
                                     "; open it with device='cpu', or export it with precision='float16'.");
    }
}

static std::unique_ptr<Device> native_device(const Bundle& bundle, const Options& options,
                                             const std::shared_ptr<CudaMemory>& memory,
                                             std::unique_ptr<BufferEngine> engine) {
  const auto here = memory->current();
  return std::make_unique<NativeDevice>(bundle, memory, std::move(engine), std::make_unique<CudaCaptures>(memory),
                                        options.outputs);
}

std::unique_ptr<Device> cuda_device(const Bundle& bundle, const Options& options) {
  const int index = device_index(options.device);
  check_ort_cuda(options.device);
  check_kernel_types(bundle.manifest());
  const auto memory = cuda_memory(index, options);
  return native_device(bundle, options, memory, ort_on_buffers(bundle, memory, index, options.threads));
}

#else

std::unique_ptr<Device> cuda_device(const Bundle&, const Options& options) {
  device_index(options.device);
  throw Error(Kind::RUNTIME, "device " + named(options.device) +
                                 " needs libsige with CUDA, and this one was built without; build it with "
                                 "-DSIGE_CUDA=ON, or open the bundle with device='cpu'.");
}

#endif

static void refuse_cpu(const Options& options) {
  if (options.device.rfind("cuda", 0) != 0)
    throw Error(Kind::INPUT, "TensorRT does not run on device " + named(options.device) +
                                 "; open the bundle with device='cuda:0', or with runtime='onnxruntime'.");
  device_index(options.device);
}

#ifdef SIGE_WITH_TENSORRT

std::unique_ptr<Device> tensorrt_device(const Bundle& bundle, const Options& options) {
  refuse_cpu(options);
  check_kernel_types(bundle.manifest());
  const auto memory = cuda_memory(device_index(options.device), options);
  const auto here = memory->current();
  return native_device(bundle, options, memory, tensorrt_on_buffers(bundle, memory));
}

#else

std::unique_ptr<Device> tensorrt_device(const Bundle&, const Options& options) {
  refuse_cpu(options);
  throw Error(Kind::RUNTIME, "runtime 'tensorrt' needs libsige with TensorRT, and this one was built without; build it "
                             "with -DSIGE_CUDA=ON and -DTENSORRT_ROOT=<SDK>, or open the bundle with "
                             "runtime='onnxruntime'.");
}

#endif

}  // namespace sige
