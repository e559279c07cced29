#include "tensorrt_engines.h"

#include <algorithm>
#include <fstream>
#include <mutex>

#include "text.h"

namespace sige {

constexpr const char* REBUILD = "; build the engines again with 'sige-deploy build'";

static std::mutex& engines_mutex() {
  static std::mutex mutex;
  return mutex;
}

bool TensorSpec::varies() const { return std::find(shape.begin(), shape.end(), -1) != shape.end(); }

static Shape shape_of(const nvinfer1::Dims& dims) { return Shape(dims.d, dims.d + std::max(dims.nbDims, 0)); }

static nvinfer1::Dims dims_of(const Shape& shape) {
  nvinfer1::Dims dims{};
  dims.nbDims = static_cast<int32_t>(shape.size());
  std::copy(shape.begin(), shape.end(), dims.d);
  return dims;
}

std::shared_ptr<LoadedEngine> LoadedEngine::shared(const std::filesystem::path& file, const std::string& digest,
                                                   const Memory& memory) {
  static std::map<std::string, std::weak_ptr<LoadedEngine>> engines;
  const std::lock_guard<std::mutex> guard(engines_mutex());
  std::weak_ptr<LoadedEngine>& known = engines[digest + " " + memory.device()];
  std::shared_ptr<LoadedEngine> engine = known.lock();
  if (!engine) known = engine = std::make_shared<LoadedEngine>(file, memory);
  return engine;
}

LoadedEngine::LoadedEngine(const std::filesystem::path& file, const Memory& memory)
    : library_(TensorRtLibrary::get()), path_(file.string()), runtime_(library_.runtime()) {
  std::vector<char> bytes(static_cast<size_t>(std::filesystem::file_size(file)));
  std::ifstream(file, std::ios::binary).read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  engine_.reset(library_.ask("loading " + named(path_), &memory,
                             [&] { return runtime_->deserializeCudaEngine(bytes.data(), bytes.size()); }));
  std::vector<std::string> varying;
  for (int32_t i = 0; i < engine_->getNbIOTensors(); ++i) {
    const char* name = engine_->getIOTensorName(i);
    const bool given = engine_->getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT;
    const TensorSpec& spec = (given ? inputs_ : outputs_).emplace(name, tensor(name)).first->second;
    if (given && spec.varies()) varying.push_back(name);
  }
  for (int32_t i = 0; i < engine_->getNbOptimizationProfiles(); ++i) {
    Profile& profile = profiles_.emplace_back();
    for (const std::string& name : varying) {
      const auto limit = [&](nvinfer1::OptProfileSelector which) {
        return shape_of(engine_->getProfileShape(name.c_str(), i, which));
      };
      profile[name] = {limit(nvinfer1::OptProfileSelector::kMIN), limit(nvinfer1::OptProfileSelector::kMAX)};
    }
  }
}

TensorSpec LoadedEngine::tensor(const char* name) const {
  using Type = nvinfer1::DataType;
  constexpr std::pair<Type, DType> types[] = {
      {Type::kFLOAT, DType::FLOAT32}, {Type::kHALF, DType::FLOAT16}, {Type::kINT32, DType::INT32},
      {Type::kINT64, DType::INT64},   {Type::kINT8, DType::INT8},    {Type::kUINT8, DType::UINT8},
      {Type::kBOOL, DType::BOOL},
  };
  const Type found = engine_->getTensorDataType(name);
  const auto known = std::find_if(std::begin(types), std::end(types), [&](const auto& t) { return t.first == found; });
  if (known == std::end(types) || engine_->getTensorLocation(name) != nvinfer1::TensorLocation::kDEVICE)
    throw Error(Kind::RUNTIME, named(path_) + " has " + named(name) + " in a form that no bundle has" + REBUILD + ".");
  return {known->second, shape_of(engine_->getTensorShape(name))};
}

static bool within(const Shape& shape, const Shape& least, const Shape& most) {
  bool inside = shape.size() == least.size();
  for (size_t i = 0; inside && i < shape.size(); ++i) inside = least[i] <= shape[i] && shape[i] <= most[i];
  return inside;
}

int32_t LoadedEngine::profile(const std::map<std::string, Shape>& shapes) const {
  const auto size = [](const Profile& profile) {
    int64_t total = 0;
    for (const auto& [name, range] : profile) total += count_of(range.most);
    return total;
  };
  const auto misfit = [&](const Profile& profile) {
    return std::find_if(profile.begin(), profile.end(), [&](const auto& item) {
      return !within(shapes.at(item.first), item.second.least, item.second.most);
    });
  };
  int32_t best = -1;
  for (size_t i = 0; i < profiles_.size(); ++i)
    if (misfit(profiles_[i]) == profiles_[i].end() && (best < 0 || size(profiles_[i]) < size(profiles_[best])))
      best = static_cast<int32_t>(i);
  if (best >= 0) return best;
  const Profile& largest = *std::max_element(profiles_.begin(), profiles_.end(),
                                             [&](const Profile& a, const Profile& b) { return size(a) < size(b); });
  const auto& [name, range] = *misfit(largest);
  throw Error(Kind::RUNTIME, named(path_) + " takes " + named(name) + " from " + listed(range.least) + " to " +
                                 listed(range.most) + ", and this edit has " + listed(shapes.at(name)) + REBUILD +
                                 " for these sizes.");
}

std::unique_ptr<nvinfer1::IExecutionContext> LoadedEngine::new_context(const Memory& memory) const {
  const std::lock_guard<std::mutex> guard(engines_mutex());
  return std::unique_ptr<nvinfer1::IExecutionContext>(library_.ask("preparing " + named(path_), &memory, [&] {
    return engine_->createExecutionContext(nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED);
  }));
}

Buffer Scratch::room(size_t bytes, size_t most) {
  const size_t former = block_.pointer ? block_.bytes() : 0;
  if (block_.pointer && former >= bytes) return block_;
  const auto block = [&](size_t size) { return memory_.empty(DType::UINT8, {static_cast<int64_t>(size)}); };
  const size_t generous = std::min(2 * former, most);
  if (generous > bytes) {
    try {
      return block_ = block(generous);
    } catch (const Error&) {  // then as much as is needed
    }
  }
  return block_ = block(bytes);
}

Buffer Scratch::once(size_t bytes) {
  if (block_.pointer && block_.bytes() >= bytes) return block_;
  return memory_.empty(DType::UINT8, {static_cast<int64_t>(bytes)});
}

EngineContext::EngineContext(std::shared_ptr<LoadedEngine> engine, Memory& memory, std::string doing)
    : engine_(std::move(engine)), memory_(memory), doing_(std::move(doing)), context_(engine_->new_context(memory)) {}

void EngineContext::bind(const Buffers& inputs, const Buffers& outputs, const std::function<Buffer(size_t)>& room) {
  Buffers given, made;
  std::map<std::string, Shape> varying;
  for (const auto& [name, tensor] : engine_->inputs()) {
    given[name] = checked(name, tensor, inputs);
    if (tensor.varies()) varying[name] = given[name].shape;
  }
  for (const auto& [name, tensor] : engine_->outputs()) made[name] = checked(name, tensor, outputs);
  if (!varying.empty()) {
    const int32_t profile = engine_->profile(varying);
    const auto stream = static_cast<cudaStream_t>(memory_.stream());
    if (engine_->profiles() > 1) ask([&] { return context_->setOptimizationProfileAsync(profile, stream); });
    for (const auto& [name, shape] : varying)
      ask([&, &name = name, &shape = shape] { return context_->setInputShape(name.c_str(), dims_of(shape)); });
  }
  kept_.clear();
  for (const Buffers* buffers : {&given, &made})
    for (const auto& [name, buffer] : *buffers) {
      ask([&, &name = name, &buffer = buffer] { return context_->setTensorAddress(name.c_str(), buffer.pointer); });
      kept_.push_back(buffer);
    }
  check_shapes(made);
  TensorRtLibrary& library = TensorRtLibrary::get();
  const size_t needed = library.tell(doing_, &memory_, [&] { return context_->updateDeviceMemorySizeForShapes(); });
  // An engine that needs memory for other shapes asks for an address even where this one needs none.
  const Buffer block = room(std::max<size_t>(needed, SIGE_WORKSPACE_ALIGNMENT));
  library.tell(doing_, &memory_, [&] {
    context_->setDeviceMemoryV2(block.pointer, static_cast<int64_t>(block.bytes()));
    return true;
  });
  kept_.push_back(block);
}

void EngineContext::run() {
  ask([&] { return context_->enqueueV3(static_cast<cudaStream_t>(memory_.stream())); });
}

Buffer EngineContext::checked(const std::string& name, const TensorSpec& tensor, const Buffers& buffers) const {
  const std::string has = named(engine_->path()) + " has " + named(name);
  const auto found = buffers.find(name);
  if (found == buffers.end()) throw Error(Kind::RUNTIME, has + ", which the bundle lacks" + REBUILD + ".");
  const Buffer& buffer = found->second;
  bool fits = buffer.dtype == tensor.dtype && buffer.shape.size() == tensor.shape.size();
  for (size_t i = 0; fits && i < tensor.shape.size(); ++i)
    fits = tensor.shape[i] == -1 || tensor.shape[i] == buffer.shape[i];
  if (!fits)
    throw Error(Kind::RUNTIME, has + " as " + name_of(tensor.dtype) + " " + listed(tensor.shape) + ", the bundle as " +
                                   name_of(buffer.dtype) + " " + listed(buffer.shape) + REBUILD + ".");
  return buffer;
}

// Throws Error unless the outputs have the sizes of their buffers.
void EngineContext::check_shapes(const Buffers& made) {
  const char* unknown = nullptr;
  const int32_t missing =
      TensorRtLibrary::get().tell(doing_, &memory_, [&] { return context_->inferShapes(1, &unknown); });
  if (missing)
    throw Error(Kind::RUNTIME, named(engine_->path()) + " has " + named(unknown ? unknown : "an output") +
                                   " of unknown size" + REBUILD + ".");
  for (const auto& [name, buffer] : made) {
    const Shape shape = shape_of(context_->getTensorShape(name.c_str()));
    if (shape != buffer.shape)
      throw Error(Kind::RUNTIME, named(engine_->path()) + " gives " + named(name) + " as " + listed(shape) +
                                     ", and the bundle has " + listed(buffer.shape) + REBUILD + ".");
  }
}

}  // namespace sige
