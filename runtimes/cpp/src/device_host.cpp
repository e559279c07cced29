#include "device_host.h"

#include <algorithm>

#include "text.h"

namespace sige {

HostDevice::HostDevice(const Bundle& bundle, int threads)
    : bundle_(bundle),
      manifest_(bundle.manifest()),
      graphs_(bundle, threads),
      status_(2 * manifest_.inputs.size()),
      comparison_(memory_, manifest_, status_.data()),
      spatial_(manifest_.spatial()),
      outputs_(manifest_.spatial_outputs()),
      caches_(manifest_.row_caches()),
      input_offsets_(input_offsets(manifest_)),
      output_offsets_(output_offsets(manifest_)),
      commit_offsets_(commit_offsets(manifest_)),
      take_(memory_, input_offsets_),
      put_(memory_, output_offsets_),
      commits_(memory_, commit_offsets_) {}

size_t HostDevice::cache_bytes() const {
  size_t total = 0;
  for (const auto& [name, cache] : base_->caches) total += cache.bytes.size();
  return total;
}

void HostDevice::load() {
  if (!indexer_)
    indexer_.emplace(memory_, manifest_, read_geometries(bundle_.path("geometry.safetensors"), manifest_),
                     graphs_.edit_inputs(), 0);
}

View HostDevice::state(const std::string& part, const std::string& name) {
  return (part == "input" ? base_->inputs : part == "output" ? base_->outputs : base_->caches).at(name);
}

void HostDevice::restore(SavedState state) {
  base_ = Base{std::move(state["input"]), std::move(state["output"]), std::move(state["cache"])};
  pending_.reset();
}

HostDevice::Base HostDevice::run_record(const Views& given) {
  Arrays made;
  for (const OutputSpec& o : manifest_.outputs) made.emplace(o.name, empty(o.dtype, o.shape));
  for (const CacheSpec& c : manifest_.caches) made.emplace(c.name, empty(c.dtype, c.shape));
  graphs_.record(given, made);
  Base result;
  for (const InputSpec& i : manifest_.inputs) result.inputs.emplace(i.name, copied(given.at(i.name)));
  for (const OutputSpec& o : manifest_.outputs) result.outputs.emplace(o.name, made.at(o.name));
  for (const CacheSpec& c : manifest_.caches) result.caches.emplace(c.name, std::move(made.at(c.name)));
  return result;
}

// Entries of a halo that are in use: they ascend, and zeros follow.
static View trimmed(const Buffer& halo) {
  const auto* first = halo.as<int32_t>();
  const auto used = std::partition_point(first + 1, first + halo.shape[0], [](int32_t pixel) { return pixel != 0; });
  return {DType::INT32, {std::min<int64_t>(bucket(used - first), halo.shape[0])}, halo.pointer};
}

HostDevice::Pending HostDevice::run_sparse(const Inputs& given, const Buffers& feeds) {
  Pending edited{"sparse", {}, std::nullopt, {}};
  for (const LevelSpec& level : manifest_.levels) {
    const Buffer& pixels = feeds.at("active." + level.id);
    edited.active[level.id].assign(pixels.as<int32_t>(), pixels.as<int32_t>() + pixels.shape[0]);
  }
  std::vector<Move> moves;
  for (size_t i = 0; i < spatial_.size(); ++i) {
    const auto& active = edited.active.at(*spatial_[i]->level);
    const auto count = static_cast<int64_t>(active.size());
    Array& rows = edited.inputs["rows." + spatial_[i]->name] =
        empty(spatial_[i]->dtype, input_offsets_[i].rows(count));
    moves.push_back({const_cast<void*>(given.at(spatial_[i]->name).data), rows.bytes.data(), active.data(), count});
  }
  take_.take(moves);
  for (const InputSpec& spec : manifest_.inputs)
    if (spec.role == "free") edited.inputs.emplace(spec.name, copied(given.at(spec.name)));
  const auto find = [&](const std::string& name) -> View {
    if (const auto feed = feeds.find(name); feed != feeds.end()) {
      const Buffer& buffer = feed->second;
      return name.rfind("halo.", 0) == 0 ? trimmed(buffer) : View(buffer.dtype, buffer.shape, buffer.pointer);
    }
    if (const auto input = edited.inputs.find(name); input != edited.inputs.end()) return input->second;
    if (const auto cache = base_->caches.find(name); cache != base_->caches.end()) return cache->second;
    throw Error(Kind::BUNDLE, "the edit graph reads " + named(name) +
                                  ", which the manifest does not list; export the bundle anew.");
  };
  edited.results = graphs_.edit(find, manifest_.edit_outputs());
  return edited;
}

// The recorded outputs with an edit's rows in them.
Outputs HostDevice::written(const Pending& edited) {
  Outputs outputs = base_->outputs;
  for (const OutputSpec& spec : manifest_.outputs)
    if (!spec.level) outputs[spec.name] = copied(edited.results->at(spec.name, spec.dtype, spec.shape));
  std::vector<Move> moves;
  for (size_t i = 0; i < outputs_.size(); ++i) {
    const OutputSpec& spec = *outputs_[i];
    const auto& active = edited.active.at(*spec.level);
    const auto count = static_cast<int64_t>(active.size());
    const View rows = edited.results->at(spec.rows(), spec.dtype, output_offsets_[i].rows(count));
    moves.push_back(
        {outputs.at(spec.name).bytes.data(), const_cast<void*>(rows.data), active.data(), count});
  }
  put_.put(moves);
  return outputs;
}

void HostDevice::commit() {
  if (pending_->path == "dense") {
    const Arrays& arrays = pending_->inputs;
    base_ = run_record(Views(arrays.begin(), arrays.end()));
  } else if (pending_->path == "sparse") {
    commit_sparse();
  }
  pending_.reset();
}

void HostDevice::commit_sparse() {
  // Everything is made and checked first: from there on only copies between arrays of known shapes happen.
  Outputs outputs = written(*pending_);
  Arrays inputs = base_->inputs;
  for (const InputSpec& spec : manifest_.inputs)
    if (spec.role == "free") inputs[spec.name] = std::move(pending_->inputs.at(spec.name));
  std::vector<Move> moves;
  const auto move = [&](Array& dense, const void* rows, const std::string& level) {
    const auto& active = pending_->active.at(level);
    moves.push_back(
        {dense.bytes.data(), const_cast<void*>(rows), active.data(), static_cast<int64_t>(active.size())});
  };
  for (const InputSpec* spec : spatial_)
    move(inputs.at(spec->name), pending_->inputs.at("rows." + spec->name).bytes.data(), *spec->level);
  for (size_t i = 0; i < caches_.size(); ++i) {
    const CacheSpec& spec = *caches_[i];
    const auto count = static_cast<int64_t>(pending_->active.at(*spec.level).size());
    const View rows = pending_->results->at(*spec.rows, spec.dtype, commit_offsets_[spatial_.size() + i].rows(count));
    move(base_->caches.at(spec.name), rows.data, *spec.level);
  }
  commits_.put(moves);
  base_->inputs = std::move(inputs);
  base_->outputs = std::move(outputs);
}

// What is asked is computed when it is asked for.
class HostCall : public Call {
 public:
  HostCall(HostDevice& device, const Inputs& given, const std::optional<Mask>& mask)
      : device_(device), given_(given), mask_(mask), counts_(device.manifest_.levels.size()) {
    std::vector<const void*> now, then;
    std::vector<uint8_t*> masks;
    for (const InputSpec& spec : device.manifest_.inputs) {
      const View& view = given.at(spec.name);
      check_on_host("input " + named(spec.name), view.place);
      now.push_back(view.data);
      if (device.base_) then.push_back(device.base_->inputs.at(spec.name).bytes.data());
      masks.push_back(nullptr);
      if (!spec.spatial() || mask || !device.base_) continue;
      masks_.emplace_back(static_cast<size_t>(spec.size('Y') * spec.size('X')));
      masks.back() = masks_.back().data();  // stays where it is when the outer vector grows
    }
    if (mask) check_on_host("mask", mask->place);
    device.comparison_.launch(now, then, masks);
  }

  std::optional<size_t> not_finite() const override {
    for (size_t i = 0; i < device_.status_.size(); i += 2)
      if (device_.status_[i]) return i / 2;
    return std::nullopt;
  }

  bool changed(size_t input) const override { return device_.status_[2 * input + 1] != 0; }

  const std::vector<int32_t>& counts() override {
    if (mask_)
      for (const InputSpec* spec : device_.spatial_)
        masks_.push_back(resampled(*mask_, spec->size('Y'), spec->size('X'), device_.manifest_.threshold));
    bool any = false;
    std::vector<const uint8_t*> pointers;
    for (const auto& pixels : masks_) {
      any = any || std::any_of(pixels.begin(), pixels.end(), [](uint8_t p) { return p != 0; });
      pointers.push_back(pixels.data());
    }
    if (any) {
      device_.indexer_->begin(pointers);
      counts_ = device_.indexer_->counts_and_status();
    }
    return counts_;
  }

  void record() override { recorded_ = device_.run_record(given_); }

  void index() override {
    std::vector<int32_t> rows;
    for (int32_t count : counts_) rows.push_back(static_cast<int32_t>(bucket(count)));
    feeds_ = device_.indexer_->finish(rows);
  }

  bool run() override {
    edited_ = device_.run_sparse(given_, feeds_);
    return false;
  }

  bool dense() override {
    for (const OutputSpec& o : device_.manifest_.outputs) outputs_.emplace(o.name, empty(o.dtype, o.shape));
    device_.graphs_.dense(given_, outputs_);
    edited_.path = "dense";
    for (const auto& [name, view] : given_) edited_.inputs.emplace(name, copied(view));
    return false;
  }

  void reuse() override { edited_.path = "reuse"; }

  Outputs finish() override {
    if (recorded_) {
      outputs_ = recorded_->outputs;
      device_.base_ = std::move(recorded_);
      device_.pending_.reset();
      return std::move(outputs_);
    }
    if (edited_.path == "sparse") outputs_ = device_.written(edited_);
    if (edited_.path == "reuse") outputs_ = device_.base_->outputs;
    device_.pending_ = std::move(edited_);
    return std::move(outputs_);
  }

 private:
  HostDevice& device_;
  const Inputs& given_;
  const std::optional<Mask>& mask_;
  std::vector<std::vector<uint8_t>> masks_;  // edited pixels of each spatial input
  std::vector<int32_t> counts_;
  Buffers feeds_;
  std::optional<HostDevice::Base> recorded_;
  HostDevice::Pending edited_;
  Outputs outputs_;
};

std::unique_ptr<Call> HostDevice::take_in(const Inputs& given, const std::optional<Mask>& mask) {
  return std::make_unique<HostCall>(*this, given, mask);
}

}  // namespace sige
