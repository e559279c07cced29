// What a session holds, and the steps of its calls.
#pragma once

#include <chrono>
#include <mutex>

#include "device.h"

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

struct Session::State {
  Bundle bundle;
  std::unique_ptr<Device> device;
  std::vector<Signature> inputs, outputs;
  bool edited = false;  // whether there is an edit to commit
  std::optional<Report> report;
  mutable std::mutex mutex;

  State(const std::filesystem::path& folder, const Options& options);

  const Manifest& manifest() const { return bundle.manifest(); }

  Outputs record(const Inputs& given);
  Outputs edit(const Inputs& given, const std::optional<Mask>& mask);
  void commit();
  void save(const std::filesystem::path& file) const;
  void load(const std::filesystem::path& file);

  void check_recorded() const;
  void refuse_not_finite(const Call& call) const;
  void check_pinned(const Call& call) const;
  // "sparse", "dense" or "reuse", and the share of the dense multiply-adds that an edit touches.
  std::pair<std::string, double> judge(const Call& call, const std::vector<int32_t>& counts, bool masked) const;
  void finish(const std::string& path, double fraction, std::vector<int32_t> counts, Stopwatch& watch, bool captured);
};

}  // namespace sige
