#include "graphs.h"

#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>
#include <onnxruntime_session_options_config_keys.h>

#include <algorithm>
#include <cctype>
#include <new>
#include <sstream>

#include "arrays.h"
#include "text.h"

// libsige_onnxruntime, which is linked: no path decides what gets loaded.
extern "C" OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base);

namespace sige {

constexpr int OVERLOADS_SINCE = 27;  // 1.27: before it, one body served every overload of a function

struct Type {
  DType dtype;
  ONNXTensorElementDataType onnx;
};

constexpr Type TYPES[] = {
    {DType::FLOAT16, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16}, {DType::FLOAT32, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT},
    {DType::FLOAT64, ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE},  {DType::BOOL, ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL},
    {DType::INT8, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8},       {DType::INT16, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16},
    {DType::INT32, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32},     {DType::INT64, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64},
    {DType::UINT8, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8},     {DType::UINT16, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16},
    {DType::UINT32, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32},   {DType::UINT64, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64},
};

static std::string one_line(const std::string& text) {
  std::istringstream words(text);
  std::string line, word;
  while (words >> word) line += (line.empty() ? "" : " ") + word;
  return line;
}

static bool says_out_of_memory(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  for (const char* words : {"failed to allocate", "bad_alloc", "out of memory", "bad allocation", "unable to allocate"})
    if (text.find(words) != std::string::npos) return true;
  return false;
}

// The engine's exceptions as one Error with one sentence.
template <typename Run>
static decltype(auto) translated(const std::string& doing, Run run) {
  try {
    return run();
  } catch (const std::bad_alloc&) {
    throw out_of_memory(doing);
  } catch (const Ort::Exception& error) {
    std::string text = one_line(error.what());
    if (says_out_of_memory(text)) throw out_of_memory(doing);
    if (text.size() > 300) text = text.substr(0, 297) + "...";
    throw Error(Kind::RUNTIME, doing + " failed in ONNX Runtime: " + text);
  }
}

// Minor version of the ONNX Runtime that is loaded: 31 of 1.31.1.
static int minor_version() {
  const std::string version = OrtGetApiBase()->GetVersionString();
  return std::stoi(version.substr(version.find('.') + 1));
}

static Ort::Env& environment() {
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

static Ort::Value value_of(const View& view) {
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  for (const Type& known : TYPES)
    if (known.dtype == view.dtype) type = known.onnx;
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  return Ort::Value::CreateTensor(memory, const_cast<void*>(view.data), bytes_of(view), view.shape.data(),
                                  view.shape.size(), type);
}

struct Results::Values {
  std::map<std::string, Ort::Value> values;
};

Results::Results(std::unique_ptr<Values> values) : values_(std::move(values)) {}
Results::Results(Results&&) noexcept = default;
Results& Results::operator=(Results&&) noexcept = default;
Results::~Results() = default;

View Results::at(const std::string& name, DType dtype, const Shape& shape) const {
  const Ort::Value& value = values_->values.at(name);
  const auto info = value.GetTensorTypeAndShapeInfo();
  bool fits = info.GetShape() == shape;
  for (const Type& known : TYPES)
    if (known.dtype == dtype) fits = fits && info.GetElementType() == known.onnx;
  if (!fits)
    throw Error(Kind::RUNTIME, "the edit graph gave " + named(name) + " of shape " + listed(info.GetShape()) +
                                   ", expected " + name_of(dtype) + " of shape " + listed(shape) +
                                   "; export the bundle anew.");
  return {dtype, shape, value.GetTensorRawData()};
}

// A graph and the names of its inputs.
struct Graph {
  Ort::Session session;
  std::set<std::string> inputs;
};

struct Graphs::Engine {
  const Bundle& bundle;
  int threads;
  bool overloads;  // whether ONNX Runtime knows them: else it gets the edit graph without functions
  bool kernels;    // whether libsige_onnxruntime can run every op of the edit graph
  std::map<std::string, Graph> graphs;

  Graph& load(const std::string& file, bool editing = false) {
    const auto found = graphs.find(file);
    if (found != graphs.end()) return found->second;
    const std::string path = bundle.path(file);
    return translated("loading " + named(path), [&]() -> Graph& {
      Ort::SessionOptions options;
      options.SetLogSeverityLevel(ORT_LOGGING_LEVEL_FATAL);  // failures come as exceptions
      if (threads) options.SetIntraOpNumThreads(threads);
      // PadFusion makes a MaxPool ignore the zeros that it takes over from a Pad: wrong below zero.
      options.AddConfigEntry(kOrtSessionOptionsDisableSpecifiedOptimizers, "PadFusion");
      if (editing) options.DisableMemPattern();
      if (editing && kernels) Ort::ThrowOnError(RegisterCustomOps(options, OrtGetApiBase()));
      Graph graph{Ort::Session(environment(), path.c_str(), options), {}};
      Ort::AllocatorWithDefaultOptions allocator;
      for (size_t i = 0; i < graph.session.GetInputCount(); ++i)
        graph.inputs.insert(graph.session.GetInputNameAllocated(i, allocator).get());
      return graphs.emplace(file, std::move(graph)).first->second;
    });
  }

  Graph& edit_graph() { return load(overloads ? "edit.onnx" : "edit_inlined.onnx", true); }

  // A dense graph on arrays.
  void run(const std::string& file, const Views& inputs, Arrays& outputs) {
    Graph& graph = load(file);
    translated("the dense pass", [&] {
      Ort::IoBinding binding(graph.session);
      std::vector<Ort::Value> values;
      for (const std::string& name : graph.inputs) {
        values.push_back(value_of(inputs.at(name)));
        binding.BindInput(name.c_str(), values.back());
      }
      for (auto& [name, array] : outputs) {
        values.push_back(value_of(array));
        binding.BindOutput(name.c_str(), values.back());
      }
      Ort::RunOptions options;
      // Activations of a dense pass are large and a record is rare: give the memory back.
      if (file == "record.onnx") options.AddConfigEntry("memory.enable_memory_arena_shrinkage", "cpu:0");
      graph.session.Run(options, binding);
    });
  }
};

// The CPU kernels know float32 only, and ONNX Runtime does not fall back on a function body beside a kernel.
static bool supported(const Manifest& manifest) {
  if (manifest.precision != "float32") return false;
  for (const CacheSpec& cache : manifest.caches)
    if (cache.kind == "base" && cache.dtype != DType::FLOAT32) return false;
  return true;
}

Graphs::Graphs(const Bundle& bundle, int threads) {
  environment();
  const bool overloads = minor_version() >= OVERLOADS_SINCE;
  engine_.reset(new Engine{bundle, threads, overloads, overloads && supported(bundle.manifest()), {}});
}

Graphs::~Graphs() = default;

std::string Graphs::name() const { return engine_->kernels ? "onnxruntime cpu, native kernels" : "onnxruntime cpu"; }

void Graphs::record(const Views& inputs, Arrays& outputs) { engine_->run("record.onnx", inputs, outputs); }

void Graphs::dense(const Views& inputs, Arrays& outputs) { engine_->run("dense.onnx", inputs, outputs); }

const std::set<std::string>& Graphs::edit_inputs() { return engine_->edit_graph().inputs; }

Results Graphs::edit(const std::function<View(const std::string&)>& find, const std::set<std::string>& outputs) {
  Graph& graph = engine_->edit_graph();
  return translated("the edit", [&] {
    std::vector<const char*> names, wanted;
    std::vector<Ort::Value> values;
    for (const std::string& name : graph.inputs) {
      names.push_back(name.c_str());
      values.push_back(value_of(find(name)));
    }
    for (const std::string& name : outputs) wanted.push_back(name.c_str());
    auto made =
        graph.session.Run(Ort::RunOptions(), names.data(), values.data(), values.size(), wanted.data(), wanted.size());
    auto results = std::make_unique<Results::Values>();
    for (size_t i = 0; i < wanted.size(); ++i) results->values.emplace(wanted[i], std::move(made[i]));
    return Results(std::move(results));
  });
}

}  // namespace sige
