// Attention: row queries against base keys and values overlaid with fresh ones, in blocks of keys.
//
// The softmax is online (Milakov and Gimelshein, arXiv 1805.02867): a running maximum and sum per query, so scores
// exist for one block of keys at a time. Keys and values are packed once per call into the panels of tile.h, the fresh
// ones in their places.
#include "tile.h"

namespace sige::cpu::SIGE_ISA {

constexpr int64_t KEY_BLOCK = DEPTH;      // keys whose scores exist at once: the depth of the second product
constexpr int64_t PACK_KEYS = 8 * PANEL;  // keys packed by one task
constexpr float LOWEST = -3.0e38f;        // maximum of no scores

static inline int64_t padded_keys(const sige_attention_args& a) { return ceil_div(a.pixels, PANEL) * PANEL; }

struct Packed {
  int32_t* fresh;  // [pixels] row of the pixel, or -1
  float* keys;     // [batch][heads][panel of keys][dk][PANEL]
  float* values;   // [batch][heads][panel of dv][keys][panel width]
};

static inline size_t layout(const sige_attention_args& a, void* workspace, Packed* packed) {
  const int64_t keys = a.batch * a.heads * padded_keys(a);
  const size_t fresh_bytes = align(a.pixels * sizeof(int32_t));
  const size_t key_bytes = align(keys * a.dk * sizeof(float));
  char* at = static_cast<char*>(workspace);
  if (packed)
    *packed = {reinterpret_cast<int32_t*>(at), reinterpret_cast<float*>(at + fresh_bytes),
               reinterpret_cast<float*>(at + fresh_bytes + key_bytes)};
  return fresh_bytes + key_bytes + align(keys * padded_width(a.dv) * sizeof(float));
}

size_t attention_workspace(const sige_attention_args& a) { return layout(a, nullptr, nullptr); }

static void pack(const sige_attention_args& a, const Packed& packed, const sige_execution& execution) {
  for (int64_t n = 0; n < a.pixels; ++n) packed.fresh[n] = -1;
  for (int32_t p = 0; a.active && p < a.fresh; ++p) packed.fresh[a.active[p]] = p;

  const int64_t keys = padded_keys(a), tasks = ceil_div(keys, PACK_KEYS);
  const int64_t k_stride = row_stride(a.k_stride, a.heads, a.dk), v_stride = row_stride(a.v_stride, a.heads, a.dv);
  const int64_t k_base_stride = row_stride(a.k_base_stride, a.heads, a.dk);
  const int64_t v_base_stride = row_stride(a.v_base_stride, a.heads, a.dv);
  parallel(execution, int64_t{a.batch} * a.heads * tasks, [&](int64_t task) {
    const int64_t h = task / tasks % a.heads, b = task / tasks / a.heads, first = task % tasks * PACK_KEYS;
    float* to_keys = packed.keys + (b * a.heads + h) * keys * a.dk;
    float* to_values = packed.values + (b * a.heads + h) * keys * padded_width(a.dv);
    for (int64_t n = first; n < min(first + PACK_KEYS, keys); ++n) {
      const bool real = n < a.pixels;
      const int64_t p = real ? packed.fresh[n] : -1;
      const float* k = static_cast<const float*>(p < 0 ? a.k_base : a.k);
      const float* v = static_cast<const float*>(p < 0 ? a.v_base : a.v);
      const int64_t row = !real ? 0 : p < 0 ? b * a.pixels + n : b * a.fresh + p;
      const float* key = k + row * (p < 0 ? k_base_stride : k_stride) + h * a.dk;
      const float* value = v + row * (p < 0 ? v_base_stride : v_stride) + h * a.dv;
      float* column = to_keys + n / PANEL * PANEL * a.dk + n % PANEL;
      for (int64_t i = 0; i < a.dk; ++i) column[i * PANEL] = real ? key[i] : 0.0f;
      for (int64_t i = 0; i < a.dv; i += PANEL) {
        const int64_t columns = min(PANEL, a.dv - i), width = panel_width(columns);
        float* x = to_values + i * keys + n * width;
        for (int64_t c = 0; c < columns; ++c) x[c] = real ? value[i + c] : 0.0f;
        for (int64_t c = columns; c < width; ++c) x[c] = 0;
      }
    }
  });
}

// Raw scores of one query become exponentials relative to the running maximum. Returns the factor by which what
// was summed up before has to shrink. Reads and writes up to the next multiple of PANEL.
static float soften(float* __restrict scores, int64_t count, float scale, float* maximum, float* sum) {
  const int64_t padded = ceil_div(count, PANEL) * PANEL;
  for (int64_t n = 0; n < count; ++n) scores[n] *= scale;
  for (int64_t n = count; n < padded; ++n) scores[n] = LOWEST;
  Vector tops = Vector{} + *maximum;  // compilers do not reorder a reduction of floats by themselves
  for (int64_t n = 0; n < padded; n += VECTOR) {
    const Vector x = *reinterpret_cast<const Vector*>(scores + n);
    tops = x > tops ? x : tops;
  }
  float top = tops[0];
  for (int i = 1; i < VECTOR; ++i) top = tops[i] > top ? tops[i] : top;

  for (int64_t n = 0; n < padded; ++n) scores[n] = exponential(scores[n] - top);
  for (int64_t n = count; n < padded; ++n) scores[n] = 0;
  Vector totals{};
  for (int64_t n = 0; n < padded; n += VECTOR) totals += *reinterpret_cast<const Vector*>(scores + n);
  float total = 0;
  for (int i = 0; i < VECTOR; ++i) total += totals[i];

  const float shrink = exponential(*maximum - top);
  *sum = *sum * shrink + total;
  *maximum = top;
  return shrink;
}

sige_status attention(const sige_attention_args& a, const sige_execution& execution) {
  Packed packed;
  layout(a, execution.workspace, &packed);
  pack(a, packed, execution);

  const float scale = a.scale != 0 ? a.scale : 1.0f / __builtin_sqrtf(static_cast<float>(a.dk));
  const int64_t keys = padded_keys(a), blocks = ceil_div(a.fresh, MAX_ROWS);
  const int64_t q_stride = row_stride(a.q_stride, a.heads, a.dk), channels = int64_t{a.heads} * a.dv;
  parallel(execution, int64_t{a.batch} * a.heads * blocks, [&](int64_t task) {
    const int64_t h = task / blocks % a.heads, b = task / blocks / a.heads;
    const Block range = block_of(a.fresh, blocks, task % blocks);
    const int count = static_cast<int>(range.last - range.first);
    const float* packed_keys = packed.keys + (b * a.heads + h) * keys * a.dk;
    const float* packed_values = packed.values + (b * a.heads + h) * keys * padded_width(a.dv);
    float* out = static_cast<float*>(a.out) + (b * a.fresh + range.first) * channels + h * a.dv;

    const float* queries = static_cast<const float*>(a.q) + (b * a.fresh + range.first) * q_stride + h * a.dk;

    Left left, weights;  // queries; scores, then softmax weights, of one block of keys
    Tile tile;
    float maximum[MAX_ROWS], sum[MAX_ROWS], shrink[MAX_ROWS];
    for (int m = 0; m < count; ++m) {
      maximum[m] = LOWEST;
      sum[m] = 0;
      for (int64_t i = 0; i < a.dv; ++i) out[m * channels + i] = 0;
    }

    for (int64_t first = 0; first < a.pixels; first += KEY_BLOCK) {
      const int64_t valid = min(KEY_BLOCK, a.pixels - first);
      for (int64_t d = 0; d < a.dk; d += DEPTH) {
        const int64_t depth = min(DEPTH, a.dk - d);
        for (int m = 0; m < count; ++m)
          memcpy(left.at + m * STRIDE, queries + m * q_stride + d, depth * sizeof(float));
        for (int64_t n = 0; n < valid; n += PANEL) {
          multiply(count, left, depth, packed_keys + (first + n) * a.dk + d * PANEL, PANEL, tile, false);
          for (int m = 0; m < count; ++m) {
            float* to = weights.at + m * STRIDE + n;
            for (int c = 0; c < PANEL; ++c) to[c] = tile.at[m * PANEL + c] + (d ? to[c] : 0.0f);
          }
        }
      }
      for (int m = 0; m < count; ++m)
        shrink[m] = soften(weights.at + m * STRIDE, valid, scale, maximum + m, sum + m);
      for (int64_t i = 0; i < a.dv; i += PANEL) {
        const int64_t columns = min(PANEL, a.dv - i), width = panel_width(columns);
        multiply(count, weights, valid, packed_values + i * keys + first * width, width, tile, false);
        for (int m = 0; m < count; ++m) {
          float* x = out + m * channels + i;
          for (int64_t c = 0; c < columns; ++c) x[c] = x[c] * shrink[m] + tile.at[m * PANEL + c];
        }
      }
    }
    for (int m = 0; m < count; ++m)
      for (int64_t i = 0; i < a.dv; ++i) out[m * channels + i] /= sum[m];
  });
  return SIGE_OK;
}

}  // namespace sige::cpu::SIGE_ISA
