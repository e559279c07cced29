// Rows [B, P, C] out of dense arrays and into them.
#pragma once

#include <vector>

#include "device_memory.h"
#include "sige/indices.h"

namespace sige {

// Where entry (b, pixel (y, x), c) of an array's rows lies in it: at n[b] + y[y] + x[x] + c[c], in elements. c[c] is -1
// where the array lacks that channel of the rows: putting leaves it out.
struct Offsets {
  explicit Offsets(const InputSpec& input);
  explicit Offsets(const OutputSpec& output);
  Offsets(const CacheSpec& cache, const LevelSpec& level);

  // Shape of `count` rows.
  Shape rows(int64_t count) const { return {static_cast<int64_t>(n.size()), count, static_cast<int64_t>(c.size())}; }

  DType dtype;
  std::vector<int64_t> n, y, x, c;

 private:
  Offsets(const std::vector<Atom>& atoms, const std::vector<int64_t>* order, DType type);
};

// Of what an edit takes rows from, of what it writes its outputs to, and of what a commit writes rows into: spatial
// inputs, then caches.
std::vector<Offsets> input_offsets(const Manifest& manifest);
std::vector<Offsets> output_offsets(const Manifest& manifest);
std::vector<Offsets> commit_offsets(const Manifest& manifest);

// A dense array and its rows. active: pixels y * W + x, one for each row.
struct Move {
  void* dense;
  void* rows;
  const int32_t* active;
  int64_t count;
};

// Moves between dense arrays and rows, all of one direction by one call.
class RowMoves {
 public:
  RowMoves(Memory& memory, const std::vector<Offsets>& arrays);

  // One for each array, in their order. Stream-ordered.
  void take(const std::vector<Move>& moves);
  void put(const std::vector<Move>& moves);

 private:
  void point(const std::vector<Move>& moves);

  std::vector<sige_move_args> args_;
  std::vector<Buffer> tables_;
  sige_execution execution_;
};

}  // namespace sige
