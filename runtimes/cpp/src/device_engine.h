// What an engine that works on buffers offers to a device.
#pragma once

#include <functional>
#include <set>
#include <string>

#include "device_memory.h"

namespace sige {

// An engine that reads and writes buffers of one memory, on its stream. Each `bind_` puts a graph on fixed buffers by
// graph input or output name; what it returns queues one run. All of them throw Error with one sentence when the engine
// fails. Nothing of it outlives the engine.
class BufferEngine {
 public:
  using Run = std::function<void()>;

  virtual ~BufferEngine() = default;
  // Engine and device, for reports.
  virtual std::string name() const = 0;
  // The record graph; outputs: of the model, and caches.
  virtual Run bind_record(const Buffers& inputs, const Buffers& outputs) = 0;
  // The original network.
  virtual Run bind_dense(const Buffers& inputs, const Buffers& outputs) = 0;
  // The edit graph; of `inputs`, those that it lacks are skipped.
  virtual Run bind_edit(const Buffers& inputs, const Buffers& outputs) = 0;
  // Names of the inputs that the edit graph really has.
  virtual std::set<std::string> edit_inputs() = 0;
};

}  // namespace sige
