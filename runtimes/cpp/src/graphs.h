// The bundle's graphs in ONNX Runtime on the CPU, each loaded at its first use.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "arrays.h"
#include "bundle.h"

namespace sige {

// Outputs of an edit: they stay in the engine's memory.
class Results {
 public:
  struct Values;
  explicit Results(std::unique_ptr<Values> values);
  Results(Results&&) noexcept;
  Results& operator=(Results&&) noexcept;
  ~Results();

  // An output; throws Error unless it has this dtype and shape.
  View at(const std::string& name, DType dtype, const Shape& shape) const;

 private:
  std::unique_ptr<Values> values_;
};

class Graphs {
 public:
  // threads: that a run may use, 0 for all cores.
  Graphs(const Bundle& bundle, int threads);
  ~Graphs();

  // Engine and device, for reports.
  std::string name() const;

  // Runs the record graph, or the original network, into `outputs`, by name of a graph's output.
  void record(const Views& inputs, Arrays& outputs);
  void dense(const Views& inputs, Arrays& outputs);

  // Names of the edit graph's inputs.
  const std::set<std::string>& edit_inputs();

  // Runs the edit graph: `find` gives each of its inputs.
  Results edit(const std::function<View(const std::string&)>& find, const std::set<std::string>& outputs);

 private:
  struct Engine;
  std::unique_ptr<Engine> engine_;
};

}  // namespace sige
