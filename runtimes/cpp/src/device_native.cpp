#include "device_native.h"

#include <algorithm>

#include "text.h"

namespace sige {

constexpr size_t KEPT = 64;  // edits of different row counts that stay prepared

template <typename Specs>
static std::vector<ArraySpec> arrays_of(const Specs& specs, const std::string& prefix = "") {
  std::vector<ArraySpec> result;
  for (const auto& spec : specs) result.push_back({prefix + spec.name, spec.dtype, spec.shape});
  return result;
}

static std::vector<ArraySpec> free_inputs(const Manifest& manifest) {
  std::vector<ArraySpec> result;
  for (const InputSpec& input : manifest.inputs)
    if (input.role == "free") result.push_back({input.name, input.dtype, input.shape});
  return result;
}

NativeDevice::NativeDevice(const Bundle& bundle, std::shared_ptr<Memory> memory, std::unique_ptr<BufferEngine> engine,
                           std::unique_ptr<Captures> captures, Place outputs)
    : bundle_(bundle),
      manifest_(bundle.manifest()),
      memory_(std::move(memory)),
      engine_(std::move(engine)),
      captures_(std::move(captures)),
      buckets_(manifest_),
      spatial_(manifest_.spatial()),
      outputs_(manifest_.spatial_outputs()),
      caches_(manifest_.row_caches()),
      input_offsets_(input_offsets(manifest_)),
      output_offsets_(output_offsets(manifest_)),
      commit_offsets_(commit_offsets(manifest_)),
      exchange_(*memory_, outputs),
      given_(laid_out(*memory_, arrays_of(manifest_.inputs))),
      free_(laid_out(*memory_, free_inputs(manifest_))),
      results_(laid_out(*memory_, arrays_of(manifest_.outputs))),
      status_(memory_->empty(DType::INT32, {static_cast<int64_t>(2 * manifest_.inputs.size())})),
      check_(*memory_, manifest_, status_.as<int32_t>()),
      take_(*memory_, input_offsets_),
      put_(*memory_, output_offsets_),
      commits_(*memory_, commit_offsets_),
      room_(*memory_) {
  for (const InputSpec* input : spatial_)
    masks_.push_back(memory_->empty(DType::UINT8, {input->size('Y'), input->size('X')}));
}

NativeDevice::~NativeDevice() {
  try {
    const auto here = memory_->current();
    memory_->synchronize();
  } catch (const Error&) {  // the device failed before; nothing waits for it any more
  }
}

size_t NativeDevice::cache_bytes() const {
  size_t total = 0;
  for (const CacheSpec& cache : manifest_.caches) total += bytes_of(cache);
  return recorded_ ? total : 0;
}

void NativeDevice::load() {
  if (comparison_) return;
  indexer_.emplace(*memory_, manifest_, read_geometries(bundle_.path("geometry.safetensors"), manifest_),
                   engine_->edit_inputs(), 2 * manifest_.inputs.size());
  comparison_.emplace(*memory_, manifest_, indexer_->status());
}

Buffers NativeDevice::new_storage() {
  std::vector<ArraySpec> arrays = arrays_of(manifest_.inputs, "input.");
  for (const ArraySpec& output : arrays_of(manifest_.outputs, "output.")) arrays.push_back(output);
  for (const ArraySpec& cache : arrays_of(manifest_.caches, "cache.")) arrays.push_back(cache);
  return laid_out(*memory_, arrays);
}

const Buffers& NativeDevice::storage() {
  if (storage_.empty()) storage_ = new_storage();
  return storage_;
}

std::vector<int32_t> NativeDevice::look(bool masked) {
  std::vector<const void*> given, recorded;
  for (const InputSpec& input : manifest_.inputs) given.push_back(given_.at(input.name).pointer);
  std::vector<uint8_t*> wanted(manifest_.inputs.size());
  if (!comparison_ || !recorded_) {
    check_.launch(given, {}, wanted);
    std::vector<int32_t> words(manifest_.levels.size() + 2 * manifest_.inputs.size());
    memory_->download(status_.pointer, words.data() + manifest_.levels.size(), status_.bytes());
    return words;
  }
  std::vector<const uint8_t*> masks;
  for (const Buffer& mask : masks_) masks.push_back(mask.as<uint8_t>());
  size_t next = 0;
  for (size_t i = 0; i < manifest_.inputs.size(); ++i) {
    recorded.push_back(storage().at("input." + manifest_.inputs[i].name).pointer);
    if (manifest_.inputs[i].spatial()) wanted[i] = masked ? nullptr : masks_[next++].as<uint8_t>();
  }
  captures_->run(masked ? "look at a mask" : "look", [&] {
    comparison_->launch(given, recorded, wanted);
    indexer_->begin(masks);
  });
  return indexer_->counts_and_status();
}

// The first time it is written where it stays; later into fresh memory, from where it is copied once all of it is
// there: edits know the storage's addresses.
void NativeDevice::record(const Buffers& inputs) {
  const Buffers target = recorded_ ? new_storage() : storage();
  Buffers made;
  for (const auto& [name, buffer] : target)
    if (name.rfind("input.", 0) != 0) made[name.substr(name.find('.') + 1)] = buffer;
  engine_->bind_record(inputs, made)();
  for (const auto& [name, buffer] : inputs)
    memory_->copy(buffer.pointer, target.at("input." + name).pointer, buffer.bytes());
  memory_->synchronize();
  if (recorded_) {
    for (const auto& [name, buffer] : target)
      memory_->copy(buffer.pointer, storage_.at(name).pointer, buffer.bytes());
    memory_->synchronize();
  }
  recorded_ = true;
}

bool NativeDevice::dense() {
  if (!dense_) dense_ = engine_->bind_dense(given_, results_);
  const bool captured = captures_->run("dense", dense_);
  if (former_.empty()) former_ = laid_out(*memory_, arrays_of(manifest_.inputs));
  for (const auto& [name, buffer] : given_) memory_->copy(buffer.pointer, former_.at(name).pointer, buffer.bytes());
  return captured;
}

std::shared_ptr<PreparedEdit> NativeDevice::edit(const std::vector<int32_t>& counts) {
  const std::vector<int32_t> rows = buckets_.fit(counts);
  const auto found = std::find_if(edits_.begin(), edits_.end(), [&](const auto& e) { return e->rows() == rows; });
  if (found == edits_.end()) {
    edits_.push_front(std::make_shared<PreparedEdit>(*this, rows));
    if (edits_.size() > KEPT) {
      captures_->forget(edits_.back()->key());
      edits_.pop_back();
    }
  } else {
    edits_.splice(edits_.begin(), edits_, found);
  }
  return edits_.front();
}

void NativeDevice::commit() {
  if (pending_ == Pending::NONE)
    throw Error(Kind::STATE, "the edit to commit was lost when a later one failed; call edit again.");
  if (pending_ == Pending::DENSE) record(former_);
  if (pending_ == Pending::SPARSE) edited_->commit(*this);
  memory_->synchronize();
  pending_ = Pending::NONE;
}

View NativeDevice::state(const std::string& part, const std::string& name) {
  const Buffer& buffer = storage().at(part + "." + name);
  fetched_ = empty(buffer.dtype, buffer.shape);
  memory_->download(buffer.pointer, fetched_.bytes.data(), fetched_.bytes.size());
  return fetched_;
}

void NativeDevice::restore(SavedState state) {
  const Buffers& target = storage();
  recorded_ = false;  // until all of it is there
  pending_ = Pending::NONE;
  for (const auto& [part, arrays] : state)
    for (const auto& [name, array] : arrays)
      memory_->upload(array.bytes.data(), target.at(part + "." + name).pointer, array.bytes.size());
  memory_->synchronize();
  recorded_ = true;
}

// The inputs are looked at in one step, whose findings come back in one download.
class NativeCall : public Call {
 public:
  NativeCall(NativeDevice& device, const Inputs& given, const std::optional<Mask>& mask) : device_(device) {
    device.exchange_.take(given, device.given_);
    if (mask) device.exchange_.take_mask(*mask, device.masks_, device.manifest_.threshold);
    const std::vector<int32_t> words = device.look(mask.has_value());
    const auto levels = words.begin() + static_cast<int64_t>(device.manifest_.levels.size());
    counts_.assign(words.begin(), levels);
    status_.assign(levels, words.end());
  }

  std::optional<size_t> not_finite() const override {
    for (size_t i = 0; i < status_.size(); i += 2)
      if (status_[i]) return i / 2;
    return std::nullopt;
  }

  bool changed(size_t input) const override { return status_[2 * input + 1] != 0; }

  const std::vector<int32_t>& counts() override { return counts_; }

  void record() override { device_.record(device_.given_); }

  void index() override {
    device_.pending_ = Pending::NONE;  // what follows overwrites it
    edit_ = device_.edit(counts_);
  }

  bool run() override {
    path_ = Pending::SPARSE;
    return device_.captures_->run(edit_->key(), [this] { edit_->run(device_); });
  }

  bool dense() override {
    device_.pending_ = Pending::NONE;  // what follows overwrites it
    path_ = Pending::DENSE;
    return device_.dense();
  }

  void reuse() override { path_ = Pending::REUSE; }

  Outputs finish() override {
    Buffers results = device_.results_;
    if (path_ == Pending::NONE || path_ == Pending::REUSE)
      for (auto& [name, buffer] : results) buffer = device_.storage().at("output." + name);
    Outputs outputs = device_.exchange_.give(results);
    device_.pending_ = path_;
    device_.edited_ = std::move(edit_);
    return outputs;
  }

 private:
  using Pending = NativeDevice::Pending;
  NativeDevice& device_;
  std::vector<int32_t> counts_, status_;
  std::shared_ptr<PreparedEdit> edit_;
  Pending path_ = Pending::NONE;  // of a record
};

std::unique_ptr<Call> NativeDevice::take_in(const Inputs& given, const std::optional<Mask>& mask) {
  return std::make_unique<NativeCall>(*this, given, mask);
}

}  // namespace sige
