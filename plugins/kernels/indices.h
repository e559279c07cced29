// The plan of sige_indices_plan, and what one pixel or table entry is: the backends differ only in who works on which.
// Definitions: docs/masks.md.
#pragma once

#include <stdint.h>

#include "sige/indices.h"

#ifdef __CUDACC__
#define SIGE_HD __host__ __device__ __forceinline__
#else
#define SIGE_HD inline
#endif

namespace sige::indices {

constexpr int TILE_ROWS = 8, TILE_COLUMNS = 64;  // of an input, whose share in all levels' means one block adds up
constexpr int PIXELS = 256;                       // of a level that one block decides
constexpr int WORDS = 256;                        // of 32 pixels that one block ranks
constexpr double MARGIN = 0.001;                  // as masks.py

// One input's part in one level's mask. Along an axis with n source and m target pixels, and g their greatest common
// divisor, a source pixel is m / g units long and a target pixel n / g.
struct Sample {
  uint32_t* covered;  // [pixels] active units of area; NULL: target pixels are one unit, each part of one source pixel
  uint32_t* largest;  // of covered
  uint32_t source_y, source_x, target_y, target_x;  // units
  int32_t width;                                    // of the level
  bool grown;                                       // samples the dilated mask
};

struct Level {
  int32_t height, width, pixels, words;
  int32_t geometry, dilation, granularity;
  uint32_t* raw;   // one bit per pixel, before granularity; `bits` itself where that is 1
  uint32_t* bits;  // the mask
  int32_t* rank;   // [words]: active pixels before the word
  int32_t* listed; // [pixels]: the active ones; `active` stays that of the last edit that was finished
  int32_t* active;
};

struct Geometry {
  int32_t source, target, taps, phases;
  sige_axis y, x;
  uint32_t* read;   // one bit per source pixel: in the halo; NULL where no halo is wanted
  int32_t* rank;    // [words]: pixels of the halo before the word
  int32_t* length;  // of the halo
  int32_t* halo;
  int32_t* table;
  float* weights;
};

// One block's work: a part of a job (an input, level or geometry).
struct Block {
  int32_t job, part;
};

struct Span {
  int32_t first, count;  // in the plan's blocks
};

// First in memory, before its arrays; they are found by offsets from `base`, so that a copy elsewhere works as well.
struct Plan {
  const char* base;
  int32_t inputs, levels, geometries, dilate;
  double threshold;
  int32_t* counts;
  size_t input_offset, level_offset, geometry_offset, sample_offset, step_offset, block_offset;
  // Sums of the samples lie at the state's start, and once more `cleared_bytes` behind it: a GPU takes the two in turn, and
  // clears one while it reads the other. turns: which one the next tiles are added to, and which one was added to last.
  size_t cleared_bytes;
  uint32_t* turns;
  uint32_t* reads;    // those of all geometries, which begin clears
  size_t read_bytes;
  Span cover;            // job: input, part: tile
  Span decide;           // job: level without geometry
  int32_t steps;         // each a Span of jobs 2 * level (it follows a geometry) or 2 * level + 1 (granularity)
  Span rank;             // job: level, or levels + geometry, whose reads are marked
  Span halo;             // job: geometry

  // This plan with its arrays in a copy.
  Plan in(const void* copy) const {
    Plan plan = *this;
    plan.base = static_cast<const char*>(copy);
    return plan;
  }
  template <typename T>
  SIGE_HD const T* at(size_t offset) const { return reinterpret_cast<const T*>(base + offset); }
  SIGE_HD const sige_index_input& input(int32_t i) const { return at<sige_index_input>(input_offset)[i]; }
  SIGE_HD const Level& level(int32_t i) const { return at<Level>(level_offset)[i]; }
  SIGE_HD const Geometry& geometry(int32_t i) const { return at<Geometry>(geometry_offset)[i]; }
  SIGE_HD const Sample& sample(int32_t input, int32_t level) const {
    return at<Sample>(sample_offset)[input * levels + level];
  }
  SIGE_HD Span step(int32_t i) const { return at<Span>(step_offset)[i]; }
  SIGE_HD const Block& block(int32_t i) const { return at<Block>(block_offset)[i]; }
};

SIGE_HD int32_t count_bits(uint32_t x) {
#ifdef __CUDA_ARCH__
  return __popc(x);
#else
  return __builtin_popcount(x);
#endif
}
SIGE_HD int32_t count_bits(uint64_t x) {
#ifdef __CUDA_ARCH__
  return __popcll(x);
#else
  return __builtin_popcountll(x);
#endif
}

template <typename T>
SIGE_HD T least(T a, T b) { return a < b ? a : b; }
template <typename T>
SIGE_HD T most(T a, T b) { return a > b ? a : b; }

SIGE_HD bool lit(const uint32_t* bits, int32_t pixel) { return bits[pixel >> 5] >> (pixel & 31) & 1; }

// Whether a search ends with the first find. On a GPU it has all loads under way at once instead.
#ifdef __CUDA_ARCH__
#define SIGE_UNROLL _Pragma("unroll 4")
constexpr bool STOPS = false;
#else
#define SIGE_UNROLL
constexpr bool STOPS = true;
#endif

// Whether test(y, x) holds within `radius` along the row or the column.
template <typename Test>
SIGE_HD bool any_in_cross(const Test& test, int32_t height, int32_t width, int32_t y, int32_t x, int32_t radius) {
  const int32_t right = least(x + radius, width - 1), bottom = least(y + radius, height - 1);
  bool found = false;
  SIGE_UNROLL
  for (int32_t at = most(x - radius, 0); at <= right && !(STOPS && found); ++at) found |= test(y, at);
  SIGE_UNROLL
  for (int32_t at = most(y - radius, 0); at <= bottom && !(STOPS && found); ++at) found |= test(at, x);
  return found;
}

SIGE_HD bool is_edited(const Plan& plan, int32_t input, const uint8_t* mask, int32_t y, int32_t x) {
  const sige_index_input size = plan.input(input);
  const auto test = [&](int32_t v, int32_t u) { return mask[v * size.width + u] != 0; };
  return any_in_cross(test, size.height, size.width, y, x, plan.dilate);
}

// First and last target pixel along an axis that source pixels [from, to) have a share in.
SIGE_HD int32_t first_target(uint32_t from, uint32_t source, uint32_t target) { return from * source / target; }
SIGE_HD int32_t last_target(uint32_t to, uint32_t source, uint32_t target) { return (to * source - 1) / target; }

// Area that target pixel (y, x) shares with the active pixels of a tile, in units; rows: the tile's pixels as bits.
SIGE_HD uint32_t share_of(const Sample& s, const uint64_t* rows, int32_t tile_y, int32_t tile_x, int32_t y, int32_t x) {
  const uint32_t left = x * s.target_x, right = left + s.target_x;
  const uint32_t top = y * s.target_y, bottom = top + s.target_y;
  const int32_t first = left / s.source_x - tile_x, last = (right - 1) / s.source_x - tile_x;
  const int32_t from = most(first, 0), to = least(last, TILE_COLUMNS - 1);
  const uint64_t range = (~uint64_t{0} >> (63 - to)) & (~uint64_t{0} << from);
  // What the pixels at either end have outside of the target pixel; nothing if that end is in another tile.
  const uint32_t over_left = first >= 0 ? left - (first + tile_x) * s.source_x : 0;
  const uint32_t over_right = last < TILE_COLUMNS ? (last + tile_x + 1) * s.source_x - right : 0;
  uint32_t sum = 0;
  const int32_t end = least(static_cast<int32_t>((bottom - 1) / s.source_y), tile_y + TILE_ROWS - 1);
  for (int32_t row = most(static_cast<int32_t>(top / s.source_y), tile_y); row <= end; ++row) {
    const uint64_t bits = rows[row - tile_y] & range;
    if (!bits) continue;
    uint32_t across = count_bits(bits) * s.source_x;
    if (bits >> from & 1) across -= over_left;
    if (bits >> to & 1) across -= over_right;
    const uint32_t begin = row * s.source_y;
    sum += across * (least(begin + s.source_y, bottom) - most(begin, top));
  }
  return sum;
}

// The fewest units that make a target pixel active: covered / area > max(0, min(threshold, largest / area - MARGIN)).
SIGE_HD uint32_t fewest_units(const Sample& s, uint32_t largest, double threshold) {
  const double area = static_cast<double>(s.target_y * s.target_x);
  const double bound = most(0.0, least(threshold, largest / area - MARGIN));
  uint32_t units = most(static_cast<int64_t>(bound * area) - 1, int64_t{0});
  while (!(units / area > bound)) ++units;
  return units;
}

// Whether a level's pixel is active through one input. covered, fewest: of that sample.
SIGE_HD bool is_sampled(const Plan& plan, int32_t input, const uint8_t* mask, int32_t level, const uint32_t* covered,
                        uint32_t fewest, int32_t y, int32_t x) {
  const Level& l = plan.level(level);
  const Sample& s = plan.sample(input, level);
  if (covered) {
    const auto test = [&](int32_t v, int32_t u) { return covered[v * l.width + u] >= fewest; };
    return any_in_cross(test, l.height, l.width, y, x, l.dilation);
  }
  const int32_t scale_y = s.source_y, scale_x = s.source_x;
  if (scale_y == 1 && scale_x == 1) return is_edited(plan, input, mask, y, x);
  const auto test = [&](int32_t v, int32_t u) { return is_edited(plan, input, mask, v / scale_y, u / scale_x); };
  return any_in_cross(test, l.height, l.width, y, x, l.dilation);
}

// Whether a target pixel reads an active source pixel.
SIGE_HD bool reads_active(const Geometry& g, const uint32_t* source, int32_t y, int32_t x) {
  for (int32_t i = 0; i < g.y.taps; ++i) {
    const int32_t row = g.y.index[y * g.y.taps + i];
    if (row < 0) continue;
    for (int32_t j = 0; j < g.x.taps; ++j) {
      const int32_t column = g.x.index[x * g.x.taps + j];
      if (column >= 0 && lit(source, row * g.x.source + column)) return true;
    }
  }
  return false;
}

// Whether any pixel of (y, x)'s block of granularity is active.
SIGE_HD bool granule_active(const Level& l, int32_t y, int32_t x) {
  const int32_t g = l.granularity, top = y / g * g, left = x / g * g;
  for (int32_t v = top; v < least(top + g, l.height); ++v) {
    for (int32_t u = left; u < least(left + g, l.width); ++u) {
      if (lit(l.raw, v * l.width + u)) return true;
    }
  }
  return false;
}

// Calls mark(source pixel) for every pixel that a target pixel reads.
template <typename Mark>
SIGE_HD void each_read(const Geometry& g, int32_t pixel, const Mark& mark) {
  const int32_t y = pixel / g.x.outputs, x = pixel - y * g.x.outputs;
  for (int32_t i = 0; i < g.y.taps; ++i) {
    const int32_t row = g.y.index[y * g.y.taps + i];
    if (row < 0) continue;
    for (int32_t j = 0; j < g.x.taps; ++j) {
      const int32_t column = g.x.index[x * g.x.taps + j];
      if (column >= 0) mark(row * g.x.source + column);
    }
  }
}

// Table entry and weight of one tap of a target pixel; either is written where it is wanted. count: of the target's active
// pixels, the last of which stands for all rows behind.
SIGE_HD void write_entry(const Geometry& g, const Level& source, const Level& target, int32_t source_rows,
                         int32_t count, int32_t entry) {
  const int32_t row = entry / g.taps, tap = entry - row * g.taps;
  const int32_t i = tap / g.x.taps, j = tap - i * g.x.taps;
  const int32_t pixel = target.listed[least(row, count - 1)];
  const int32_t y = pixel / target.width, x = pixel - y * target.width;
  const int32_t at_y = y * g.y.taps + i, at_x = x * g.x.taps + j;
  if (g.weights) {
    g.weights[entry] = (g.y.weight ? g.y.weight[at_y] : 1.0f) * (g.x.weight ? g.x.weight[at_x] : 1.0f);
  }
  if (!g.table) return;
  const int32_t v = g.y.index[at_y], u = g.x.index[at_x];
  int32_t code = -1;
  if (v >= 0 && u >= 0) {
    const int32_t read = v * source.width + u, word = read >> 5;
    const uint32_t bit = uint32_t{1} << (read & 31), active = source.bits[word];
    code = active & bit ? source.rank[word] + count_bits(active & (bit - 1))
                        : source_rows + g.rank[word] + count_bits(g.read[word] & (bit - 1));
    if (g.phases > 1) {
      code *= g.phases;
      if (g.y.phase) code += g.y.phase[y] * g.x.phases;
      if (g.x.phase) code += g.x.phase[x];
    }
  }
  g.table[entry] = code;
}

}  // namespace sige::indices
