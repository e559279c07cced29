#include "tensorrt.h"

#include <dlfcn.h>

#include "digest.h"
#include "engine_folder.h"
#include "tensorrt_engines.h"
#include "text.h"

namespace sige {

// Every bound edit has an execution context of its own, so that a captured graph of it stays valid; the memory for
// activations is one block, which the contexts of a session share.
class TensorRtOnBuffers : public BufferEngine {
 public:
  TensorRtOnBuffers(std::shared_ptr<CudaMemory> memory, EngineManifest manifest, std::filesystem::path folder,
                    std::string plugins)
      : memory_(std::move(memory)),
        manifest_(std::move(manifest)),
        folder_(std::move(folder)),
        plugins_(std::move(plugins)),
        scratch_(*memory_) {}

  std::string name() const override {
    return TensorRtLibrary::get().title() + " " + memory_->device() + ", native kernels";
  }

  // A run waits, so that the memory for the dense pass's activations, which are large, is given back.
  Run bind_record(const Buffers& inputs, const Buffers& outputs) override {
    if (!recording_) recording_.emplace(engine("record.engine"), *memory_, "the dense pass");
    recording_->bind(inputs, outputs, [this](size_t bytes) { return scratch_.once(bytes); });
    return [this] {
      try {
        recording_->run();
        memory_->synchronize();
      } catch (...) {
        recording_->release();
        throw;
      }
      recording_->release();
    };
  }

  Run bind_dense(const Buffers& inputs, const Buffers& outputs) override {
    return bound("dense.engine", "the dense pass", inputs, outputs);
  }

  Run bind_edit(const Buffers& inputs, const Buffers& outputs) override {
    return bound("edit.engine", "the edit", inputs, outputs);
  }

  std::set<std::string> edit_inputs() override {
    std::set<std::string> names;
    for (const auto& [name, tensor] : engine("edit.engine")->inputs()) names.insert(name);
    return names;
  }

 private:
  Run bound(const std::string& file, const std::string& doing, const Buffers& inputs, const Buffers& outputs) {
    const auto engine = this->engine(file);
    const auto context = std::make_shared<EngineContext>(engine, *memory_, doing);
    context->bind(inputs, outputs, [&](size_t bytes) { return scratch_.room(bytes, engine->scratch_bytes()); });
    return [context] { context->run(); };
  }

  // Each is deserialised at its first use.
  std::shared_ptr<LoadedEngine> engine(const std::string& file) {
    std::shared_ptr<LoadedEngine>& engine = engines_[file];
    if (!engine) {
      TensorRtLibrary::get().load_plugins(plugins_);
      engine = LoadedEngine::shared(folder_ / file, manifest_.files.at(file).sha256, *memory_);
    }
    return engine;
  }

  std::shared_ptr<CudaMemory> memory_;
  EngineManifest manifest_;
  std::filesystem::path folder_;
  std::string plugins_;
  Scratch scratch_;
  std::map<std::string, std::shared_ptr<LoadedEngine>> engines_;
  std::optional<EngineContext> recording_;
};

// The kernels' library, which is linked, as a file.
static std::filesystem::path kernels_file() {
  Dl_info found{};
  if (!dladdr(reinterpret_cast<void*>(&sige_version), &found) || !found.dli_fname)
    throw Error(Kind::RUNTIME, "the loader does not say where libsige_kernels is; link it as a shared library.");
  return std::filesystem::absolute(found.dli_fname);
}

std::unique_ptr<BufferEngine> tensorrt_on_buffers(const Bundle& bundle, std::shared_ptr<CudaMemory> memory) {
  const std::filesystem::path kernels = kernels_file(), plugins = kernels.parent_path() / "libsige_tensorrt.so";
  if (!std::filesystem::is_regular_file(plugins))
    throw Error(Kind::RUNTIME, "TensorRT needs the library of plugins libsige_tensorrt.so, and there is none in " +
                                   named(plugins.parent_path()) + "; install libsige with -DSIGE_CUDA=ON anew.");
  TensorRtLibrary& library = TensorRtLibrary::get();
  const std::string capability = memory->capability();
  const std::filesystem::path folder = find_engine(bundle, "tensorrt", library.version(), capability);
  EngineManifest manifest = read_engine(folder);
  check_engine(manifest, "tensorrt", library.version(), capability,
               {sige_version(), sha256(plugins), sha256(kernels)}, bundle);
  return std::make_unique<TensorRtOnBuffers>(std::move(memory), std::move(manifest), folder, plugins.string());
}

}  // namespace sige
