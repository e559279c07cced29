// TensorRT as it is installed: loaded at run time through its C entry points, so that nothing links it.
#pragma once

#include <NvInferRuntime.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "device_memory.h"

#ifdef TRT_MAJOR_RTX
#error "TENSORRT_ROOT names the SDK of TensorRT for RTX; libsige runs TensorRT's engines, so name TensorRT's"
#endif

namespace sige {

// The library of the major version of the headers; its classes differ from major to major.
class TensorRtLibrary {
 public:
  // Loaded once in a process. Throws Error (RUNTIME) where it is not installed.
  static TensorRtLibrary& get();

  const std::string& version() const { return version_; }  // "10.16.1.11"
  std::string title() const;                               // "tensorrt 10.16"

  // Puts a plugin library into TensorRT's registry, once.
  void load_plugins(const std::string& path);

  // A runtime of the current device.
  std::unique_ptr<nvinfer1::IRuntime> runtime();

  // The result of a call that answers null or false where it fails; then an Error (RUNTIME) says in one sentence what
  // TensorRT logged. memory: whose memory the call may exhaust, or null.
  template <typename Call>
  auto ask(const std::string& doing, const Memory* memory, Call call) {
    begin();
    auto result = call();
    if (!result) fail(doing, memory);
    return result;
  }

  // The same for a call whose failure shows in the log alone.
  template <typename Call>
  auto tell(const std::string& doing, const Memory* memory, Call call) {
    begin();
    auto result = call();
    if (logged()) fail(doing, memory);
    return result;
  }

 private:
  class Log;

  TensorRtLibrary();
  ~TensorRtLibrary() = default;  // never: engines of the process may live as long
  void* symbol(const char* name) const;
  void begin();
  bool logged() const;
  [[noreturn]] void fail(const std::string& doing, const Memory* memory) const;

  void* handle_ = nullptr;
  std::string version_;
  std::unique_ptr<Log> log_;
};

}  // namespace sige
