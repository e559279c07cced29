// The micro-kernel: a tile of rows x PANEL columns of a matrix product whose left rows are found through pointers.
//
// This is an indirect GEMM (Dukhan, "The Indirect Convolution Algorithm", arXiv 1907.02129): the left matrix of an
// implicit GEMM is never written down, its rows are read where they are. The right matrix comes in panels of
// PANEL columns, [depth][width] each, so that it streams.
#pragma once

#include "vector.h"

namespace sige::cpu::SIGE_ISA {

constexpr int PANEL = 32;       // columns of a panel
constexpr int TAIL_PANEL = 16;  // columns of the last panel, if they suffice

SIGE_INLINE int64_t panel_width(int64_t columns) { return columns <= TAIL_PANEL ? TAIL_PANEL : PANEL; }
SIGE_INLINE int64_t padded_width(int64_t columns) {
  return columns / PANEL * PANEL + (columns % PANEL ? panel_width(columns % PANEL) : 0);
}

// Row m of the left matrix is, tap by tap, pointers[m][entries[m][tap]][offset .. offset + depth).
struct TileRows {
  const int32_t* entries[MAX_ROWS];
  const float* const* pointers[MAX_ROWS];
};

template <int M, int V>
static void multiply_columns(const TileRows& rows, int64_t taps, int64_t offset, int64_t depth,
                             const float* panel, int64_t width, float* tile) {
  Vector sum[M][V];
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[m][v] = Vector{};

  for (int64_t tap = 0; tap < taps; ++tap) {
    const float* a[M];
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) a[m] = rows.pointers[m][rows.entries[m][tap]] + offset;
    for (int64_t c = 0; c < depth; ++c, panel += width) {
      Vector b[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) b[v] = *reinterpret_cast<const Vector*>(panel + v * VECTOR);
#pragma GCC unroll 16
      for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sum[m][v] += b[v] * a[m][c];
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) *reinterpret_cast<Vector*>(tile + m * PANEL + v * VECTOR) = sum[m][v];
}

template <int M>
static void multiply_rows(const TileRows& rows, int64_t taps, int64_t offset, int64_t depth, const float* panel,
                          int64_t width, float* tile) {
  constexpr int STEP = COLUMNS * VECTOR;
  if constexpr (STEP > TAIL_PANEL) {
    if (width == TAIL_PANEL)
      return multiply_columns<M, TAIL_PANEL / VECTOR>(rows, taps, offset, depth, panel, width, tile);
  }
  for (int64_t column = 0; column < width; column += STEP)
    multiply_columns<M, COLUMNS>(rows, taps, offset, depth, panel + column, width, tile + column);
}

// tile [count][PANEL] = rows [count][taps * depth] @ panel [taps * depth][width]; 1 <= count <= MAX_ROWS.
static inline void multiply(int count, const TileRows& rows, int64_t taps, int64_t offset, int64_t depth,
                            const float* panel, int64_t width, float* tile) {
  switch (count) {
    case 1: return multiply_rows<1>(rows, taps, offset, depth, panel, width, tile);
    case 2: return multiply_rows<2>(rows, taps, offset, depth, panel, width, tile);
    case 3: return multiply_rows<3>(rows, taps, offset, depth, panel, width, tile);
    case 4: return multiply_rows<4>(rows, taps, offset, depth, panel, width, tile);
    case 5: return multiply_rows<5>(rows, taps, offset, depth, panel, width, tile);
    case 6: return multiply_rows<6>(rows, taps, offset, depth, panel, width, tile);
#if defined(__AVX512F__)
    case 7: return multiply_rows<7>(rows, taps, offset, depth, panel, width, tile);
    case 8: return multiply_rows<8>(rows, taps, offset, depth, panel, width, tile);
    case 9: return multiply_rows<9>(rows, taps, offset, depth, panel, width, tile);
    case 10: return multiply_rows<10>(rows, taps, offset, depth, panel, width, tile);
#endif
    default: __builtin_unreachable();
  }
}

// Rows are cut into ceil(rows / MAX_ROWS) blocks of nearly equal size: [first, last) of one of them.
struct Block {
  int64_t first, last;
};

SIGE_INLINE Block block_of(int64_t rows, int64_t blocks, int64_t index) {
  return {rows * index / blocks, rows * (index + 1) / blocks};
}

}  // namespace sige::cpu::SIGE_ISA
