#include "ort.h"

#include <onnxruntime_session_options_config_keys.h>

#include <cstdlib>
#include <optional>
#include <regex>
#include <sstream>

#include "text.h"

// libsige_onnxruntime, which is linked: no path decides what gets loaded.
extern "C" OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base);

namespace sige {

constexpr int OVERLOADS_SINCE = 27;  // 1.27: before it, one body served every overload of a function
constexpr size_t SENTENCE = 300;     // characters of what ONNX Runtime says

struct OnnxType {
  DType dtype;
  ONNXTensorElementDataType onnx;
};

constexpr OnnxType ONNX_TYPES[] = {
    {DType::FLOAT16, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16}, {DType::FLOAT32, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT},
    {DType::FLOAT64, ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE},  {DType::BOOL, ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL},
    {DType::INT8, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8},       {DType::INT16, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16},
    {DType::INT32, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32},     {DType::INT64, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64},
    {DType::UINT8, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8},     {DType::UINT16, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16},
    {DType::UINT32, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32},   {DType::UINT64, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64},
};

Ort::Env& ort_environment() {
  static Ort::Env env = [] {
    const OrtApi* api = OrtGetApiBase()->GetApi(ORT_API_VERSION);
    if (!api)
      throw Error(Kind::RUNTIME, "this library was built for ONNX Runtime 1." + std::to_string(ORT_API_VERSION) +
                                     " or later, and finds " + OrtGetApiBase()->GetVersionString() + "; upgrade it.");
    Ort::InitApi(api);
    return Ort::Env(ORT_LOGGING_LEVEL_FATAL, "sige");
  }();
  return env;
}

bool ort_knows_overloads() {
  const std::string version = OrtGetApiBase()->GetVersionString();  // "1.31.1"
  return std::stoi(version.substr(version.find('.') + 1)) >= OVERLOADS_SINCE;
}

ONNXTensorElementDataType onnx_type(DType dtype) {
  for (const OnnxType& known : ONNX_TYPES)
    if (known.dtype == dtype) return known.onnx;
  return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
}

static Ort::Value value_on(const Ort::MemoryInfo& where, DType dtype, const Shape& shape, const void* data) {
  const size_t bytes = static_cast<size_t>(count_of(shape)) * size_of(dtype);
  return Ort::Value::CreateTensor(where, const_cast<void*>(data), bytes, shape.data(), shape.size(), onnx_type(dtype));
}

Ort::MemoryInfo place_of(const Memory& memory, int index) {
  return {memory.backend() == SIGE_CUDA ? "Cuda" : "Cpu", OrtDeviceAllocator, index, OrtMemTypeDefault};
}

Ort::Value value_at(const Memory& memory, int index, DType dtype, const Shape& shape, void* data) {
  return value_on(place_of(memory, index), dtype, shape, data);
}

Ort::Value value_of(const View& view) {
  return value_on(Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault), view.dtype, view.shape, view.data);
}

static void append_cuda(Ort::SessionOptions& options, const Loading& how) {
  const OrtApi& api = Ort::GetApi();
  OrtCUDAProviderOptionsV2* raw = nullptr;
  Ort::ThrowOnError(api.CreateCUDAProviderOptions(&raw));
  const std::unique_ptr<OrtCUDAProviderOptionsV2, void (*)(OrtCUDAProviderOptionsV2*)> cuda(
      raw, api.ReleaseCUDAProviderOptions);
  const std::pair<std::string, std::string> settings[] = {
      {"device_id", std::to_string(how.index)},
      {"arena_extend_strategy", "kSameAsRequested"},
      {"cudnn_conv_algo_search", how.search ? "EXHAUSTIVE" : "HEURISTIC"},
      {"use_tf32", "0"},  // float32 means float32
  };
  std::vector<const char*> keys, values;
  for (const auto& [key, value] : settings) {
    keys.push_back(key.c_str());
    values.push_back(value.c_str());
  }
  Ort::ThrowOnError(api.UpdateCUDAProviderOptions(raw, keys.data(), values.data(), keys.size()));
  Ort::ThrowOnError(api.UpdateCUDAProviderOptionsWithValue(raw, "user_compute_stream", how.memory->stream()));
  options.AppendExecutionProvider_CUDA_V2(*raw);
}

// While it lives, sessions are made without ONNX Runtime's flash attention on a GPU, which is inaccurate (see
// runtimes/onnxruntime_session.py). The environment is the only switch.
class WithoutFlashAttention {
 public:
  WithoutFlashAttention() {
    if (const char* before = std::getenv(SWITCH)) before_ = before;
    setenv(SWITCH, "1", 1);
  }
  ~WithoutFlashAttention() {
    if (before_) {
      setenv(SWITCH, before_->c_str(), 1);
    } else {
      unsetenv(SWITCH);
    }
  }
  WithoutFlashAttention(const WithoutFlashAttention&) = delete;
  WithoutFlashAttention& operator=(const WithoutFlashAttention&) = delete;

 private:
  static constexpr const char* SWITCH = "ORT_DISABLE_FLASH_ATTENTION";
  std::optional<std::string> before_;
};

Graph load_graph(const std::string& path, const Loading& how) {
  return translated("loading " + named(path), how.memory, [&] {
    Ort::SessionOptions options;
    options.SetLogSeverityLevel(ORT_LOGGING_LEVEL_FATAL);  // failures come as exceptions
    if (how.threads) options.SetIntraOpNumThreads(how.threads);
    // Pad_Fusion makes a MaxPool ignore the zeros that it takes over from a Pad: wrong below zero.
    std::string disabled = "Pad_Fusion";
    if (!how.fold) disabled += ";ConstantFolding";
    // They transpose weights under their names, by which the shared ones then take their places as they were.
    if (how.shared) disabled += ";TransposeOptimizer;TransposeOptimizer_CPUExecutionProvider";
    options.AddConfigEntry(kOrtSessionOptionsDisableSpecifiedOptimizers, disabled.c_str());
    if (how.rows_vary) options.DisableMemPattern();
    if (how.kernels) Ort::ThrowOnError(RegisterCustomOps(options, OrtGetApiBase()));
    if (how.shared)
      for (const auto& [name, value] : *how.shared) options.AddInitializer(name.c_str(), value);
    std::optional<WithoutFlashAttention> accurate;
    if (how.memory && how.memory->backend() == SIGE_CUDA) {
      append_cuda(options, how);
      accurate.emplace();
    }
    Graph graph{Ort::Session(ort_environment(), path.c_str(), options), {}};
    Ort::AllocatorWithDefaultOptions allocator;
    for (size_t i = 0; i < graph.session.GetInputCount(); ++i)
      graph.inputs.insert(graph.session.GetInputNameAllocated(i, allocator).get());
    return graph;
  });
}

static std::string one_line(const std::string& text) {
  std::istringstream words(text);
  std::string line, word;
  while (words >> word) line += (line.empty() ? "" : " ") + word;
  return line;
}

Error engine_failure(const std::string& doing, const std::string& text, const Memory* memory) {
  static const std::regex exhausted(
      "failed to allocate|bad_alloc|out of memory|bad allocation|unable to allocate|smaller than requested",
      std::regex::icase);
  static const std::regex requested("(?:buffer of size|requested bytes of|of size:?) (\\d+)", std::regex::icase);
  std::string line = one_line(text);
  if (std::regex_search(line, exhausted)) {
    if (!memory || memory->backend() != SIGE_CUDA) return out_of_memory(doing);
    std::smatch found;
    return out_of_memory(*memory, std::regex_search(line, found, requested) ? std::stoull(found[1]) : 0);
  }
  if (line.size() > SENTENCE) line = line.substr(0, SENTENCE - 3) + "...";
  return {Kind::RUNTIME, doing + " failed in ONNX Runtime: " + line};
}

}  // namespace sige
