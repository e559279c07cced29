// An edit of fixed row counts, prepared once: where its rows lie, and the work that runs it.
#pragma once

#include <string>
#include <vector>

#include "device_engine.h"

namespace sige {

class NativeDevice;

// Memory for the rows of one edit at a time: all edits lie in the same block, each from its beginning. When one needs
// more, a new block is made for it and those to come; the old one lives on with its edits.
class Room {
 public:
  explicit Room(Memory& memory) : memory_(memory) {}
  Buffers place(const std::vector<ArraySpec>& arrays);

 private:
  Memory& memory_;
  Buffer block_;
};

// Edits with these padded rows of each level: everything that they do beside looking at the inputs.
class PreparedEdit {
 public:
  PreparedEdit(NativeDevice& device, std::vector<int32_t> rows);

  const std::vector<int32_t>& rows() const { return rows_; }
  const std::string& key() const { return key_; }

  // Tables, rows of the inputs, the edit graph, outputs; stream-ordered, on fixed addresses. After the indexer's
  // `begin`.
  void run(NativeDevice& device);

  // Writes what the last run of this edit made into the recorded state; stream-ordered.
  void commit(NativeDevice& device);

 private:
  void bind(NativeDevice& device);

  std::vector<int32_t> rows_;
  std::string key_;
  Buffers fresh_, feeds_;
  BufferEngine::Run queue_;
};

}  // namespace sige
