#include "graphs.h"

#include "arrays.h"
#include "ort.h"
#include "text.h"

namespace sige {

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
  if (info.GetShape() != shape || info.GetElementType() != onnx_type(dtype))
    throw Error(Kind::RUNTIME, "the edit graph gave " + named(name) + " of shape " + listed(info.GetShape()) +
                                   ", expected " + name_of(dtype) + " of shape " + listed(shape) +
                                   "; export the bundle anew.");
  return {dtype, shape, value.GetTensorRawData()};
}

struct Graphs::Engine {
  const Bundle& bundle;
  int threads;
  bool kernels;  // whether libsige_onnxruntime can run every op of the edit graph
  std::map<std::string, Graph> graphs;

  Graph& load(const std::string& file, bool editing = false) {
    const auto found = graphs.find(file);
    if (found != graphs.end()) return found->second;
    Loading how;
    how.threads = threads;
    how.kernels = editing && kernels;
    how.rows_vary = editing;
    return graphs.emplace(file, load_graph(bundle.path(file), how)).first->second;
  }

  Graph& edit() { return load(edit_graph(), true); }

  // A dense graph on arrays.
  void run(const std::string& file, const Views& inputs, Arrays& outputs) {
    Graph& graph = load(file);
    translated("the dense pass", nullptr, [&] {
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
  ort_environment();
  engine_.reset(new Engine{bundle, threads, ort_knows_overloads() && supported(bundle.manifest()), {}});
}

Graphs::~Graphs() = default;

std::string Graphs::name() const { return engine_->kernels ? "onnxruntime cpu, native kernels" : "onnxruntime cpu"; }

void Graphs::record(const Views& inputs, Arrays& outputs) { engine_->run("record.onnx", inputs, outputs); }

void Graphs::dense(const Views& inputs, Arrays& outputs) { engine_->run("dense.onnx", inputs, outputs); }

const std::set<std::string>& Graphs::edit_inputs() { return engine_->edit().inputs; }

Results Graphs::edit(const std::function<View(const std::string&)>& find, const std::set<std::string>& outputs) {
  Graph& graph = engine_->edit();
  return translated("the edit", nullptr, [&] {
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
