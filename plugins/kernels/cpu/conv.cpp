// Conv: an implicit GEMM with packed weights, whose left rows are gathered chunk by chunk, and an epilogue on the
// finished tiles. Without a table the left rows are the rows of the call, one after the other.
#include "source.h"
#include "tile.h"

namespace sige::cpu::SIGE_ISA {

constexpr int64_t CONV_BLOCKS = 6;      // row blocks per task: they share one chunk of the weights in the cache
constexpr int64_t CONV_PANELS = 4;      // most panels per task: they share the gathered rows
constexpr int64_t MANY_TASKS = 16;      // if there are fewer, each gets half of the panels, for more threads to share
constexpr int64_t DEPTHWISE_ROWS = 16;  // target pixels per task

size_t conv_workspace(const sige_conv_args& a) { return source_workspace(a.source); }

size_t packed_size(const sige_conv_args& a) {
  if (is_depthwise(a)) return 0;
  const int64_t depth = int64_t{a.source.taps} * (a.source.channels / a.group);
  return a.group * depth * padded_width(a.outputs / a.group) * sizeof(float);
}

// [group][panel][taps * channels / group][panel width], columns beyond the outputs zero.
void pack(const sige_conv_args& a, void* packed) {
  const int64_t depth = int64_t{a.source.taps} * (a.source.channels / a.group), outputs = a.outputs / a.group;
  const float* weight = static_cast<const float*>(a.weight);
  float* to = static_cast<float*>(packed);
  for (int64_t g = 0; g < a.group; ++g) {
    for (int64_t column = 0; column < outputs; column += PANEL) {
      const int64_t columns = min(PANEL, outputs - column), width = panel_width(columns);
      for (int64_t d = 0; d < depth; ++d, to += width) {
        memcpy(to, weight + d * a.outputs + g * outputs + column, columns * sizeof(float));
        memset(to + columns, 0, (width - columns) * sizeof(float));
      }
    }
  }
}

// The epilogue of one row of a tile, up to the activation; `column` is the row's first output channel.
static void finish_row(const sige_conv_args& a, int64_t row, int64_t column, int64_t columns, float* __restrict x) {
  if (a.bias) {
    const float* bias = static_cast<const float*>(a.bias) + column;
    for (int64_t c = 0; c < columns; ++c) x[c] += bias[c];
  }
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
      finish_row(a, row, 0, channels, out);
      activate(a.activation, a.alpha, out, channels);
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

static void dense(const sige_conv_args& a, const Source& source, const sige_execution& execution) {
  const sige_source& s = a.source;
  const int64_t channels = s.channels / a.group, outputs = a.outputs / a.group, total = s.taps * channels;
  const int64_t rows = int64_t{s.batch} * s.targets, blocks = ceil_div(rows, MAX_ROWS);
  const int64_t chunks = ceil_div(blocks, CONV_BLOCKS);
  const bool many = a.group * chunks * ceil_div(outputs, CONV_PANELS * PANEL) >= MANY_TASKS;
  const int64_t most_panels = many ? CONV_PANELS : CONV_PANELS / 2;
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
          multiply(static_cast<int>(block.last - block.first), left, depth, weight + column * total + d * width, width,
                   tiles[i - first_block][j], d > 0);
        }
      }
    }

    for (int64_t i = first_block; i < last_block; ++i) {
      const Block block = block_of(rows, blocks, i);
      for (int64_t j = 0; j < panels; ++j) {
        const int64_t column = (first_panel + j) * PANEL, columns = min(PANEL, outputs - column);
        for (int64_t row = block.first; row < block.last; ++row) {
          float* x = tiles[i - first_block][j].at + (row - block.first) * PANEL;
          finish_row(a, row, g * outputs + column, columns, x);
          activate(a.activation, a.alpha, x, columns);
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
    dense(a, source, execution);
  }
  return SIGE_OK;
}

}  // namespace sige::cpu::SIGE_ISA
