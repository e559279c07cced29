#include "sige/session.h"

#include <algorithm>
#include <new>

#include "inputs.h"
#include "state.h"
#include "text.h"

namespace sige {

Session::State::State(const std::filesystem::path& folder, const Options& options)
    : bundle(folder), device(make_device(bundle, options)) {
  for (const InputSpec& i : manifest().inputs) inputs.push_back({i.name, i.dtype, i.shape, i.role});
  for (const OutputSpec& o : manifest().outputs) outputs.push_back({o.name, o.dtype, o.shape, "output"});
}

Outputs Session::State::record(const Inputs& given) {
  Stopwatch watch;
  check_inputs(manifest().inputs, given);
  const auto call = device->take_in(given, std::nullopt);
  refuse_not_finite(*call);
  watch.lap("check");
  call->record();
  watch.lap("run");
  Outputs outputs = call->finish();
  edited = false;
  watch.lap("write");
  finish("record", 1, {}, watch, false);
  return outputs;
}

Outputs Session::State::edit(const Inputs& given, const std::optional<Mask>& mask) {
  check_recorded();
  Stopwatch watch;
  check_inputs(manifest().inputs, given);
  if (mask) check_mask(*mask, *manifest().spatial()[0]);
  watch.lap("check");
  device->load();
  watch.lap("load");
  const auto call = device->take_in(given, mask);
  refuse_not_finite(*call);
  check_pinned(*call);
  const std::vector<int32_t> counts = call->counts();
  watch.lap("check");
  const auto [path, fraction] = judge(*call, counts, mask.has_value());
  bool captured = false;
  if (path == "sparse") {
    call->index();
    watch.lap("index");
    captured = call->run();
  } else if (path == "dense") {
    captured = call->dense();
  } else {
    call->reuse();
  }
  watch.lap("run");
  Outputs outputs = call->finish();
  edited = true;
  watch.lap("write");
  const bool none = std::all_of(counts.begin(), counts.end(), [](int32_t n) { return n == 0; });
  finish(path, fraction, path == "dense" && none ? std::vector<int32_t>() : counts, watch, captured);
  return outputs;
}

void Session::State::commit() {
  check_recorded();
  if (!edited) throw Error(Kind::STATE, "there is no edit to commit; call edit first.");
  device->commit();
  edited = false;
}

void Session::State::save(const std::filesystem::path& file) const {
  check_recorded();
  save_state(file, manifest(), [this](const std::string& part, const std::string& name) {
    return device->state(part, name);
  });
}

void Session::State::load(const std::filesystem::path& file) {
  device->restore(load_state(file, manifest()));
  edited = false;
}

void Session::State::check_recorded() const {
  if (!device->recorded())
    throw Error(Kind::STATE, "there is no recorded image to edit; call record or load first.");
}

void Session::State::refuse_not_finite(const Call& call) const {
  if (const auto input = call.not_finite())
    throw Error(Kind::INPUT, "input " + named(manifest().inputs[*input].name) +
                                 " holds NaN or infinity; every value must be finite.");
}

void Session::State::check_pinned(const Call& call) const {
  for (size_t i = 0; i < manifest().inputs.size(); ++i) {
    const InputSpec& spec = manifest().inputs[i];
    if (spec.role == "pinned" && call.changed(i))
      throw Error(Kind::INPUT, "input " + named(spec.name) + " must be as recorded in an edit (" +
                                   spec.reason.value_or("the caches hold its effect") +
                                   "); pass the recorded value, or record anew.");
  }
}

std::pair<std::string, double> Session::State::judge(const Call& call, const std::vector<int32_t>& counts,
                                                     bool masked) const {
  if (std::any_of(counts.begin(), counts.end(), [](int32_t n) { return n > 0; })) {
    const double fraction = manifest().active_fraction(counts);
    const double most = device->gpu() ? manifest().gpu_dense_above : manifest().dense_above;
    return {fraction > most ? "dense" : "sparse", fraction};
  }
  for (size_t i = 0; i < manifest().inputs.size(); ++i)
    if (!masked && manifest().inputs[i].role == "free" && call.changed(i)) return {"dense", 1};
  return {"reuse", 0};
}

// counts: empty where all pixels were computed.
void Session::State::finish(const std::string& path, double fraction, std::vector<int32_t> counts, Stopwatch& watch,
                            bool captured) {
  Report made{path,       fraction, {}, 0, watch.stages, device->name(), device->cache_bytes(), captured,
              device->graphs()};
  const auto& levels = manifest().levels;
  for (size_t i = 0; i < levels.size(); ++i)
    made.rows[levels[i].id] = counts.empty() ? levels[i].height * levels[i].width : counts[i];
  for (const auto& [name, took] : watch.stages) made.milliseconds += took;
  report = std::move(made);
}

// What `run` returns, with the session's other calls waiting and its device the thread's.
template <typename State, typename Run>
static auto alone(State& state, const char* doing, Run run) {
  const std::lock_guard<std::mutex> guard(state.mutex);
  try {
    const auto current = state.device->current();
    return run();
  } catch (const std::bad_alloc&) {
    throw out_of_memory(doing);
  }
}

Session::Session(std::unique_ptr<State> state) : state_(std::move(state)) {}
Session::Session(Session&&) noexcept = default;
Session& Session::operator=(Session&&) noexcept = default;
Session::~Session() = default;

Session Session::open(const std::filesystem::path& bundle, const Options& options) {
  if (options.threads < 0)
    throw Error(Kind::INPUT, "threads is a count of CPU threads, 1 or more, or 0 for all; not " +
                                 std::to_string(options.threads) + ".");
  return Session(std::make_unique<State>(bundle, options));
}

const std::vector<Signature>& Session::inputs() const { return state_->inputs; }
const std::vector<Signature>& Session::outputs() const { return state_->outputs; }

Outputs Session::record(const Inputs& inputs) {
  return alone(*state_, "the dense pass", [&] { return state_->record(inputs); });
}

Outputs Session::edit(const Inputs& inputs, const std::optional<Mask>& mask) {
  return alone(*state_, "the edit", [&] { return state_->edit(inputs, mask); });
}

void Session::commit() {
  alone(*state_, "the commit", [&] { state_->commit(); });
}

void Session::save(const std::filesystem::path& file) const {
  alone(*state_, "the save", [&] { state_->save(file); });
}

void Session::load(const std::filesystem::path& file) {
  alone(*state_, "the load", [&] { state_->load(file); });
}

Report Session::report() const {
  const std::lock_guard<std::mutex> guard(state_->mutex);
  if (!state_->report) throw Error(Kind::STATE, "nothing has run yet; call record first.");
  return *state_->report;
}

}  // namespace sige
