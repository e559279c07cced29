#include "moves.h"

#include "arrays.h"
#include "sige/indices.h"

namespace sige {

static std::vector<Atom> atoms_of(const InputSpec& input) {
  std::vector<Atom> atoms;
  for (size_t i = 0; i < input.shape.size(); ++i) atoms.push_back({input.axes[i], input.shape[i]});
  return atoms;
}

static std::vector<Atom> atoms_of(const OutputSpec& output) {
  std::vector<Atom> atoms;
  for (const auto& axis : output.layout) atoms.insert(atoms.end(), axis.begin(), axis.end());
  return atoms;
}

Moves::Moves(const InputSpec& input) : Moves(atoms_of(input), nullptr, input.dtype) {}

Moves::Moves(const OutputSpec& output) : Moves(atoms_of(output), &output.order, output.dtype) {}

Moves::Moves(const CacheSpec& cache, const LevelSpec& level)
    : Moves({{'N', cache.shape[0]}, {'Y', level.height}, {'X', level.width}, {'C', cache.shape[2]}}, nullptr,
            cache.dtype) {}

Moves::Moves(const std::vector<Atom>& atoms, const std::vector<int64_t>* order, DType dtype)
    : bytes_(static_cast<int32_t>(size_of(dtype))) {
  const auto offsets = [&](char kind) {
    std::vector<std::pair<int64_t, int64_t>> parts, chosen;  // size, stride
    int64_t stride = 1;
    for (size_t i = atoms.size(); i-- > 0; stride *= atoms[i].size)
      if (atoms[i].kind == kind) parts.insert(parts.begin(), {atoms[i].size, stride});
    if (kind == 'C' && order)
      for (int64_t i : *order) chosen.push_back(parts[static_cast<size_t>(i)]);
    else
      chosen = parts;
    std::vector<int64_t> result{0};
    for (const auto& [size, step] : chosen) {
      std::vector<int64_t> next;
      for (int64_t offset : result)
        for (int64_t i = 0; i < size; ++i) next.push_back(offset + i * step);
      result = std::move(next);
    }
    return result;
  };
  n_ = offsets('N');
  y_ = offsets('Y');
  x_ = offsets('X');
  c_ = offsets('C');
}

static sige_move_args arguments(const std::vector<int64_t>& n, const std::vector<int64_t>& y,
                                const std::vector<int64_t>& x, const std::vector<int64_t>& c,
                                const std::vector<int32_t>& active, int32_t bytes) {
  sige_move_args args{};
  args.active = active.data();
  args.n = n.data();
  args.y = y.data();
  args.x = x.data();
  args.c = c.data();
  args.batch = static_cast<int32_t>(n.size());
  args.fresh = static_cast<int32_t>(active.size());
  args.width = static_cast<int32_t>(x.size());
  args.channels = static_cast<int32_t>(c.size());
  args.bytes = bytes;
  return args;
}

void Moves::take(const void* dense, void* rows, const std::vector<int32_t>& active) const {
  sige_move_args args = arguments(n_, y_, x_, c_, active, bytes_);
  args.dense = const_cast<void*>(dense);  // only read
  args.rows = rows;
  const sige_execution execution{};
  check(sige_take_rows(&args, 1, &execution));
}

void Moves::put(void* dense, const void* rows, const std::vector<int32_t>& active) const {
  sige_move_args args = arguments(n_, y_, x_, c_, active, bytes_);
  args.dense = dense;
  args.rows = const_cast<void*>(rows);  // only read
  const sige_execution execution{};
  check(sige_put_rows(&args, 1, &execution));
}

Shape Moves::rows(int64_t count) const {
  return {static_cast<int64_t>(n_.size()), count, static_cast<int64_t>(c_.size())};
}

}  // namespace sige
