// Level masks, active pixels, halos and tables, one after the other.
#include "../indices.h"

#include <string.h>

#include <algorithm>
#include <vector>

#include "../edit.h"

namespace sige::cpu {
namespace {

using namespace indices;

void set(uint32_t* bits, int32_t pixel) { bits[pixel >> 5] |= uint32_t{1} << (pixel & 31); }

// Adds a tile's share in the means of all levels that are resampled from its input.
void cover(const Plan& plan, int32_t input, const uint8_t* mask, int32_t tile) {
  const sige_index_input size = plan.input(input);
  const int32_t across = (size.width + TILE_COLUMNS - 1) / TILE_COLUMNS;
  const int32_t top = tile / across * TILE_ROWS, left = tile % across * TILE_COLUMNS;
  const int32_t bottom = std::min(top + TILE_ROWS, size.height), right = std::min(left + TILE_COLUMNS, size.width);
  for (const bool grown : {false, true}) {
    uint64_t rows[TILE_ROWS] = {};
    for (int32_t y = top; y < bottom; ++y) {
      for (int32_t x = left; x < right; ++x) {
        const bool edited = grown ? is_edited(plan, input, mask, y, x) : mask[y * size.width + x] != 0;
        rows[y - top] |= uint64_t{edited} << (x - left);
      }
    }
    for (int32_t l = 0; l < plan.levels; ++l) {
      const Sample& s = plan.sample(input, l);
      if (!s.covered || s.grown != grown) continue;
      const int32_t last_y = last_target(bottom, s.source_y, s.target_y);
      const int32_t last_x = last_target(right, s.source_x, s.target_x);
      for (int32_t y = first_target(top, s.source_y, s.target_y); y <= last_y; ++y) {
        for (int32_t x = first_target(left, s.source_x, s.target_x); x <= last_x; ++x) {
          uint32_t& covered = s.covered[y * s.width + x];
          covered += share_of(s, rows, top, left, y, x);
          *s.largest = std::max(*s.largest, covered);
        }
      }
    }
  }
}

// Sets the bits of all pixels for which test(y, x) holds.
template <typename Test>
void decide(const Level& level, uint32_t* bits, const Test& test) {
  memset(bits, 0, level.words * sizeof *bits);
  for (int32_t y = 0; y < level.height; ++y) {
    for (int32_t x = 0; x < level.width; ++x) {
      if (test(y, x)) set(bits, y * level.width + x);
    }
  }
}

// Ranks of the words, and the pixels in ascending order; returns how many there are.
int32_t list_pixels(const uint32_t* bits, int32_t words, int32_t* rank, int32_t* pixels) {
  int32_t count = 0;
  for (int32_t word = 0; word < words; ++word) {
    rank[word] = count;
    for (uint32_t left = bits[word]; left; left &= left - 1) pixels[count++] = word * 32 + __builtin_ctz(left);
  }
  return count;
}

}  // namespace

sige_status begin(const sige_indices& indices, const uint8_t* const* masks, const sige_execution&) {
  const Plan& plan = *static_cast<const Plan*>(indices.plan);
  memset(indices.state, 0, plan.cleared_bytes);
  memset(plan.reads, 0, plan.read_bytes);
  for (int32_t i = 0; i < plan.cover.count; ++i) {
    const Block& block = plan.block(plan.cover.first + i);
    cover(plan, block.job, masks[block.job], block.part);
  }
  for (int32_t l = 0; l < plan.levels; ++l) {
    const Level& level = plan.level(l);
    if (level.geometry >= 0) continue;
    uint32_t fewest[SIGE_MAX_INPUTS];
    for (int32_t i = 0; i < plan.inputs; ++i) {
      const Sample& s = plan.sample(i, l);
      fewest[i] = s.covered ? fewest_units(s, *s.largest, plan.threshold) : 0;
    }
    decide(level, level.raw, [&](int32_t y, int32_t x) {
      for (int32_t i = 0; i < plan.inputs; ++i) {
        if (is_sampled(plan, i, masks[i], l, plan.sample(i, l).covered, fewest[i], y, x)) return true;
      }
      return false;
    });
  }
  for (int32_t i = 0; i < plan.steps; ++i) {
    int32_t last = -1;
    for (int32_t b = 0; b < plan.step(i).count; ++b) {
      const int32_t job = plan.block(plan.step(i).first + b).job;
      if (job == last) continue;
      last = job;
      const Level& level = plan.level(job / 2);
      if (job % 2) {
        decide(level, level.bits, [&](int32_t y, int32_t x) { return granule_active(level, y, x); });
      } else {
        const Geometry& g = plan.geometry(level.geometry);
        const uint32_t* const source = plan.level(g.source).bits;
        decide(level, level.raw, [&](int32_t y, int32_t x) { return reads_active(g, source, y, x); });
      }
    }
  }
  for (int32_t l = 0; l < plan.levels; ++l) {
    const Level& level = plan.level(l);
    plan.counts[l] = 0;
    for (int32_t word = 0; word < level.words; ++word) plan.counts[l] += count_bits(level.bits[word]);
  }
  return SIGE_OK;
}

sige_status list(const sige_indices& indices, const sige_execution&) {
  const Plan& plan = *static_cast<const Plan*>(indices.plan);
  for (int32_t l = 0; l < plan.levels; ++l) {
    const Level& level = plan.level(l);
    list_pixels(level.bits, level.words, level.rank, level.listed);
  }
  for (int32_t i = 0; i < plan.geometries; ++i) {
    const Geometry& g = plan.geometry(i);
    if (!g.halo) continue;
    const Level &source = plan.level(g.source), &target = plan.level(g.target);
    for (int32_t p = 0; p < plan.counts[g.target]; ++p) {
      each_read(g, target.listed[p], [&](int32_t pixel) {
        if (!lit(source.bits, pixel)) set(g.read, pixel);
      });
    }
    const int32_t length = list_pixels(g.read, source.words, g.rank, g.halo);
    for (int32_t q = length; q < *g.length; ++q) g.halo[q] = 0;
    *g.length = length;
  }
  return SIGE_OK;
}

sige_status finish(const sige_indices& indices, const int32_t* rows, const sige_execution&) {
  const Plan& plan = *static_cast<const Plan*>(indices.plan);
  for (int32_t l = 0; l < plan.levels; ++l) {
    const Level& level = plan.level(l);
    for (int32_t p = 0; p < rows[l]; ++p) level.active[p] = level.listed[least(p, plan.counts[l] - 1)];
  }
  for (int32_t i = 0; i < plan.geometries; ++i) {
    const Geometry& g = plan.geometry(i);
    if (!g.table && !g.weights) continue;
    for (int32_t entry = 0; entry < rows[g.target] * g.taps; ++entry) {
      write_entry(g, plan.level(g.source), plan.level(g.target), rows[g.source], plan.counts[g.target], entry);
    }
  }
  return SIGE_OK;
}

}  // namespace sige::cpu

namespace sige {

namespace cpu {
sige_status compare(const sige_compare_args*, int32_t, int32_t*, const sige_execution&);
sige_status take_rows(const sige_move_args*, int32_t, const sige_execution&);
sige_status put_rows(const sige_move_args*, int32_t, const sige_execution&);
sige_status copy(const sige_copy_args*, int32_t, const sige_execution&);
}  // namespace cpu

const EditBackend cpu_edit_backend{cpu::compare, cpu::take_rows, cpu::put_rows, cpu::copy,
                                   cpu::begin,   cpu::list,      cpu::finish};

}  // namespace sige
