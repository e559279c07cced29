// The micro-kernel: a tile of rows x PANEL columns of a matrix product, accumulated over chunks of its depth.
//
// The left rows are gathered, MAX_ROWS x DEPTH at a time, into a buffer that stays in the first-level cache and has one
// pointer; the right matrix comes in panels of PANEL columns, [depth][width] each, so that it streams.
#pragma once

#include "vector.h"

namespace sige::cpu::SIGE_ISA {

constexpr int PANEL = 32;        // columns of a panel
constexpr int TAIL_PANEL = 16;   // columns of the last panel, if they suffice
constexpr int DEPTH = 256;       // of one chunk
constexpr int STRIDE = DEPTH + 16;  // of the left buffer: rows must not all fall into one set of the cache
constexpr int PREFETCH = 16;     // rows of a panel that are fetched ahead

struct Left {
  alignas(64) float at[MAX_ROWS * STRIDE];
};

struct Tile {
  alignas(64) float at[MAX_ROWS * PANEL];
};

SIGE_INLINE int64_t panel_width(int64_t columns) { return columns <= TAIL_PANEL ? TAIL_PANEL : PANEL; }
SIGE_INLINE int64_t padded_width(int64_t columns) {
  return columns / PANEL * PANEL + (columns % PANEL ? panel_width(columns % PANEL) : 0);
}

template <int M, int V>
static void multiply_columns(const float* left, int64_t depth, const float* panel, int64_t width, float* tile,
                             bool accumulate) {
  Vector sum[M][V];
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v)
      sum[m][v] = accumulate ? *reinterpret_cast<const Vector*>(tile + m * PANEL + v * VECTOR) : Vector{};

  for (int64_t d = 0; d < depth; ++d, panel += width) {
    Vector right[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) right[v] = *reinterpret_cast<const Vector*>(panel + v * VECTOR);
    __builtin_prefetch(panel + PREFETCH * PANEL);
    if constexpr (V * VECTOR > 16) __builtin_prefetch(panel + PREFETCH * PANEL + 16);
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[m][v] += right[v] * left[m * STRIDE + d];
  }
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) *reinterpret_cast<Vector*>(tile + m * PANEL + v * VECTOR) = sum[m][v];
}

template <int M>
static void multiply_rows(const Left& left, int64_t depth, const float* panel, int64_t width, Tile& tile,
                          bool accumulate) {
  constexpr int STEP = COLUMNS * VECTOR;
  if constexpr (STEP > TAIL_PANEL) {
    if (width == TAIL_PANEL)
      return multiply_columns<M, TAIL_PANEL / VECTOR>(left.at, depth, panel, width, tile.at, accumulate);
  }
  for (int64_t column = 0; column < width; column += STEP)
    multiply_columns<M, COLUMNS>(left.at, depth, panel + column, width, tile.at + column, accumulate);
}

// tile [count][PANEL] (+)= left [count][depth] @ panel [depth][width]; 1 <= count <= MAX_ROWS, depth <= DEPTH.
template <int M = MAX_ROWS>
static inline void multiply(int count, const Left& left, int64_t depth, const float* panel, int64_t width,
                            Tile& tile, bool accumulate) {
  if (count == M) return multiply_rows<M>(left, depth, panel, width, tile, accumulate);
  if constexpr (M > 1) multiply<M - 1>(count, left, depth, panel, width, tile, accumulate);
}

// Rows are cut into ceil(rows / MAX_ROWS) blocks of nearly equal size: [first, last) of one of them.
struct Block {
  int64_t first, last;
};

SIGE_INLINE Block block_of(int64_t rows, int64_t blocks, int64_t index) {
  return {rows * index / blocks, rows * (index + 1) / blocks};
}

}  // namespace sige::cpu::SIGE_ISA
