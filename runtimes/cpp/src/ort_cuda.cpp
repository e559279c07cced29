#include "ort_cuda.h"

#include <algorithm>

#include "ort.h"
#include "safetensors.h"
#include "text.h"

namespace sige {

void check_ort_cuda(const std::string& device) {
  ort_environment();
  const std::vector<std::string> providers = Ort::GetAvailableProviders();
  const std::string instead = ", or open the bundle with device='cpu'.";
  if (std::find(providers.begin(), providers.end(), "CUDAExecutionProvider") == providers.end())
    throw Error(Kind::RUNTIME, "device " + named(device) +
                                   " needs ONNX Runtime with CUDA, and this one has none; install onnxruntime-gpu" +
                                   instead);
  if (!ort_knows_overloads())
    throw Error(Kind::RUNTIME, "device " + named(device) + " needs ONNX Runtime 1.27 or later, and this is " +
                                   OrtGetApiBase()->GetVersionString() + "; upgrade onnxruntime-gpu" + instead);
}

// Each session is made at its first use. They share the weights, which lie in the memory once: the record graph turns
// them into the layout of its operators anew at every run; only the dense graph, made for edits that are too large,
// keeps copies in its own layout, so that it is as fast as it can be.
class OrtOnBuffers : public BufferEngine {
 public:
  OrtOnBuffers(const Bundle& bundle, std::shared_ptr<Memory> memory, int index, int threads)
      : bundle_(bundle), memory_(std::move(memory)), index_(index), threads_(threads) {
    ort_environment();
  }

  ~OrtOnBuffers() override {
    for (const auto& [file, inputs] : repeated_) settle(graphs_.at(file), inputs);
  }

  std::string name() const override { return "onnxruntime " + memory_->device() + ", native kernels"; }

  Run bind_record(const Buffers& inputs, const Buffers& outputs) override {
    return bound("record.onnx", "the dense pass", inputs, outputs);
  }

  Run bind_dense(const Buffers& inputs, const Buffers& outputs) override {
    return bound("dense.onnx", "the dense pass", inputs, outputs);
  }

  Run bind_edit(const Buffers& inputs, const Buffers& outputs) override {
    return bound(edit_graph(), "the edit", inputs, outputs);
  }

  std::set<std::string> edit_inputs() override { return graph(edit_graph()).inputs; }

 private:
  // A binding knows addresses only: the buffers are kept beside it.
  struct Bound {
    Ort::Session& session;
    Ort::IoBinding binding;
    Ort::RunOptions options;
    std::vector<Ort::Value> values;
    std::vector<Buffer> kept;
  };

  Run bound(const std::string& file, const std::string& doing, const Buffers& inputs, const Buffers& outputs) {
    Graph& graph = this->graph(file);
    return translated(doing, memory_.get(), [&]() -> Run {
      auto bound = std::make_shared<Bound>(
          Bound{graph.session, Ort::IoBinding(graph.session), Ort::RunOptions(), {}, {}});
      const auto value = [&](const Buffer& buffer) -> Ort::Value& {
        bound->kept.push_back(buffer);
        bound->values.push_back(value_at(*memory_, index_, buffer.dtype, buffer.shape, buffer.pointer));
        return bound->values.back();
      };
      for (const std::string& name : graph.inputs) {
        const auto found = inputs.find(name);
        if (found == inputs.end())
          throw Error(Kind::BUNDLE, "the edit graph reads " + named(name) +
                                        ", which the manifest does not list; export the bundle anew.");
        bound->binding.BindInput(name.c_str(), value(found->second));
      }
      for (const auto& [name, buffer] : outputs) bound->binding.BindOutput(name.c_str(), value(buffer));
      if (file != "record.onnx") {
        // What follows is ordered on the same stream, and a capture cannot wait.
        bound->options.AddConfigEntry("disable_synchronize_execution_providers", "1");
        repeated_[file] = inputs;
      } else {
        // Activations of a dense pass are large and a record is rare: give the memory back.
        const std::string arena = memory_->backend() == SIGE_CUDA ? "gpu:" + std::to_string(index_) : "cpu:0";
        bound->options.AddConfigEntry("memory.enable_memory_arena_shrinkage", arena.c_str());
      }
      return [bound, doing, memory = memory_] {
        translated(doing, memory.get(), [&] { bound->session.Run(bound->options, bound->binding); });
      };
    });
  }

  // Has a session give back what its runs without an end have kept, before it goes.
  //
  // ONNX Runtime hands some kernels parameters through pinned host memory. The end of a run has a function on the
  // stream give it back; a session that goes does so too, but then that function is the last to hold the allocator, and
  // taking that down there aborts the process. So one more run is made, with an end and without rows. A session that
  // fails even so is kept for ever.
  void settle(Graph& graph, const Buffers& inputs) noexcept {
    try {
      const auto here = memory_->current();
      translated("closing", memory_.get(), [&] {
        Ort::IoBinding binding(graph.session);
        Ort::AllocatorWithDefaultOptions allocator;
        std::vector<Ort::Value> values;
        for (size_t i = 0; i < graph.session.GetInputCount(); ++i) {
          const Buffer& buffer = inputs.at(graph.session.GetInputNameAllocated(i, allocator).get());
          Shape shape = graph.session.GetInputTypeInfo(i).GetTensorTypeAndShapeInfo().GetShape();
          for (int64_t& size : shape) size = std::max<int64_t>(size, 0);
          values.push_back(value_at(*memory_, index_, buffer.dtype, shape, buffer.pointer));
          binding.BindInput(graph.session.GetInputNameAllocated(i, allocator).get(), values.back());
        }
        const Ort::MemoryInfo where = place_of(*memory_, index_);
        for (size_t i = 0; i < graph.session.GetOutputCount(); ++i)
          binding.BindOutput(graph.session.GetOutputNameAllocated(i, allocator).get(), where);
        graph.session.Run(Ort::RunOptions(), binding);
      });
      memory_->synchronize();
    } catch (const std::exception&) {
      static std::vector<Graph>* const kept = new std::vector<Graph>;
      kept->push_back(std::move(graph));
    }
  }

  Graph& graph(const std::string& file) {
    const auto found = graphs_.find(file);
    if (found != graphs_.end()) return found->second;
    Loading how;
    how.threads = threads_;
    how.kernels = how.rows_vary = file == edit_graph();
    how.fold = file != "record.onnx";
    how.memory = memory_.get();
    how.index = index_;
    how.search = file == "dense.onnx";
    how.shared = &weights();
    return graphs_.emplace(file, load_graph(bundle_.path(file), how)).first->second;
  }

  // The weights in the memory, by the name that they have in all graphs.
  const std::map<std::string, Ort::Value>& weights() {
    if (!weights_.empty()) return weights_;
    const std::string path = bundle_.path("weights.safetensors");
    const auto refuse = [&](const std::string& what) {
      throw Error(Kind::BUNDLE, named(path) + " is not a safetensors file (" + what + "); export the bundle anew.");
    };
    try {
      const Tensors tensors(path);
      std::vector<ArraySpec> arrays;
      for (const std::string& name : tensors.names()) {
        const View view = tensors.view(name);
        arrays.push_back({name, view.dtype, view.shape});
      }
      const Buffers buffers = laid_out(*memory_, arrays);
      for (const auto& [name, buffer] : buffers)
        memory_->upload(tensors.view(name).data, buffer.pointer, buffer.bytes());
      memory_->synchronize();
      for (const auto& [name, buffer] : buffers)
        weights_.emplace(name, value_at(*memory_, index_, buffer.dtype, buffer.shape, buffer.pointer));
      weight_buffers_ = buffers;
    } catch (const Damaged& error) {
      refuse(error.what);
    } catch (const nlohmann::json::exception& error) {
      refuse(error.what());
    }
    return weights_;
  }

  const Bundle& bundle_;
  std::shared_ptr<Memory> memory_;
  int index_, threads_;
  Buffers weight_buffers_;
  std::map<std::string, Ort::Value> weights_;
  std::map<std::string, Graph> graphs_;
  std::map<std::string, Buffers> repeated_;  // by graph: inputs of runs that may be captured
};

std::unique_ptr<BufferEngine> ort_on_buffers(const Bundle& bundle, std::shared_ptr<Memory> memory, int index,
                                             int threads) {
  return std::make_unique<OrtOnBuffers>(bundle, std::move(memory), index, threads);
}

}  // namespace sige
