// The host as a device: arrays of its memory, and an engine that reads them in place.
#pragma once

#include "device.h"
#include "graphs.h"
#include "indexer.h"
#include "inputs.h"
#include "moves.h"

namespace sige {

class HostDevice : public Device {
 public:
  // threads: that a run may use, 0 for all cores.
  HostDevice(const Bundle& bundle, int threads);

  std::string name() const override { return graphs_.name(); }
  bool gpu() const override { return false; }
  bool recorded() const override { return base_.has_value(); }
  size_t cache_bytes() const override;
  size_t graphs() const override { return 0; }
  std::unique_ptr<Scope> current() override { return nullptr; }
  void load() override;
  std::unique_ptr<Call> take_in(const Inputs& given, const std::optional<Mask>& mask) override;
  void commit() override;
  View state(const std::string& part, const std::string& name) override;
  void restore(SavedState state) override;

 private:
  friend class HostCall;

  // The recorded state; the device's own arrays, never handed out.
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

  Base run_record(const Views& given);
  Pending run_sparse(const Inputs& given, const Buffers& feeds);
  Outputs written(const Pending& edited);
  void commit_sparse();

  const Bundle& bundle_;
  const Manifest& manifest_;
  Graphs graphs_;
  HostMemory memory_;
  std::vector<int32_t> status_;  // of the inputs, as `Comparison` writes it
  Comparison comparison_;
  std::vector<const InputSpec*> spatial_;
  std::vector<const OutputSpec*> outputs_;  // those with pixels
  std::vector<const CacheSpec*> caches_;    // those with rows
  std::vector<Offsets> input_offsets_, output_offsets_, commit_offsets_;
  RowMoves take_, put_, commits_;
  std::optional<Indexer> indexer_;
  std::optional<Base> base_;
  std::optional<Pending> pending_;
};

}  // namespace sige
