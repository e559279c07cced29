// Whether these kernels can run on a device, and one sentence if not.
#include <stdio.h>

#include "device.cuh"
#include "sige/indices.h"

namespace {

__global__ void some_kernel() {}

struct Version {
  int major, minor;
  explicit Version(int number) : major(number / 1000), minor(number % 1000 / 10) {}
};

}  // namespace

extern "C" sige_status sige_check_device(int32_t device, char* sentence, size_t bytes) {
  int driver = 0, devices = 0, former = 0;
  cudaDriverGetVersion(&driver);
  cudaError_t error = cudaGetDeviceCount(&devices);
  const auto refuse = [&](const char* format, auto... values) {
    if (sentence && bytes) snprintf(sentence, bytes, format, values...);
    cudaGetLastError();  // ours alone: later calls are not to find it
    return SIGE_ENGINE_FAILURE;
  };
  if (driver == 0) return refuse("there is no CUDA driver on this machine; install one.%s", "");
  if (error == cudaErrorInsufficientDriver) {
    const Version has(driver), needs(CUDART_VERSION);
    return refuse("the CUDA driver knows CUDA %d.%d, the native kernels need %d.%d; install a newer driver.", has.major,
                  has.minor, needs.major, needs.minor);
  }
  if (error == cudaErrorNoDevice || devices == 0) return refuse("the CUDA driver finds no device here.%s", "");
  if (error != cudaSuccess) return refuse("the CUDA driver cannot be used: %s.", cudaGetErrorString(error));
  if (device < 0 || device >= devices)
    return refuse("there is no device cuda:%d; the machine has cuda:0 to cuda:%d.", device, devices - 1);

  int major = 0, minor = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  cudaFuncAttributes attributes;
  cudaGetDevice(&former);
  error = cudaSetDevice(device);
  if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, some_kernel);
  cudaSetDevice(former);
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction)
    return refuse("the native kernels were not built for compute capability %d.%d, that of cuda:%d; build them for it.",
                  major, minor, device);
  if (error != cudaSuccess) return refuse("cuda:%d cannot be used: %s.", device, cudaGetErrorString(error));
  return SIGE_OK;
}
