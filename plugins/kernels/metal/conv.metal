// Conv: an implicit GEMM that gathers its left tile through the table, affine and activation on the way, and applies bias,
// embedding, multiplier, residual and activation to the sums. Row norms are summed up while tiles are loaded; with a gate,
// a threadgroup multiplies its targets by the columns of the first half, then by those of the second.
#include "product.h"
#include "source.h"

// Columns of the weight and of the bias.
inline int columns_of(constant ConvParameters& p) { return p.gated ? 2 * p.outputs : p.outputs; }

inline float4 add_bias(device const half* bias, constant ConvParameters& p, int column, float4 y) {
  return p.has_bias ? y + float4(load(bias, 0, 1, 0, column, columns_of(p))) : y;
}

// Sums of float32 with their bias to the result: activation((sums + embedding) * multiplier + residual).
template <typename In>
float4 finish(In embedding, In multiplier, In residual, constant ConvParameters& p, int b, int target, int channel,
              float4 y) {
  const int targets = p.source.targets;
  if (p.embedding_batch) {
    y = y + float4(load(embedding, p.embedding_batch > 1 ? b : 0, 1, 0, channel, p.outputs));
  }
  if (p.has_multiplier) y = y * float4(load(multiplier, b, targets, target, channel, p.outputs));
  if (p.has_residual) y = y + float4(load(residual, b, targets, target, channel, p.outputs));
  return activate(p.activation, p.alpha, y);
}

// A place in the depth of the product, counted in vectors of four channels of one tap.
struct Depth {
  int tap, vector;

  void advance(int by, int vectors) {
    vector += by;
    while (vector >= vectors) {
      vector -= vectors;
      ++tap;
    }
  }
};

// Sums over channels of a row, of distances from its first one: a mean far from 0 costs no digits.
struct RowSums {
  float first, sum, squares;

  void add(half4 x, int count) {
    for (int i = 0; i < min(4, count); ++i) {
      const float distance = float(x[i]) - first;
      sum += distance;
      squares += distance * distance;
    }
  }
};

// Four columns of row `channel` of one tap's weight, from `column` on of those that start at `start`; zeros past its ends.
inline half4 load_weight(device const half* weight, constant ConvParameters& p, int tap, int channel, int start,
                         int column) {
  const int depth = p.source.channels / p.group, columns = p.outputs / p.group;
  if (tap >= p.source.taps || channel >= depth || column >= columns) return half4(0);
  device const half* from = weight + (long(tap) * depth + channel) * columns_of(p) + start + column;
  if (columns % 4 == 0) return *(device const half4*)from;
  half4 x = half4(0);
  for (int i = 0; i < min(4, columns - column); ++i) x[i] = from[i];
  return x;
}

// One tile of TILE_ROWS targets and TILE_COLUMNS outputs of a group by CONV_THREADS threads.
// tile: of the targets, of the outputs, and image * groups + group. Targets that are not live become zeros.
// Where there are groups, their outputs are a multiple of four: conv_few is for the others.
template <typename Product, typename In, typename Out>
void conv(In rows, In rows_2, In embedding, In multiplier, In residual, Out out, SourceBuffers s,
          device const half* weight, device const half* bias, device const int* live, constant ConvParameters& p,
          threadgroup float* memory, uint3 tile, int thread_index, int simd_group, int lane) {
  const int b = tile.z / p.group, g = tile.z % p.group;
  const int depth = p.source.channels / p.group, columns = p.outputs / p.group, vectors = (depth + 3) / 4;
  const int first_row = tile.x * TILE_ROWS, first_column = tile.y * TILE_COLUMNS;
  const int targets = min(p.source.targets, live[0]);
  threadgroup half* left = (threadgroup half*)memory;
  threadgroup half* right = left + TILE_ROWS * LEFT_STRIDE;
  // A thread loads the same vector of a line, and every LINES-th line, of either tile.
  const int line = thread_index / LINE_VECTORS, vector = thread_index % LINE_VECTORS;
  const int stages = first_row < targets ? (p.source.taps * vectors + LINE_VECTORS - 1) / LINE_VECTORS : 0;

  const bool normed = p.norm_epsilon > 0;
  RowSums row_sums[TILE_ROWS / LINES];
  float factors[TILE_ROWS / LINES];  // what products are multiplied by: 1 / deviation of the row
  for (int j = 0; j < TILE_ROWS / LINES; ++j) {
    const int target = first_row + line + j * LINES;
    const bool read = normed && target < targets;
    row_sums[j] = RowSums{read ? float(load_source(rows, rows_2, s, p.source, b, target, 0)[0]) : 0.0f, 0.0f, 0.0f};
    factors[j] = 1.0f;
  }

  float4 kept[TILE_ROWS / LINES];  // of the first half of the columns, while the second is multiplied
  for (int part = 0; part < (p.gated ? 2 : 1); ++part) {
    const int start = g * columns + part * p.outputs;
    Depth from{0, 0}, to[TILE_DEPTH / LINES];
    from.advance(vector, vectors);
    for (int j = 0; j < TILE_DEPTH / LINES; ++j) {
      to[j] = Depth{0, 0};
      to[j].advance((line + j * LINES) / 4, vectors);
    }
    int looked_up = -1, places[TILE_ROWS / LINES];
    for (int j = 0; j < TILE_ROWS / LINES; ++j) places[j] = PADDING;

    Product product;
    product.clear();
    for (int stage = 0; stage < stages; ++stage) {
      threadgroup_barrier(mem_flags::mem_threadgroup);  // the stage before is multiplied, or its sums are read
      const bool inside = from.tap < p.source.taps;
      for (int j = 0; j < TILE_ROWS / LINES; ++j) {
        const int target = first_row + line + j * LINES, channel = from.vector * 4;
        if (inside && target < targets && from.tap != looked_up) {
          int phase;
          places[j] = place_of(s, p.source, 1, target, from.tap, phase);
        }
        half4 x = half4(0);
        if (inside && target < targets && places[j] != PADDING) {
          x = load_source(rows, rows_2, s, p.source, b, places[j], g * depth + channel);
          if (transforms(p.source)) x = half4(transform(s, p.source, b, g * depth + channel, x));
          for (int i = 1; i < 4; ++i) {
            if (channel + i >= depth) x[i] = 0;
          }
          if (normed && part == 0) row_sums[j].add(x, depth - channel);
        }
        *(threadgroup half4*)(left + (line + j * LINES) * LEFT_STRIDE + vector * 4) = x;
      }
      looked_up = from.tap;
      from.advance(LINE_VECTORS, vectors);
      for (int j = 0; j < TILE_DEPTH / LINES; ++j) {
        const int d = line + j * LINES;
        const half4 w = load_weight(weight, p, to[j].tap, to[j].vector * 4 + d % 4, start, first_column + vector * 4);
        *(threadgroup half4*)(right + d * RIGHT_STRIDE + vector * 4) = w;
        to[j].advance(LINE_VECTORS, vectors);
      }
      threadgroup_barrier(mem_flags::mem_threadgroup);
      product.add(left, right, simd_group, lane);
    }

    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (normed && part == 0) {
      // The threads of a line have parts of its sums; `first` is the same for all of them.
      for (int j = 0; j < TILE_ROWS / LINES; ++j) {
        threadgroup float* to_sums = memory + ((line + j * LINES) * LINE_VECTORS + vector) * 2;
        to_sums[0] = row_sums[j].sum;
        to_sums[1] = row_sums[j].squares;
      }
      threadgroup_barrier(mem_flags::mem_threadgroup);
      for (int j = 0; j < TILE_ROWS / LINES; ++j) {
        float sum = 0, squares = 0;
        for (int i = 0; i < LINE_VECTORS; ++i) {
          sum += memory[((line + j * LINES) * LINE_VECTORS + i) * 2];
          squares += memory[((line + j * LINES) * LINE_VECTORS + i) * 2 + 1];
        }
        const float mean = sum / depth;
        factors[j] = 1.0f / sqrt(max(squares / depth - mean * mean, 0.0f) + p.norm_epsilon);
      }
      threadgroup_barrier(mem_flags::mem_threadgroup);
    }
    product.store(memory, simd_group, lane);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (int j = 0; j < TILE_ROWS / LINES; ++j) {
      const int row = line + j * LINES, target = first_row + row, column = first_column + vector * 4;
      if (target >= p.source.targets || column >= columns) continue;
      float4 y = float4(0);
      if (target < targets) {
        y = *(threadgroup float4*)(memory + row * SUM_STRIDE + vector * 4) * factors[j];
        y = add_bias(bias, p, start + column, y);
        if (p.gated && part == 0) {
          kept[j] = y;
          continue;
        }
        if (p.gated) y = kept[j] * activate(p.gate, 0.0f, y);
        y = finish(embedding, multiplier, residual, p, b, target, g * columns + column, y);
      }
      store(out, b, p.source.targets, target, g * columns + column, (g + 1) * columns, p.outputs, half4(y));
    }
  }
}

// Groups whose outputs do not fill vectors of four, depthwise above all: one thread for four outputs of one target. No row
// norm and no gate, which have one group.
// at: target, vector of four outputs, image.
template <typename In, typename Out>
void conv_few(In rows, In rows_2, In embedding, In multiplier, In residual, Out out, SourceBuffers s,
              device const half* weight, device const half* bias, device const int* live, constant ConvParameters& p,
              uint3 at) {
  const int depth = p.source.channels / p.group, columns = p.outputs / p.group;
  const int target = at.x, first = at.y * 4, b = at.z;
  if (target >= p.source.targets || first >= p.outputs) return;
  float4 y = float4(0);
  if (target < live[0]) {
    for (int tap = 0; tap < p.source.taps; ++tap) {
      int phase;
      const int place = place_of(s, p.source, 1, target, tap, phase);
      if (place == PADDING) continue;
      if (depth == 1 && columns == 1) {
        const half4 x = load_source(rows, rows_2, s, p.source, b, place, first);
        const float4 w = float4(load(weight, 0, p.source.taps, tap, first, p.outputs));
        y = y + float4(half4(transform(s, p.source, b, first, x))) * w;
        continue;
      }
      for (int i = 0; i < min(4, p.outputs - first); ++i) {
        const int g = (first + i) / columns;
        for (int c = 0; c < depth; ++c) {
          const half4 x = load_source(rows, rows_2, s, p.source, b, place, g * depth + c);
          const half w = weight[(long(tap) * depth + c) * p.outputs + first + i];
          const half4 transformed = half4(transform(s, p.source, b, g * depth + c, x));
          y[i] += float(transformed[0]) * float(w);
        }
      }
    }
    y = finish(embedding, multiplier, residual, p, b, target, first, add_bias(bias, p, first, y));
  }
  store(out, b, p.source.targets, target, first, p.outputs, p.outputs, half4(y));
}

#define CONV_IMAGES                                                                                      \
  ImageIn rows [[texture(0)]], ImageIn rows_2 [[texture(1)]], ImageIn embedding [[texture(2)]],          \
      ImageIn multiplier [[texture(3)]], ImageIn residual [[texture(4)]], ImageOut out [[texture(5)]]

#define CONV_BUFFERS                                                                                     \
  device const half *rows [[buffer(10)]], device const half *rows_2 [[buffer(11)]],                      \
      device const half *embedding [[buffer(12)]], device const half *multiplier [[buffer(13)]],         \
      device const half *residual [[buffer(14)]], device half *out [[buffer(15)]]

#define CONV_ARGUMENTS                                                                                   \
  device const half *base [[buffer(0)]], device const half *base_2 [[buffer(1)]],                        \
      device const int *halo [[buffer(2)]], device const int *table [[buffer(3)]],                       \
      device const half *scale [[buffer(4)]], device const half *shift [[buffer(5)]],                    \
      device const half *weight [[buffer(6)]], device const half *bias [[buffer(7)]],                    \
      device const int *live [[buffer(8)]], constant ConvParameters &p [[buffer(9)]]

#define TILE_ARGUMENTS                                                                                   \
  threadgroup float *memory [[threadgroup(0)]], uint3 tile [[threadgroup_position_in_grid]],             \
      uint thread_index [[thread_index_in_threadgroup]], uint simd_group [[simdgroup_index_in_threadgroup]], \
      uint lane [[thread_index_in_simdgroup]]

#define CONV_TILE(PRODUCT, SIMD_GROUP, LANE)                                                             \
  conv<PRODUCT>(rows, rows_2, embedding, multiplier, residual, out,                                      \
                SourceBuffers{base, base_2, halo, table, scale, shift}, weight, bias, live, p, memory, tile, \
                thread_index, SIMD_GROUP, LANE)

// With simdgroup matrices, from GPU family Apple 7 on (A14, M1).
kernel void conv_images(CONV_IMAGES, CONV_ARGUMENTS, TILE_ARGUMENTS) { CONV_TILE(MatrixProduct, simd_group, lane); }

kernel void conv_buffers(CONV_BUFFERS, CONV_ARGUMENTS, TILE_ARGUMENTS) { CONV_TILE(MatrixProduct, simd_group, lane); }

// For all other GPUs, whose simdgroups need not have 32 lanes.
kernel void conv_plain_images(CONV_IMAGES, CONV_ARGUMENTS, TILE_ARGUMENTS) {
  CONV_TILE(PlainProduct, thread_index / 32, thread_index % 32);
}

kernel void conv_plain_buffers(CONV_BUFFERS, CONV_ARGUMENTS, TILE_ARGUMENTS) {
  CONV_TILE(PlainProduct, thread_index / 32, thread_index % 32);
}

#define CONV_FEW                                                                                         \
  conv_few(rows, rows_2, embedding, multiplier, residual, out,                                           \
           SourceBuffers{base, base_2, halo, table, scale, shift}, weight, bias, live, p, at)

kernel void conv_few_images(CONV_IMAGES, CONV_ARGUMENTS, uint3 at [[thread_position_in_grid]]) { CONV_FEW; }

kernel void conv_few_buffers(CONV_BUFFERS, CONV_ARGUMENTS, uint3 at [[thread_position_in_grid]]) { CONV_FEW; }
