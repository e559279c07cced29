// Rows [B, P, C] out of dense arrays and into them.
#pragma once

#include <string>
#include <vector>

#include "manifest.h"

namespace sige {

// Where entry (b, pixel (y, x), c) of an array's rows lies in it: at n[b] + y[y] + x[x] + c[c], in elements.
class Moves {
 public:
  explicit Moves(const InputSpec& input);
  explicit Moves(const OutputSpec& output);
  Moves(const CacheSpec& cache, const LevelSpec& level);

  // active: pixels y * W + x, one for each row.
  void take(const void* dense, void* rows, const std::vector<int32_t>& active) const;
  void put(void* dense, const void* rows, const std::vector<int32_t>& active) const;

  // Shape of `active.size()` rows.
  Shape rows(int64_t count) const;

 private:
  Moves(const std::vector<Atom>& atoms, const std::vector<int64_t>* order, DType dtype);

  std::vector<int64_t> n_, y_, x_, c_;
  int32_t bytes_;
};

}  // namespace sige
