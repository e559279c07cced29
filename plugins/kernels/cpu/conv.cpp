// Conv: an implicit GEMM with packed weights, whose left rows are gathered chunk by chunk, and an epilogue on the
// finished tiles; with a gate, on tiles of both halves of the columns at once. Without a table the left rows are the rows of the call, one after the other.
#include "source.h"
#include "tile.h"

namespace sige::cpu::SIGE_ISA {

constexpr int64_t CONV_BLOCKS = 6;      // row blocks per task: they share one chunk of the weights in the cache
constexpr int64_t CONV_PANELS = 4;      // most panels per task: they share the gathered rows
constexpr int64_t MANY_TASKS = 16;      // if there are fewer, each gets half of the panels, for more threads to share
constexpr int64_t DEPTHWISE_ROWS = 16;  // target pixels per task

// The deviations of the rows, [batch * targets], lie behind the source.
size_t conv_workspace(const sige_conv_args& a) {
  const size_t rows = static_cast<size_t>(a.source.batch) * a.source.targets;
  return source_workspace(a.source) + (a.norm_epsilon > 0 ? align(rows * sizeof(float)) : 0);
}

// Groups have columns side by side, and so have the two halves of a gate.
SIGE_INLINE int64_t parts_of(const sige_conv_args& a) { return a.gated ? 2 : a.group; }

size_t packed_size(const sige_conv_args& a) {
  if (is_depthwise(a)) return 0;
  const int64_t depth = int64_t{a.source.taps} * (a.source.channels / a.group);
  return parts_of(a) * depth * padded_width(a.outputs / a.group) * sizeof(float);
}

// [group or half][panel][taps * channels / group][panel width], columns beyond the outputs zero.
void pack(const sige_conv_args& a, void* packed) {
  const int64_t depth = int64_t{a.source.taps} * (a.source.channels / a.group), outputs = a.outputs / a.group;
  const float* weight = static_cast<const float*>(a.weight);
  float* to = static_cast<float*>(packed);
  for (int64_t g = 0; g < parts_of(a); ++g) {
    for (int64_t column = 0; column < outputs; column += PANEL) {
      const int64_t columns = min(PANEL, outputs - column), width = panel_width(columns);
      for (int64_t d = 0; d < depth; ++d, to += width) {
        memcpy(to, weight + d * columns_of(a) + g * outputs + column, columns * sizeof(float));
        memset(to + columns, 0, (width - columns) * sizeof(float));
      }
    }
  }
}

static inline float sum_of(const Vector& x) {
  float sum = 0;
  for (int i = 0; i < VECTOR; ++i) sum += x[i];
  return sum;
}

// 1 / sqrt(variance of x + epsilon), by two passes.
static float inverse_deviation(const float* x, int64_t count, float epsilon) {
  constexpr int UNROLL = 4, STEP = UNROLL * VECTOR;
  const auto total = [&](float mean, const auto& of) {
    Vector sum[UNROLL] = {};
    int64_t c = 0;
    for (; c + STEP <= count; c += STEP) {
#pragma GCC unroll 4
      for (int v = 0; v < UNROLL; ++v) sum[v] += of(*reinterpret_cast<const Vector*>(x + c + v * VECTOR) - mean);
    }
    float result = sum_of((sum[0] + sum[1]) + (sum[2] + sum[3]));
    for (; c < count; ++c) result += of(x[c] - mean);
    return result;
  };
  const float mean = total(0, [](auto value) { return value; }) / count;
  const float variance = total(mean, [](auto value) { return value * value; }) / count;
  return 1.0f / __builtin_sqrtf(variance + epsilon);
}

// For each row what its products are multiplied by; null: nothing.
static const float* row_factors(const sige_conv_args& a, const sige_execution& execution) {
  if (a.norm_epsilon == 0) return nullptr;
  const sige_source& s = a.source;
  const float* rows = static_cast<const float*>(s.rows);
  float* factors = reinterpret_cast<float*>(static_cast<char*>(execution.workspace) + source_workspace(s));
  const int64_t count = int64_t{s.batch} * s.targets;
  parallel(execution, ceil_div(count, TRANSFORM_ROWS), [&](int64_t task) {
    const int64_t first = task * TRANSFORM_ROWS, last = min(first + TRANSFORM_ROWS, count);
    for (int64_t i = first; i < last; ++i) factors[i] = inverse_deviation(rows + i * s.channels, s.channels, a.norm_epsilon);
  });
  return factors;
}

static inline void add_bias(const sige_conv_args& a, int64_t column, int64_t columns, float* __restrict x) {
  if (!a.bias) return;
  const float* bias = static_cast<const float*>(a.bias) + column;
  for (int64_t c = 0; c < columns; ++c) x[c] += bias[c];
}

// The epilogue of one row of a tile, behind the bias; `column` is the row's first output channel.
static void finish_row(const sige_conv_args& a, int64_t row, int64_t column, int64_t columns, float* __restrict x) {
  if (a.embedding) {
    const int64_t b = a.embedding_batch > 1 ? row / a.source.targets : 0;
    const float* embedding = static_cast<const float*>(a.embedding) + b * a.outputs + column;
    for (int64_t c = 0; c < columns; ++c) x[c] += embedding[c];
  }
  if (a.multiplier) {
    const float* multiplier = static_cast<const float*>(a.multiplier) + row * a.outputs + column;
    for (int64_t c = 0; c < columns; ++c) x[c] *= multiplier[c];
  }
  if (a.residual) {
    const float* residual = static_cast<const float*>(a.residual) + row * a.outputs + column;
    for (int64_t c = 0; c < columns; ++c) x[c] += residual[c];
  }
  activate(a.activation, a.alpha, x, columns);
}

static void depthwise(const sige_conv_args& a, const Source& source, const sige_execution& execution) {
  const sige_source& s = a.source;
  const int64_t channels = s.channels, tasks = ceil_div(s.targets, DEPTHWISE_ROWS);
  const float* weight = static_cast<const float*>(a.weight);
  parallel(execution, s.batch * tasks, [&](int64_t task) {
    const int64_t b = task / tasks, first = task % tasks * DEPTHWISE_ROWS;
    for (int64_t r = first; r < min(first + DEPTHWISE_ROWS, s.targets); ++r) {
      const int64_t row = b * s.targets + r;
      const Taps taps = source.taps(s, b, r);
      float* out = static_cast<float*>(a.out) + row * channels;
      constexpr int UNROLL = 4, STEP = UNROLL * VECTOR;
      int64_t c = 0;
      for (; c + STEP <= channels; c += STEP) {
        Vector sum[UNROLL] = {};
        for (int64_t k = 0; k < s.taps; ++k) {
          const float* x = taps[k] + c;
          const float* w = weight + k * channels + c;
#pragma GCC unroll 4
          for (int v = 0; v < UNROLL; ++v)
            sum[v] += *reinterpret_cast<const Vector*>(x + v * VECTOR) * *reinterpret_cast<const Vector*>(w + v * VECTOR);
        }
#pragma GCC unroll 4
        for (int v = 0; v < UNROLL; ++v) *reinterpret_cast<Vector*>(out + c + v * VECTOR) = sum[v];
      }
      for (; c < channels; ++c) {
        float sum = 0;
        for (int64_t k = 0; k < s.taps; ++k) sum += taps[k][c] * weight[k * channels + c];
        out[c] = sum;
      }
      add_bias(a, 0, channels, out);
      finish_row(a, row, 0, channels, out);
    }
  });
}

// Columns [first, first + depth) of the implicit matrix [rows][taps * channels], for the rows of a block.
static void gather_left(const sige_source& s, const Source& source, int64_t offset, int64_t channels,
                        const Block& block, int64_t first, int64_t depth, Left& left) {
  for (int64_t row = block.first; row < block.last; ++row) {
    const Taps taps = source.taps(s, row / s.targets, row % s.targets);
    float* to = left.at + (row - block.first) * STRIDE;
    int64_t tap = first / channels, channel = first % channels;
    for (int64_t done = 0; done < depth; ++tap, channel = 0) {
      const int64_t count = min(channels - channel, depth - done);
      memcpy(to + done, taps[tap] + offset + channel, count * sizeof(float));
      done += count;
    }
  }
}

// One row of a tile, [columns] from output channel `column` on, and of the tile of its gate: `gate` null means none, and
// `factor` null means 1.
static void finish_tile_row(const sige_conv_args& a, int64_t row, int64_t column, int64_t columns, const float* factor,
                            float* __restrict x, float* __restrict gate) {
  const auto prepared = [&](int64_t first, float* __restrict values) {
    if (factor)
      for (int64_t c = 0; c < columns; ++c) values[c] *= *factor;
    add_bias(a, first, columns, values);
  };
  prepared(column, x);
  if (gate) {
    prepared(a.outputs + column, gate);
    activate(a.gate, 0, gate, columns);
    for (int64_t c = 0; c < columns; ++c) x[c] *= gate[c];
  }
  finish_row(a, row, column, columns, x);
}

static void dense(const sige_conv_args& a, const Source& source, const float* factors, const sige_execution& execution) {
  const sige_source& s = a.source;
  const int64_t channels = s.channels / a.group, outputs = a.outputs / a.group, total = s.taps * channels;
  const int64_t rows = int64_t{s.batch} * s.targets, blocks = ceil_div(rows, MAX_ROWS);
  const int64_t chunks = ceil_div(blocks, CONV_BLOCKS);
  const int64_t halves = a.gated ? 2 : 1, half = total * padded_width(outputs);  // panels of both are in one task
  const bool many = a.group * chunks * ceil_div(outputs * halves, CONV_PANELS * PANEL) >= MANY_TASKS;
  const int64_t most_panels = (many ? CONV_PANELS : CONV_PANELS / 2) / halves;
  const int64_t strips = ceil_div(outputs, most_panels * PANEL);
  // Chunks of rows are innermost: tasks that follow one another share their weights.
  parallel(execution, a.group * strips * chunks, [&](int64_t task) {
    const int64_t chunk = task % chunks, strip = task / chunks % strips, g = task / chunks / strips;
    const int64_t first_panel = strip * most_panels;
    const int64_t panels = min(most_panels, ceil_div(outputs, PANEL) - first_panel);
    const int64_t first_block = chunk * CONV_BLOCKS, last_block = min(first_block + CONV_BLOCKS, blocks);
    const float* weight = static_cast<const float*>(a.weight) + g * total * padded_width(outputs);
    Left left;
    Tile tiles[CONV_BLOCKS][CONV_PANELS];

    for (int64_t d = 0; d < total; d += DEPTH) {
      const int64_t depth = min(DEPTH, total - d);
      for (int64_t i = first_block; i < last_block; ++i) {
        const Block block = block_of(rows, blocks, i);
        gather_left(s, source, g * channels, channels, block, d, depth, left);
        for (int64_t j = 0; j < panels; ++j) {
          const int64_t column = (first_panel + j) * PANEL, width = panel_width(outputs - column);
          for (int64_t h = 0; h < halves; ++h)
            multiply(static_cast<int>(block.last - block.first), left, depth,
                     weight + h * half + column * total + d * width, width, tiles[i - first_block][j * halves + h], d > 0);
        }
      }
    }

    for (int64_t i = first_block; i < last_block; ++i) {
      const Block block = block_of(rows, blocks, i);
      for (int64_t j = 0; j < panels; ++j) {
        const int64_t column = (first_panel + j) * PANEL, columns = min(PANEL, outputs - column);
        for (int64_t row = block.first; row < block.last; ++row) {
          Tile* tile = tiles[i - first_block] + j * halves;
          float *x = tile->at + (row - block.first) * PANEL, *gate = a.gated ? tile[1].at + (x - tile->at) : nullptr;
          finish_tile_row(a, row, g * outputs + column, columns, factors ? factors + row : nullptr, x, gate);
          memcpy(static_cast<float*>(a.out) + row * a.outputs + g * outputs + column, x, columns * sizeof(float));
        }
      }
    }
  });
}

sige_status conv(const sige_conv_args& a, const sige_execution& execution) {
  const Source source = prepare(a.source, execution);
  if (is_depthwise(a)) {
    depthwise(a, source, execution);
  } else {
    dense(a, source, row_factors(a, execution), execution);
  }
  return SIGE_OK;
}

}  // namespace sige::cpu::SIGE_ISA
