#include "sige/session.h"

#include <new>

#include "state.h"

namespace sige {

Outputs Session::State::record(const Inputs& given) {
  Stopwatch watch;
  check_inputs(manifest().inputs, given);
  compare(manifest(), given, nullptr, false);
  watch.lap("check");
  Base made = run_record(given);
  watch.lap("run");
  Outputs result = made.outputs;
  base = std::move(made);
  pending.reset();
  watch.lap("write");
  finish("record", 1, {}, watch);
  return result;
}

Outputs Session::State::edit(const Inputs& given, const std::optional<Mask>& mask) {
  const Manifest& manifest = bundle.manifest();
  check_recorded();
  Stopwatch watch;
  check_inputs(manifest.inputs, given);
  if (mask) check_mask(*mask, *manifest.spatial()[0]);
  watch.lap("check");
  if (!indexer)
    indexer.emplace(manifest, read_geometries(bundle.path("geometry.safetensors"), manifest), graphs.edit_inputs());
  watch.lap("load");
  Comparison seen = compare(manifest, given, &base->inputs, !mask);
  check_pinned(seen);
  const std::vector<int32_t> counts = activate(seen, mask);
  watch.lap("check");
  Pending edited{"reuse", {}, std::nullopt, {}};
  double share = 0;
  if (std::any_of(counts.begin(), counts.end(), [](int32_t n) { return n > 0; })) {
    share = fraction(counts);
    edited.path = share > manifest.dense_above ? "dense" : "sparse";
  } else if (!mask) {
    for (size_t i = 0; i < seen.changed.size(); ++i)
      if (manifest.inputs[i].role == "free" && seen.changed[i]) edited.path = "dense";
    share = edited.path == "dense" ? 1 : 0;
  }
  Outputs result;
  if (edited.path == "sparse") {
    const auto& feeds = indexer->finish();
    watch.lap("index");
    run_sparse(edited, given, feeds);
    watch.lap("run");
    result = written(edited);
  } else if (edited.path == "dense") {
    for (const OutputSpec& o : manifest.outputs) result.emplace(o.name, empty(o.dtype, o.shape));
    graphs.dense(given, result);
    watch.lap("run");
    for (const auto& [name, view] : given) edited.inputs.emplace(name, copied(view));
  } else {
    result = base->outputs;
  }
  const std::string path = edited.path;
  pending = std::move(edited);
  watch.lap("write");
  finish(path, share, counts, watch);
  return result;
}

void Session::State::commit() {
  check_recorded();
  if (!pending) throw Error(Kind::STATE, "there is no edit to commit; call edit first.");
  if (pending->path == "dense") {
    const Arrays& arrays = pending->inputs;
    base = run_record(Views(arrays.begin(), arrays.end()));
  } else if (pending->path == "sparse") {
    commit_sparse();
  }
  pending.reset();
}

void Session::State::save(const std::filesystem::path& file) const {
  check_recorded();
  save_state(file, manifest(), [this](const std::string& part, const std::string& name) -> View {
    return (part == "input" ? base->inputs : part == "output" ? base->outputs : base->caches).at(name);
  });
}

void Session::State::load(const std::filesystem::path& file) {
  SavedState loaded = load_state(file, manifest());
  base = Base{std::move(loaded["input"]), std::move(loaded["output"]), std::move(loaded["cache"])};
  pending.reset();
}

// What `run` returns, with the session's other calls waiting.
template <typename Run>
static auto alone(std::mutex& mutex, const char* doing, Run run) {
  const std::lock_guard<std::mutex> guard(mutex);
  try {
    return run();
  } catch (const std::bad_alloc&) {
    throw out_of_memory(doing);
  }
}

Session::Session(std::unique_ptr<State> state) : state_(std::move(state)) {}
Session::Session(Session&&) noexcept = default;
Session& Session::operator=(Session&&) noexcept = default;
Session::~Session() = default;

Session Session::open(const std::filesystem::path& bundle, int threads) {
  if (threads < 0)
    throw Error(Kind::INPUT,
                "threads is a count of CPU threads, 1 or more, or 0 for all; not " + std::to_string(threads) + ".");
  return Session(std::make_unique<State>(bundle, threads));
}

const std::vector<Signature>& Session::inputs() const { return state_->inputs; }
const std::vector<Signature>& Session::outputs() const { return state_->outputs; }

Outputs Session::record(const Inputs& inputs) {
  return alone(state_->mutex, "the dense pass", [&] { return state_->record(inputs); });
}

Outputs Session::edit(const Inputs& inputs, const std::optional<Mask>& mask) {
  return alone(state_->mutex, "the edit", [&] { return state_->edit(inputs, mask); });
}

void Session::commit() {
  alone(state_->mutex, "the commit", [&] { state_->commit(); });
}

void Session::save(const std::filesystem::path& file) const {
  alone(state_->mutex, "the save", [&] { state_->save(file); });
}

void Session::load(const std::filesystem::path& file) {
  alone(state_->mutex, "the load", [&] { state_->load(file); });
}

Report Session::report() const {
  const std::lock_guard<std::mutex> guard(state_->mutex);
  if (!state_->report) throw Error(Kind::STATE, "nothing has run yet; call record first.");
  return *state_->report;
}

}  // namespace sige
