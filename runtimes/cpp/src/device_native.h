// A device whose data stays where the native kernels work: on a GPU, or on the host to test what a GPU does.
//
// Everything lies at fixed addresses, so that what an edit repeats is prepared once, and on a GPU captured: a step that
// looks at the inputs, after which the counts of active pixels come back, and one step per bucket of row counts that
// makes the tables, runs the edit graph and writes the outputs.
#pragma once

#include <list>

#include "buckets.h"
#include "captures.h"
#include "device_edit.h"
#include "device_engine.h"
#include "device_exchange.h"
#include "indexer.h"
#include "inputs.h"
#include "moves.h"

namespace sige {

class NativeDevice : public Device {
 public:
  // To be called inside the memory's `current()`.
  NativeDevice(const Bundle& bundle, std::shared_ptr<Memory> memory, std::unique_ptr<BufferEngine> engine,
               std::unique_ptr<Captures> captures, Place outputs);
  ~NativeDevice() override;

  std::string name() const override { return engine_->name(); }
  bool gpu() const override { return memory_->backend() == SIGE_CUDA; }
  bool recorded() const override { return recorded_; }
  size_t cache_bytes() const override;
  size_t graphs() const override { return captures_->size(); }
  std::unique_ptr<Scope> current() override { return memory_->current(); }
  void load() override;
  std::unique_ptr<Call> take_in(const Inputs& given, const std::optional<Mask>& mask) override;
  void commit() override;
  View state(const std::string& part, const std::string& name) override;
  void restore(SavedState state) override;

 private:
  friend class NativeCall;
  friend class PreparedEdit;
  enum class Pending { NONE, SPARSE, DENSE, REUSE };

  const Buffers& storage();
  Buffers new_storage();
  // Looks at the inputs given; active pixels of each level, then of each input the words "not finite" and "changed".
  // masked: `masks_` holds what was edited. Before there is something to edit, only "not finite" is of meaning.
  std::vector<int32_t> look(bool masked);
  void record(const Buffers& inputs);
  bool dense();
  std::shared_ptr<PreparedEdit> edit(const std::vector<int32_t>& counts);

  const Bundle& bundle_;
  const Manifest& manifest_;
  std::shared_ptr<Memory> memory_;
  std::unique_ptr<BufferEngine> engine_;
  std::unique_ptr<Captures> captures_;
  Buckets buckets_;
  std::vector<const InputSpec*> spatial_;
  std::vector<const OutputSpec*> outputs_;  // those with pixels
  std::vector<const CacheSpec*> caches_;    // those with rows
  std::vector<Offsets> input_offsets_, output_offsets_, commit_offsets_;
  Exchange exchange_;
  Buffers given_;
  Buffers free_;  // of the last edit, while `given_` may hold a refused one
  Buffers results_;
  std::vector<Buffer> masks_;  // of the spatial inputs
  Buffer status_;
  Comparison check_;  // for NaN and infinity alone
  RowMoves take_, put_, commits_;
  std::optional<Indexer> indexer_;
  std::optional<Comparison> comparison_;
  Room room_;
  Buffers storage_;  // the recorded state, by "input.<name>", "output.<name>" and "cache.<name>"
  Buffers former_;   // inputs of a dense edit that can be committed
  BufferEngine::Run dense_;
  std::list<std::shared_ptr<PreparedEdit>> edits_;  // the most recently used first
  std::shared_ptr<PreparedEdit> edited_;            // what a commit takes up where it is sparse
  Pending pending_ = Pending::NONE;
  bool recorded_ = false;
  Array fetched_;
};

}  // namespace sige
