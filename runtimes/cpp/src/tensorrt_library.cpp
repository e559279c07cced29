#include "tensorrt_library.h"

#include <dlfcn.h>

#include <mutex>
#include <regex>
#include <set>
#include <sstream>

#include "text.h"

namespace sige {

constexpr size_t SAID = 300;  // characters of what TensorRT says
constexpr size_t KEPT_ERRORS = 8;

// Keeps the errors of each thread's call; what else TensorRT has to say passes.
class TensorRtLibrary::Log : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* text) noexcept override {
    if (severity != Severity::kERROR && severity != Severity::kINTERNAL_ERROR) return;
    try {
      if (errors().size() < KEPT_ERRORS) errors().push_back(text);
    } catch (const std::bad_alloc&) {  // then it is said without a reason
    }
  }

  static std::vector<std::string>& errors() {
    static thread_local std::vector<std::string> said;
    return said;
  }
};

TensorRtLibrary& TensorRtLibrary::get() {
  static TensorRtLibrary* const library = new TensorRtLibrary;
  return *library;
}

TensorRtLibrary::TensorRtLibrary() : log_(std::make_unique<Log>()) {
  const std::string major = std::to_string(NV_TENSORRT_MAJOR);
  for (const std::string& name : {"libnvinfer.so." + major, "libnvinfer_lean.so." + major})
    if (!handle_) handle_ = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle_)
    throw Error(Kind::RUNTIME, "runtime 'tensorrt' needs TensorRT " + major +
                                   ", and the loader finds no libnvinfer.so." + major +
                                   "; install it, put its folder into LD_LIBRARY_PATH, or open the bundle with "
                                   "runtime='onnxruntime'.");
  for (const char* part : {"getInferLibMajorVersion", "getInferLibMinorVersion", "getInferLibPatchVersion",
                           "getInferLibBuildVersion"})
    version_ += (version_.empty() ? "" : ".") + std::to_string(reinterpret_cast<int32_t (*)()>(symbol(part))());
}

std::string TensorRtLibrary::title() const {
  return "tensorrt " + version_.substr(0, version_.find('.', version_.find('.') + 1));
}

void* TensorRtLibrary::symbol(const char* name) const {
  if (void* found = dlsym(handle_, name)) return found;
  throw Error(Kind::RUNTIME, std::string("libnvinfer lacks ") + name + "; install TensorRT anew.");
}

void TensorRtLibrary::load_plugins(const std::string& path) {
  static std::mutex mutex;
  static std::set<std::string> loaded;
  const std::lock_guard<std::mutex> guard(mutex);
  if (loaded.count(path)) return;
  auto* registry = reinterpret_cast<nvinfer1::IPluginRegistry* (*)()>(symbol("getPluginRegistry"))();
  ask("loading " + named(path), nullptr, [&] { return registry ? registry->loadLibrary(path.c_str()) : nullptr; });
  loaded.insert(path);
}

std::unique_ptr<nvinfer1::IRuntime> TensorRtLibrary::runtime() {
  // Without a usable driver some versions give an object that is none: what was logged tells.
  const auto create = reinterpret_cast<void* (*)(void*, int32_t)>(symbol("createInferRuntime_INTERNAL"));
  return std::unique_ptr<nvinfer1::IRuntime>(tell("opening the device", nullptr, [&] {
    return static_cast<nvinfer1::IRuntime*>(create(log_.get(), NV_TENSORRT_VERSION));
  }));
}

void TensorRtLibrary::begin() { Log::errors().clear(); }

bool TensorRtLibrary::logged() const { return !Log::errors().empty(); }

// TensorRT's message without the place in its source, in one line of bounded length.
static std::string one_sentence(const std::string& text) {
  static const std::regex place(",? In \\S+ at /\\S+");
  std::istringstream words(text);
  std::string line, word;
  while (words >> word) line += (line.empty() ? "" : " ") + word;
  line = std::regex_replace(line, place, "");
  return line.size() <= SAID ? line : line.substr(0, SAID - 3) + "...";
}

void TensorRtLibrary::fail(const std::string& doing, const Memory* memory) const {
  static const std::regex exhausted("out ?of ?memory|cudaErrorMemoryAllocation|bad_alloc|requested size was",
                                    std::regex::icase);
  static const std::regex requested("requested size was (\\d+)", std::regex::icase);
  const std::vector<std::string>& errors = Log::errors();
  std::string whole;
  for (const std::string& error : errors) whole += error + " ";
  if (memory && std::regex_search(whole, exhausted)) {
    std::smatch found;
    throw out_of_memory(*memory, std::regex_search(whole, found, requested) ? std::stoull(found[1]) : 0);
  }
  throw Error(Kind::RUNTIME, doing + " failed in " + title() + ": " +
                                 (errors.empty() ? "it gave no reason" : one_sentence(errors.front())));
}

}  // namespace sige
