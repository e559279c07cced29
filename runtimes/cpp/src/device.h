// What a session asks of the device that its data lives on.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "arrays.h"
#include "bundle.h"
#include "save_load.h"

namespace sige {

// One record or edit: its inputs, taken in, and what becomes of them: one of `record`, `index` and `run`, `dense` or
// `reuse`, then `finish`. What was recorded or is to be committed stays in force until then.
class Call {
 public:
  virtual ~Call() = default;
  // The first input that holds NaN or infinity, by its number.
  virtual std::optional<size_t> not_finite() const = 0;
  // Whether an input differs from the recorded one in any bit.
  virtual bool changed(size_t input) const = 0;
  // Active pixels of each level; all 0 where no pixel was edited.
  virtual const std::vector<int32_t>& counts() = 0;
  // Runs the dense pass for outputs and caches.
  virtual void record() = 0;
  // Makes the index feeds of the edit.
  virtual void index() = 0;
  // Runs the edit graph; returns whether a captured graph ran.
  virtual bool run() = 0;
  // Runs the original network; returns as `run`.
  virtual bool dense() = 0;
  // Takes the recorded outputs.
  virtual void reuse() = 0;
  // The outputs by name. From now on the record is in force, or `commit` takes up the edit.
  virtual Outputs finish() = 0;
};

// Makes a device the calling thread's as long as it lives.
struct Scope {
  virtual ~Scope() = default;
};

// Where the inputs, the recorded state and the engine of one session are. Methods throw Error with one sentence when
// the device or the engine fails; they are called inside `current()`, one after the other.
class Device {
 public:
  virtual ~Device() = default;
  // Engine and device, for reports.
  virtual std::string name() const = 0;
  // Whether it is a GPU.
  virtual bool gpu() const = 0;
  virtual bool recorded() const = 0;
  // Memory that the recorded caches take on the device.
  virtual size_t cache_bytes() const = 0;
  // Captured graphs that are kept for edits to come.
  virtual size_t graphs() const = 0;
  virtual std::unique_ptr<Scope> current() = 0;
  // Loads what edits need; nothing the second time.
  virtual void load() = 0;
  // given, mask: checked, and alive as long as the call is.
  virtual std::unique_ptr<Call> take_in(const Inputs& given, const std::optional<Mask>& mask) = 0;
  // Makes the last edit part of the recorded state.
  virtual void commit() = 0;
  // An array of the recorded state in host memory, there until the next call. part: "input", "output" or "cache".
  virtual View state(const std::string& part, const std::string& name) = 0;
  // Takes up all arrays of a state, as if it had been recorded here.
  virtual void restore(SavedState state) = 0;
};

// The device that the options name, for a bundle that outlives it. Throws Error of kinds INPUT and RUNTIME.
std::unique_ptr<Device> make_device(const Bundle& bundle, const Options& options);

}  // namespace sige
