// What the targets of one call read: the virtual concatenation [fresh rows | halo] as one pointer per pixel, or, without
// a table, the rows themselves.
//
// Affine and activation run once per source pixel, not once per tap; without them nothing is copied at all.
#pragma once

#include "vector.h"

namespace sige::cpu::SIGE_ISA {

constexpr int64_t TRANSFORM_ROWS = 32;  // source pixels per task

// The taps of one target.
struct Taps {
  const float* own;             // the only tap, without a table
  const float* const* pointers;
  const int32_t* entries;

  const float* operator[](int64_t k) const { return own ? own : pointers[entries[k]]; }
};

struct Source {
  const float* own;        // [batch][targets][channels] without a table, or else null
  const float** pointers;  // [batch][1 + fresh + halo]: the padding row, then the concatenation
  int64_t stride;          // pointers per image

  // Pointers that table entries of image `b` index; entry -1 is the padding row.
  const float* const* image(int64_t b) const { return pointers + b * stride + 1; }

  Taps taps(const sige_source& s, int64_t b, int64_t r) const {
    if (own) return {own + (b * s.targets + r) * s.channels, nullptr, nullptr};
    return {nullptr, image(b), s.table + r * s.taps};
  }
};

static inline int64_t source_stride(const sige_source& s) { return 1 + int64_t{s.fresh} + s.halo_count; }

static inline size_t source_workspace(const sige_source& s) {
  if (!s.table) return transforms(s) ? align(static_cast<size_t>(s.batch) * s.fresh * s.channels * sizeof(float)) : 0;
  const size_t pixels = static_cast<size_t>(s.batch) * source_stride(s);
  const size_t rows = transforms(s) ? pixels * s.channels : 0;
  return align(pixels * sizeof(float*)) + align(s.channels * sizeof(float)) + align(rows * sizeof(float));
}

static inline void transform(const sige_source& s, int64_t b, const float* __restrict x, float* __restrict y) {
  const float* scale = static_cast<const float*>(s.scale);
  const float* shift = static_cast<const float*>(s.shift);
  if (scale && s.scale_batch > 1) scale += b * s.channels;
  if (shift && s.shift_batch > 1) shift += b * s.channels;
  if (scale && shift) {
    for (int64_t c = 0; c < s.channels; ++c) y[c] = x[c] * scale[c] + shift[c];
  } else if (scale) {
    for (int64_t c = 0; c < s.channels; ++c) y[c] = x[c] * scale[c];
  } else if (shift) {
    for (int64_t c = 0; c < s.channels; ++c) y[c] = x[c] + shift[c];
  } else {
    memcpy(y, x, s.channels * sizeof(float));
  }
  activate(s.activation, s.alpha, y, s.channels);
}

// Rows after affine and activation, into `to` of the same shape.
static inline void transform_rows(const sige_source& s, float* to, const sige_execution& execution) {
  const int64_t rows = int64_t{s.batch} * s.fresh;
  parallel(execution, ceil_div(rows, TRANSFORM_ROWS), [&](int64_t task) {
    const int64_t first = task * TRANSFORM_ROWS, last = min(first + TRANSFORM_ROWS, rows);
    for (int64_t i = first; i < last; ++i)
      transform(s, i / s.fresh, static_cast<const float*>(s.rows) + i * s.channels, to + i * s.channels);
  });
}

// Fills the first source_workspace() bytes of the workspace. The padding row is zeros.
static inline Source prepare(const sige_source& s, const sige_execution& execution) {
  if (!s.table) {
    if (!transforms(s)) return {static_cast<const float*>(s.rows), nullptr, 0};
    float* rows = static_cast<float*>(execution.workspace);
    transform_rows(s, rows, execution);
    return {rows, nullptr, 0};
  }
  const int64_t stride = source_stride(s), pixels = stride - 1;
  char* workspace = static_cast<char*>(execution.workspace);
  Source source{nullptr, reinterpret_cast<const float**>(workspace), stride};
  float* padding = reinterpret_cast<float*>(workspace + align(s.batch * stride * sizeof(float*)));
  float* transformed = padding + align(s.channels * sizeof(float)) / sizeof(float);
  memset(padding, 0, s.channels * sizeof(float));

  const bool copy = transforms(s);
  const int64_t tasks = ceil_div(pixels, TRANSFORM_ROWS);
  for (int64_t b = 0; b < s.batch; ++b) source.pointers[b * stride] = padding;
  parallel(execution, s.batch * tasks, [&](int64_t task) {
    const int64_t b = task / tasks, first = task % tasks * TRANSFORM_ROWS;
    const float* rows = static_cast<const float*>(s.rows) + b * s.fresh * s.channels;
    const float* base = static_cast<const float*>(s.base) + b * s.pixels * s.channels;
    for (int64_t i = first; i < min(first + TRANSFORM_ROWS, pixels); ++i) {
      const float* x = i < s.fresh ? rows + i * s.channels : base + int64_t{s.halo[i - s.fresh]} * s.channels;
      if (copy) {
        float* y = transformed + (b * stride + i) * s.channels;
        transform(s, b, x, y);
        x = y;
      }
      source.pointers[b * stride + 1 + i] = x;
    }
  });
  return source;
}

}  // namespace sige::cpu::SIGE_ISA
