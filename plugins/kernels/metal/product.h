// The product of two tiles of halves in threadgroup memory, summed up in float32, by simdgroup matrices or without.
#pragma once

#include <metal_simdgroup_matrix>
#include <metal_stdlib>
using namespace metal;

// An edit has some hundreds of rows, so tiles are small: 240 rows and 320 outputs make 80 of them, enough for the 8 to 40
// cores of a GPU. The depth of a stage is what 128 threads load as two vectors of four halves each, per tile.
constant constexpr int TILE_ROWS = 32;
constant constexpr int TILE_COLUMNS = 32;
constant constexpr int TILE_DEPTH = 32;
constant constexpr int CONV_THREADS = 128;               // four simdgroups, each a quarter of the tile
constant constexpr int LINE_VECTORS = TILE_DEPTH / 4;    // vectors of four halves in a line of a tile
constant constexpr int LINES = CONV_THREADS / LINE_VECTORS;
// Lines are 8 halves (4 floats) longer than their values: eight lines then start in different banks, and stay aligned.
constant constexpr int LEFT_STRIDE = TILE_DEPTH + 8;
constant constexpr int RIGHT_STRIDE = TILE_COLUMNS + 8;
constant constexpr int SUM_STRIDE = TILE_COLUMNS + 4;    // floats; the sums take the place of both tiles
static_assert(TILE_ROWS == TILE_DEPTH && TILE_COLUMNS == TILE_DEPTH, "threads load both tiles alike");
static_assert(TILE_ROWS * SUM_STRIDE * 2 <= TILE_ROWS * LEFT_STRIDE + TILE_DEPTH * RIGHT_STRIDE, "the sums fit");

struct MatrixProduct {
  simdgroup_float8x8 sums[2][2];

  void clear() {
    for (int m = 0; m < 2; ++m) {
      for (int n = 0; n < 2; ++n) sums[m][n] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
    }
  }

  void add(threadgroup const half* left, threadgroup const half* right, int simd_group, int lane) {
    left += simd_group / 2 * 16 * LEFT_STRIDE;
    right += simd_group % 2 * 16;
    for (int d = 0; d < TILE_DEPTH; d += 8) {
      simdgroup_half8x8 a[2], b[2];
      for (int i = 0; i < 2; ++i) {
        simdgroup_load(a[i], left + i * 8 * LEFT_STRIDE + d, LEFT_STRIDE);
        simdgroup_load(b[i], right + d * RIGHT_STRIDE + i * 8, RIGHT_STRIDE);
      }
      for (int m = 0; m < 2; ++m) {
        for (int n = 0; n < 2; ++n) simdgroup_multiply_accumulate(sums[m][n], a[m], b[n], sums[m][n]);
      }
    }
  }

  void store(threadgroup float* to, int simd_group, int lane) {
    to += simd_group / 2 * 16 * SUM_STRIDE + simd_group % 2 * 16;
    for (int m = 0; m < 2; ++m) {
      for (int n = 0; n < 2; ++n) simdgroup_store(sums[m][n], to + m * 8 * SUM_STRIDE + n * 8, SUM_STRIDE);
    }
  }
};

// A thread owns four columns of two rows.
struct PlainProduct {
  float4 sums[2];

  void clear() { sums[0] = sums[1] = float4(0); }

  void add(threadgroup const half* left, threadgroup const half* right, int simd_group, int lane) {
    const int row = (simd_group * 32 + lane) / 8 * 2, column = lane % 8 * 4;
    for (int d = 0; d < TILE_DEPTH; ++d) {
      const float4 w = float4(*(threadgroup const half4*)(right + d * RIGHT_STRIDE + column));
      for (int m = 0; m < 2; ++m) sums[m] = sums[m] + float(left[(row + m) * LEFT_STRIDE + d]) * w;
    }
  }

  void store(threadgroup float* to, int simd_group, int lane) {
    const int row = (simd_group * 32 + lane) / 8 * 2, column = lane % 8 * 4;
    for (int m = 0; m < 2; ++m) *(threadgroup float4*)(to + (row + m) * SUM_STRIDE + column) = sums[m];
  }
};
