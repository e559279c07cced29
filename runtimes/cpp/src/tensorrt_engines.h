// TensorRT engines in memory: one for all sessions of a process, a context for each set of buffers.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tensorrt_library.h"

namespace sige {

// An input or output of an engine; -1 in `shape` stands for any size within a profile.
struct TensorSpec {
  DType dtype;
  Shape shape;

  bool varies() const;
};

// A deserialised engine with its own copy of the graph's weights on the device.
class LoadedEngine {
 public:
  // The engine of a file on the memory's device, deserialised once as long as some session holds it. digest: the
  // file's, by which engines are told apart. The plugins must be loaded. Throws Error (RUNTIME).
  static std::shared_ptr<LoadedEngine> shared(const std::filesystem::path& file, const std::string& digest,
                                              const Memory& memory);

  LoadedEngine(const std::filesystem::path& file, const Memory& memory);

  const std::string& path() const { return path_; }
  const std::map<std::string, TensorSpec>& inputs() const { return inputs_; }
  const std::map<std::string, TensorSpec>& outputs() const { return outputs_; }
  // Memory for activations that no shape of any profile exceeds.
  size_t scratch_bytes() const { return static_cast<size_t>(engine_->getDeviceMemorySizeV2()); }
  size_t profiles() const { return profiles_.size(); }
  // The profile of least size that covers the shapes of the inputs whose size varies; throws Error where none does.
  int32_t profile(const std::map<std::string, Shape>& shapes) const;
  // A context without memory for activations.
  std::unique_ptr<nvinfer1::IExecutionContext> new_context(const Memory& memory) const;

 private:
  struct Range {
    Shape least, most;
  };
  using Profile = std::map<std::string, Range>;  // of the inputs whose size varies

  TensorSpec tensor(const char* name) const;

  TensorRtLibrary& library_;
  std::string path_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::map<std::string, TensorSpec> inputs_, outputs_;
  std::vector<Profile> profiles_;
};

// Memory for the activations of all contexts of a session: their runs are ordered on one stream, so each may use the
// same block. When one needs more, a new block is made for it and those to come; the old one lives on with the contexts
// that have it, whose captured graphs know its address.
class Scratch {
 public:
  explicit Scratch(Memory& memory) : memory_(memory) {}
  // The block, of `bytes` at least. A new one has twice the last one's size, if there is memory for it and no context
  // of this engine needs less: `most`.
  Buffer room(size_t bytes, size_t most);
  // The block where it is large enough, or else memory that goes when its user lets go of it.
  Buffer once(size_t bytes);

 private:
  Memory& memory_;
  Buffer block_;
};

// An engine's execution context on fixed buffers of a session's memory: `run` queues one run.
class EngineContext {
 public:
  // doing: what a run is, e.g. "the edit", for errors.
  EngineContext(std::shared_ptr<LoadedEngine> engine, Memory& memory, std::string doing);

  // Puts it on buffers by name, of which the engine may lack some. room: gives memory of at least so many bytes for its
  // activations. Throws Error (RUNTIME) where the buffers are not what the engine takes.
  void bind(const Buffers& inputs, const Buffers& outputs, const std::function<Buffer(size_t)>& room);
  void run();
  // Lets go of the buffers, when no run is under way.
  void release() { kept_.clear(); }

 private:
  Buffer checked(const std::string& name, const TensorSpec& tensor, const Buffers& buffers) const;
  void check_shapes(const Buffers& made);
  template <typename Call>
  void ask(Call call) {
    TensorRtLibrary::get().ask(doing_, &memory_, call);
  }

  std::shared_ptr<LoadedEngine> engine_;
  Memory& memory_;
  std::string doing_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  std::vector<Buffer> kept_;
};

}  // namespace sige
