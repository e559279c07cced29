#include "moves.h"

#include <algorithm>

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

Offsets::Offsets(const InputSpec& input) : Offsets(atoms_of(input), nullptr, input.dtype) {}

Offsets::Offsets(const OutputSpec& output) : Offsets(atoms_of(output), &output.order, output.dtype) {}

Offsets::Offsets(const CacheSpec& cache, const LevelSpec& level)
    : Offsets({{'N', cache.shape[0]}, {'Y', level.height}, {'X', level.width}, {'C', cache.shape[2]}}, nullptr,
              cache.dtype) {
  if (!cache.rows_channels) return;
  std::vector<int64_t> mine(static_cast<size_t>(*cache.rows_channels), -1);
  std::copy(c.begin(), c.end(), mine.begin() + cache.rows_offset);
  c = std::move(mine);
}

Offsets::Offsets(const std::vector<Atom>& atoms, const std::vector<int64_t>* order, DType type) : dtype(type) {
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
  n = offsets('N');
  y = offsets('Y');
  x = offsets('X');
  c = offsets('C');
}

std::vector<Offsets> input_offsets(const Manifest& manifest) {
  std::vector<Offsets> result;
  for (const InputSpec* input : manifest.spatial()) result.emplace_back(*input);
  return result;
}

std::vector<Offsets> output_offsets(const Manifest& manifest) {
  std::vector<Offsets> result;
  for (const OutputSpec* output : manifest.spatial_outputs()) result.emplace_back(*output);
  return result;
}

std::vector<Offsets> commit_offsets(const Manifest& manifest) {
  std::vector<Offsets> result = input_offsets(manifest);
  for (const CacheSpec* cache : manifest.row_caches()) result.emplace_back(*cache, manifest.level(*cache->level));
  return result;
}

RowMoves::RowMoves(Memory& memory, const std::vector<Offsets>& arrays) : execution_(memory.execution()) {
  const auto table = [&](const std::vector<int64_t>& values) {
    tables_.push_back(memory.uploaded(DType::INT64, {static_cast<int64_t>(values.size())}, values.data()));
    return tables_.back().as<int64_t>();
  };
  for (const Offsets& array : arrays) {
    sige_move_args& args = args_.emplace_back();
    args.n = table(array.n);
    args.y = table(array.y);
    args.x = table(array.x);
    args.c = table(array.c);
    args.batch = static_cast<int32_t>(array.n.size());
    args.width = static_cast<int32_t>(array.x.size());
    args.channels = static_cast<int32_t>(array.c.size());
    args.bytes = static_cast<int32_t>(size_of(array.dtype));
  }
}

void RowMoves::take(const std::vector<Move>& moves) {
  point(moves);
  check(sige_take_rows(args_.data(), static_cast<int32_t>(args_.size()), &execution_));
}

void RowMoves::put(const std::vector<Move>& moves) {
  point(moves);
  check(sige_put_rows(args_.data(), static_cast<int32_t>(args_.size()), &execution_));
}

void RowMoves::point(const std::vector<Move>& moves) {
  for (size_t i = 0; i < args_.size(); ++i) {
    args_[i].dense = moves[i].dense;
    args_[i].rows = moves[i].rows;
    args_[i].active = moves[i].active;
    args_[i].fresh = static_cast<int32_t>(moves[i].count);
  }
}

}  // namespace sige
