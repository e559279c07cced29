// What the targets of one call read: the virtual concatenation [fresh rows | halo] as one pointer per pixel, or, without
// a table, the rows themselves.
//
// Affine and activation run once per source pixel, not once per tap, and put two sources side by side; of one source
// without them nothing is copied at all.
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

// Whether source pixels are copied into the workspace: transformed, or two sources put side by side.
static inline bool copies(const sige_source& s) { return transforms(s) || s.channels_2; }

static inline size_t source_workspace(const sige_source& s) {
  if (!s.table) return copies(s) ? align(static_cast<size_t>(s.batch) * s.fresh * s.channels * sizeof(float)) : 0;
  const size_t pixels = static_cast<size_t>(s.batch) * source_stride(s);
  const size_t rows = copies(s) ? pixels * s.channels : 0;
  return align(pixels * sizeof(float*)) + align(s.channels * sizeof(float)) + align(rows * sizeof(float));
}

// Pixel `i` of the virtual concatenation of image `b`, in rows and base of `channels` channels.
static inline const float* pixel(const sige_source& s, const void* rows, const void* base, int64_t channels, int64_t b,
                                 int64_t i) {
  if (i < s.fresh) return static_cast<const float*>(rows) + (b * s.fresh + i) * channels;
  return static_cast<const float*>(base) + (b * s.pixels + s.halo[i - s.fresh]) * channels;
}

// The affine of the channels from `first` on: y = x * scale + shift.
static inline void affine(const sige_source& s, int64_t b, int64_t first, int64_t channels, const float* __restrict x,
                          float* __restrict y) {
  const float* scale = static_cast<const float*>(s.scale);
  const float* shift = static_cast<const float*>(s.shift);
  if (scale) scale += first + (s.scale_batch > 1 ? b * s.channels : 0);
  if (shift) shift += first + (s.shift_batch > 1 ? b * s.channels : 0);
  if (scale && shift) {
    for (int64_t c = 0; c < channels; ++c) y[c] = x[c] * scale[c] + shift[c];
  } else if (scale) {
    for (int64_t c = 0; c < channels; ++c) y[c] = x[c] * scale[c];
  } else if (shift) {
    for (int64_t c = 0; c < channels; ++c) y[c] = x[c] + shift[c];
  } else {
    memcpy(y, x, channels * sizeof(float));
  }
}

// All channels of a pixel of the virtual concatenation, after affine and activation.
static inline void transform(const sige_source& s, int64_t b, int64_t i, float* y) {
  const int64_t first = s.channels - s.channels_2;
  affine(s, b, 0, first, pixel(s, s.rows, s.base, first, b, i), y);
  if (s.channels_2) affine(s, b, first, s.channels_2, pixel(s, s.rows_2, s.base_2, s.channels_2, b, i), y + first);
  activate(s.activation, s.alpha, y, s.channels);
}

// Rows after affine and activation, [batch, fresh, channels].
static inline void transform_rows(const sige_source& s, float* to, const sige_execution& execution) {
  const int64_t rows = int64_t{s.batch} * s.fresh;
  parallel(execution, ceil_div(rows, TRANSFORM_ROWS), [&](int64_t task) {
    const int64_t first = task * TRANSFORM_ROWS, last = min(first + TRANSFORM_ROWS, rows);
    for (int64_t i = first; i < last; ++i) transform(s, i / s.fresh, i % s.fresh, to + i * s.channels);
  });
}

// Fills the first source_workspace() bytes of the workspace. The padding row is zeros.
static inline Source prepare(const sige_source& s, const sige_execution& execution) {
  if (!s.table) {
    if (!copies(s)) return {static_cast<const float*>(s.rows), nullptr, 0};
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

  const bool copy = copies(s);
  const int64_t tasks = ceil_div(pixels, TRANSFORM_ROWS);
  for (int64_t b = 0; b < s.batch; ++b) source.pointers[b * stride] = padding;
  parallel(execution, s.batch * tasks, [&](int64_t task) {
    const int64_t b = task / tasks, first = task % tasks * TRANSFORM_ROWS;
    for (int64_t i = first; i < min(first + TRANSFORM_ROWS, pixels); ++i) {
      float* copied = transformed + (b * stride + i) * s.channels;
      if (copy) transform(s, b, i, copied);
      source.pointers[b * stride + 1 + i] = copy ? copied : pixel(s, s.rows, s.base, s.channels, b, i);
    }
  });
  return source;
}

}  // namespace sige::cpu::SIGE_ISA
