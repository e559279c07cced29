// What a session holds, and the steps of its calls.
#pragma once

#include <algorithm>
#include <chrono>
#include <mutex>

#include "arrays.h"
#include "bundle.h"
#include "graphs.h"
#include "indexer.h"
#include "inputs.h"
#include "moves.h"
#include "save_load.h"
#include "text.h"

namespace sige {

// Milliseconds between laps, by name.
class Stopwatch {
 public:
  void lap(const std::string& name) {
    const auto now = std::chrono::steady_clock::now();
    stages[name] += std::chrono::duration<double, std::milli>(now - last_).count();
    last_ = now;
  }

  std::map<std::string, double> stages;

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

// The recorded state; the session's own arrays, never handed out.
struct Base {
  Arrays inputs, outputs, caches;
};

// The last edit, until it is committed or replaced.
struct Pending {
  std::string path;
  Arrays inputs;  // sparse: the free inputs, and rows of the spatial ones; dense: all, whole
  std::optional<Results> results;
  std::map<std::string, std::vector<int32_t>> active;  // padded, by level
};

struct Session::State {
  Bundle bundle;
  Graphs graphs;
  std::vector<Signature> inputs, outputs;
  std::optional<Indexer> indexer;
  std::optional<Base> base;
  std::optional<Pending> pending;
  std::optional<Report> report;
  mutable std::mutex mutex;

  State(const std::filesystem::path& folder, int threads) : bundle(folder), graphs(bundle, threads) {
    for (const InputSpec& i : manifest().inputs) inputs.push_back({i.name, i.dtype, i.shape, i.role});
    for (const OutputSpec& o : manifest().outputs) outputs.push_back({o.name, o.dtype, o.shape, "output"});
  }

  const Manifest& manifest() const { return bundle.manifest(); }

  Outputs record(const Inputs& given);
  Outputs edit(const Inputs& given, const std::optional<Mask>& mask);
  void commit();
  void save(const std::filesystem::path& file) const;
  void load(const std::filesystem::path& file);

  void check_recorded() const {
    if (!base) throw Error(Kind::STATE, "there is no recorded image to edit; call record or load first.");
  }

  Base run_record(const Views& given) {
    Arrays made;
    for (const OutputSpec& o : manifest().outputs) made.emplace(o.name, empty(o.dtype, o.shape));
    for (const CacheSpec& c : manifest().caches) made.emplace(c.name, empty(c.dtype, c.shape));
    graphs.record(given, made);
    Base result;
    for (const InputSpec& i : manifest().inputs) result.inputs.emplace(i.name, copied(given.at(i.name)));
    for (const OutputSpec& o : manifest().outputs) result.outputs.emplace(o.name, made.at(o.name));
    for (const CacheSpec& c : manifest().caches) result.caches.emplace(c.name, std::move(made.at(c.name)));
    return result;
  }

  void check_pinned(const Comparison& seen) const {
    for (size_t i = 0; i < seen.changed.size(); ++i) {
      const InputSpec& spec = manifest().inputs[i];
      if (spec.role == "pinned" && seen.changed[i])
        throw Error(Kind::INPUT, "input " + named(spec.name) + " must be as recorded in an edit (" +
                                     spec.reason.value_or("the caches hold its effect") +
                                     "); pass the recorded value, or record anew.");
    }
  }

  // Active pixels by level; empty where no pixel was edited.
  std::vector<int32_t> activate(Comparison& seen, const std::optional<Mask>& mask) {
    if (mask)
      for (const InputSpec* spec : manifest().spatial())
        seen.masks.push_back(resampled(*mask, spec->size('Y'), spec->size('X'), manifest().threshold));
    bool any = false;
    std::vector<const uint8_t*> pointers;
    for (const auto& pixels : seen.masks) {
      any = any || std::find_if(pixels.begin(), pixels.end(), [](uint8_t p) { return p != 0; }) != pixels.end();
      pointers.push_back(pixels.data());
    }
    return any ? indexer->begin(pointers) : std::vector<int32_t>();
  }

  // Share of the dense multiply-adds that an edit touches, by pixels in a network without any.
  double fraction(const std::vector<int32_t>& counts) const {
    const auto& levels = manifest().levels;
    const bool counted = std::any_of(levels.begin(), levels.end(), [](const LevelSpec& l) { return l.macs > 0; });
    double touched = 0, total = 0;
    for (size_t i = 0; i < levels.size(); ++i) {
      const double pixels = static_cast<double>(levels[i].height * levels[i].width);
      const double work = counted ? static_cast<double>(levels[i].macs) : pixels;
      touched += work * (counts[i] / pixels);
      total += work;
    }
    return touched / total;
  }

  void run_sparse(Pending& edited, const Inputs& given, const std::map<std::string, View>& feeds) {
    for (const LevelSpec& level : manifest().levels) {
      const View& pixels = feeds.at("active." + level.id);
      const auto* first = static_cast<const int32_t*>(pixels.data);
      edited.active[level.id].assign(first, first + pixels.shape[0]);
    }
    for (const InputSpec& spec : manifest().inputs) {
      if (spec.role == "free") edited.inputs.emplace(spec.name, copied(given.at(spec.name)));
      if (!spec.spatial()) continue;
      const Moves moves(spec);
      const auto& active = edited.active.at(*spec.level);
      Array rows = empty(spec.dtype, moves.rows(static_cast<int64_t>(active.size())));
      moves.take(given.at(spec.name).data, rows.bytes.data(), active);
      edited.inputs.emplace("rows." + spec.name, std::move(rows));
    }
    std::set<std::string> wanted;
    for (const OutputSpec& o : manifest().outputs) wanted.insert(o.rows());
    for (const CacheSpec& c : manifest().caches)
      if (c.rows) wanted.insert(*c.rows);
    edited.results = graphs.edit(
        [&](const std::string& name) -> View {
          if (const auto feed = feeds.find(name); feed != feeds.end()) return feed->second;
          if (const auto input = edited.inputs.find(name); input != edited.inputs.end()) return input->second;
          if (const auto cache = base->caches.find(name); cache != base->caches.end()) return cache->second;
          throw Error(Kind::BUNDLE, "the edit graph reads " + named(name) +
                                        ", which the manifest does not list; export the bundle anew.");
        },
        wanted);
  }

  // The recorded outputs with an edit's rows in them.
  Outputs written(const Pending& edited) const {
    Outputs outputs = base->outputs;
    for (const OutputSpec& spec : manifest().outputs) {
      if (!spec.level) {
        outputs[spec.name] = copied(edited.results->at(spec.name, spec.dtype, spec.shape));
        continue;
      }
      const auto& active = edited.active.at(*spec.level);
      if (active.empty()) continue;
      const Moves moves(spec);
      const View rows = edited.results->at(spec.rows(), spec.dtype, moves.rows(static_cast<int64_t>(active.size())));
      moves.put(outputs.at(spec.name).bytes.data(), rows.data, active);
    }
    return outputs;
  }

  void commit_sparse() {
    struct Fresh {
      Moves moves;
      Array* cache;
      const void* rows;
      const std::vector<int32_t>* active;
    };
    // Everything is made and checked first: from there on only copies between arrays of known shapes happen.
    std::vector<Fresh> fresh;
    for (const CacheSpec& spec : manifest().caches) {
      if (!spec.rows) continue;
      const auto& active = pending->active.at(*spec.level);
      const Moves moves(spec, manifest().level(*spec.level));
      const View rows = pending->results->at(*spec.rows, spec.dtype, moves.rows(static_cast<int64_t>(active.size())));
      fresh.push_back({moves, &base->caches.at(spec.name), rows.data, &active});
    }
    Outputs outputs = written(*pending);
    Arrays inputs = base->inputs;
    for (const InputSpec& spec : manifest().inputs) {
      if (spec.role == "free") inputs[spec.name] = std::move(pending->inputs.at(spec.name));
      if (spec.spatial())
        Moves(spec).put(inputs.at(spec.name).bytes.data(), pending->inputs.at("rows." + spec.name).bytes.data(),
                        pending->active.at(*spec.level));
    }
    for (const Fresh& f : fresh) f.moves.put(f.cache->bytes.data(), f.rows, *f.active);
    base->inputs = std::move(inputs);
    base->outputs = std::move(outputs);
  }

  void finish(const std::string& path, double fraction, const std::vector<int32_t>& counts, Stopwatch& watch) {
    Report made{path, fraction, {}, 0, watch.stages, graphs.name(), 0};
    const auto& levels = manifest().levels;
    for (size_t i = 0; i < levels.size(); ++i)
      made.rows[levels[i].id] = counts.empty() ? path == "reuse" ? 0 : levels[i].height * levels[i].width : counts[i];
    for (const auto& [name, took] : watch.stages) made.milliseconds += took;
    for (const auto& [name, cache] : base->caches) made.cache_bytes += cache.bytes.size();
    report = std::move(made);
  }
};

}  // namespace sige
