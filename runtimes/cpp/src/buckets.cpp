#include "buckets.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "arrays.h"

namespace sige {

// A bucket is a number of equal squares apart from each other, its pieces, and their side on the largest spatial input.
constexpr double PIECES[] = {1, 1.25, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256};
constexpr double GROWTH = 1.1;   // of the side from step to step
constexpr double NEARLY = 1.05;  // times the work of a bucket: another one that holds it for no more takes its place
constexpr int64_t MULTIPLE = 8;

static std::vector<int64_t> sides(int64_t longest) {
  std::vector<int64_t> result{1};
  while (result.back() < longest) {
    const auto grown = static_cast<int64_t>(static_cast<double>(result.back()) * GROWTH);
    result.push_back(std::min(std::max(result.back() + 1, grown), longest));
  }
  return result;
}

// Rows of an edit of so many squares at a level, with the dilations. Where exactly the squares lie may make more of
// it: then the edit takes the next size, or more pieces.
static int32_t rows_of(const LevelSpec& level, int64_t side, double pieces, int64_t height, int64_t width,
                       int64_t dilate) {
  const double down = static_cast<double>(level.height) / static_cast<double>(height);
  const double across = static_cast<double>(level.width) / static_cast<double>(width);
  const bool own = level.height == height && level.width == width;
  const int64_t reach = own ? dilate : level.dilation;
  // Most pieces smaller than a pixel of a coarse level are below its threshold; the others fill granules.
  const double covered = static_cast<double>(side * side * level.granularity) * down * across;
  pieces = std::max(pieces * std::min(covered, 1.0), 1.0);
  if (!own) side += 2 * dilate;
  const auto scaled = [&](double scale) {
    return std::max<int64_t>(std::llrint(static_cast<double>(side) * scale), 1);
  };
  const int64_t rows = scaled(down), columns = scaled(across);
  const int64_t pixels = rows * columns + 2 * reach * (rows + columns);  // a dilation is by a cross
  const auto granule = static_cast<double>(level.granularity * level.granularity);
  const double needed = std::max(static_cast<double>(pixels) * pieces, granule);
  const auto padded = static_cast<int64_t>(std::ceil(needed / static_cast<double>(MULTIPLE))) * MULTIPLE;
  return static_cast<int32_t>(std::min(padded, level.height * level.width));
}

static bool holds(const std::vector<int32_t>& rows, const std::vector<int32_t>& counts) {
  return std::equal(counts.begin(), counts.end(), rows.begin(), [](int32_t n, int32_t most) { return n <= most; });
}

Buckets::Buckets(const Manifest& manifest) {
  int64_t height = 0, width = 0;
  for (const InputSpec* input : manifest.spatial())
    if (input->size('Y') * input->size('X') > height * width) {
      height = input->size('Y');
      width = input->size('X');
    }
  std::set<std::vector<int32_t>> distinct;
  for (const double pieces : PIECES)
    for (const int64_t side : sides(std::max(height, width))) {
      std::vector<int32_t> rows;
      for (const LevelSpec& level : manifest.levels)
        rows.push_back(rows_of(level, side, pieces, height, width, manifest.dilate));
      distinct.insert(std::move(rows));
    }
  std::vector<int32_t> everything;
  for (const LevelSpec& level : manifest.levels) everything.push_back(static_cast<int32_t>(level.height * level.width));
  distinct.insert(everything);
  std::vector<std::pair<double, std::vector<int32_t>>> sorted;  // share of the network's work, rows
  for (const auto& rows : distinct) sorted.emplace_back(manifest.active_fraction(rows), rows);
  std::stable_sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<std::pair<double, std::vector<int32_t>>> staying;  // from the largest, so that what replaces one stays
  std::for_each(sorted.rbegin(), sorted.rend(), [&](const auto& bucket) {
    for (auto other = staying.rbegin(); other != staying.rend() && other->first <= bucket.first * NEARLY; ++other)
      if (holds(other->second, bucket.second)) return;
    staying.push_back(bucket);
  });
  for (auto bucket = staying.rbegin(); bucket != staying.rend(); ++bucket) rows_.push_back(std::move(bucket->second));
}

std::vector<int32_t> Buckets::fit(const std::vector<int32_t>& counts) const {
  std::vector<int32_t> padded =
      *std::find_if(rows_.begin(), rows_.end(), [&](const auto& rows) { return holds(rows, counts); });
  for (size_t i = 0; i < padded.size(); ++i)
    if (!counts[i]) padded[i] = 0;
  return padded;
}

}  // namespace sige
