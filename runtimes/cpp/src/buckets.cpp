#include "buckets.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "arrays.h"

namespace sige {

// A bucket is a size step and a spread: the size is the side of a square edit on the largest spatial input, in steps of
// about a tenth; the spread is by how much a ragged edit of that size may need more rows than the square does.
constexpr double SPREADS[] = {1.0, 1.5, 2.5};
constexpr double GROWTH = 1.1;
constexpr int64_t MULTIPLE = 8;

static std::vector<int64_t> sides(int64_t longest) {
  std::vector<int64_t> result{1};
  while (result.back() < longest) {
    const auto grown = static_cast<int64_t>(static_cast<double>(result.back()) * GROWTH);
    result.push_back(std::min(std::max(result.back() + 1, grown), longest));
  }
  return result;
}

// Rows of a square edit at a level, with the dilations, times the spread. Where exactly the square lies may make more
// of it: then the edit takes the next size.
static int32_t rows_of(const LevelSpec& level, int64_t side, double spread, int64_t height, int64_t width,
                       int64_t dilate) {
  const bool own = level.height == height && level.width == width;
  const int64_t reach = own ? dilate : level.dilation;
  if (!own) side += 2 * dilate;
  const auto scaled = [&](int64_t size, int64_t largest) {
    const double scale = static_cast<double>(size) / static_cast<double>(largest);
    return std::max<int64_t>(std::llrint(static_cast<double>(side) * scale), 1);
  };
  const int64_t rows = scaled(level.height, height), columns = scaled(level.width, width);
  const int64_t grain = level.granularity;
  const auto grains = [&](int64_t extent) { return (extent + 2 * reach + 2 * (grain - 1)) / grain * grain; };
  const int64_t pixels = grain == 1 ? rows * columns + 2 * reach * (rows + columns)  // a dilation is by a cross
                                    : grains(rows) * grains(columns);
  const auto padded =
      static_cast<int64_t>(std::ceil(static_cast<double>(pixels) * spread / static_cast<double>(MULTIPLE))) * MULTIPLE;
  return static_cast<int32_t>(std::min(padded, level.height * level.width));
}

Buckets::Buckets(const Manifest& manifest) {
  int64_t height = 0, width = 0;
  for (const InputSpec* input : manifest.spatial())
    if (input->size('Y') * input->size('X') > height * width) {
      height = input->size('Y');
      width = input->size('X');
    }
  std::set<std::vector<int32_t>> distinct;
  for (const double spread : SPREADS)
    for (const int64_t side : sides(std::max(height, width))) {
      std::vector<int32_t> rows;
      for (const LevelSpec& level : manifest.levels)
        rows.push_back(rows_of(level, side, spread, height, width, manifest.dilate));
      distinct.insert(std::move(rows));
    }
  std::vector<int32_t> everything;
  for (const LevelSpec& level : manifest.levels) everything.push_back(static_cast<int32_t>(level.height * level.width));
  distinct.insert(everything);
  rows_.assign(distinct.begin(), distinct.end());
  std::stable_sort(rows_.begin(), rows_.end(), [&](const auto& a, const auto& b) {
    return manifest.active_fraction(a) < manifest.active_fraction(b);
  });
}

std::vector<int32_t> Buckets::fit(const std::vector<int32_t>& counts) const {
  const auto holds = [&](const std::vector<int32_t>& rows) {
    return std::equal(counts.begin(), counts.end(), rows.begin(), [](int32_t n, int32_t most) { return n <= most; });
  };
  std::vector<int32_t> padded = *std::find_if(rows_.begin(), rows_.end(), holds);
  for (size_t i = 0; i < padded.size(); ++i)
    if (!counts[i]) padded[i] = 0;
  return padded;
}

}  // namespace sige
