// What the targets of one call read: the virtual concatenation [fresh rows | halo | padding] of docs/ops.md.
#pragma once

#include "activation.h"
#include "parameters.h"
#include "rows.h"

constant constexpr int PADDING = -1;

// What does not travel as rows: recorded and constant arrays, and tables. Those that a call lacks are never read.
struct SourceBuffers {
  device const half* base;    // [B, N, C1]
  device const half* base_2;  // [B, N, C2]
  device const int* halo;
  device const int* table;
  device const half* scale;   // [1 or B, C]
  device const half* shift;
};

// Where tap `tap` of a target reads: fresh row r as r, base pixel n as -2 - n, else PADDING. `phase` is set too.
inline int place_of(SourceBuffers s, constant SourceParameters& p, int phases, int target, int tap, thread int& phase) {
  int entry = p.has_table ? s.table[long(target) * p.taps + tap] : target;
  phase = 0;
  if (entry < 0) return PADDING;
  if (phases > 1) {
    phase = entry % phases;
    entry /= phases;
  }
  return entry < p.fresh ? entry : -2 - s.halo[entry - p.fresh];
}

template <typename In>
inline half4 load_first(In rows, SourceBuffers s, constant SourceParameters& p, int b, int place, int channel) {
  const int channels = p.channels - p.channels_2;
  if (place >= 0) return load(rows, b, p.fresh, place, channel, channels);
  return load(s.base, b, p.pixels, -2 - place, channel, channels);
}

template <typename In>
inline half4 load_second(In rows_2, SourceBuffers s, constant SourceParameters& p, int b, int place, int channel) {
  if (place >= 0) return load(rows_2, b, p.fresh, place, channel, p.channels_2);
  return load(s.base_2, b, p.pixels, -2 - place, channel, p.channels_2);
}

// Channels [channel, channel + 4) of a place that is not PADDING, as they are.
template <typename In>
inline half4 load_source(In rows, In rows_2, SourceBuffers s, constant SourceParameters& p, int b, int place,
                         int channel) {
  const int split = p.channels - p.channels_2;
  if (p.channels_2 == 0 || channel + 4 <= split) return load_first(rows, s, p, b, place, channel);
  if (channel >= split) return load_second(rows_2, s, p, b, place, channel - split);
  const half4 x = load_first(rows, s, p, b, place, channel), y = load_second(rows_2, s, p, b, place, 0);
  if (split - channel == 1) return half4(x[0], y[0], y[1], y[2]);
  if (split - channel == 2) return half4(x[0], x[1], y[0], y[1]);
  return half4(x[0], x[1], x[2], y[0]);
}

// The same after affine and activation.
inline float4 transform(SourceBuffers s, constant SourceParameters& p, int b, int channel, half4 loaded) {
  float4 x = float4(loaded);
  if (p.scale_batch) x = x * float4(load(s.scale, p.scale_batch > 1 ? b : 0, 1, 0, channel, p.channels));
  if (p.shift_batch) x = x + float4(load(s.shift, p.shift_batch > 1 ? b : 0, 1, 0, channel, p.channels));
  return activate(p.activation, p.alpha, x);
}

inline bool transforms(constant SourceParameters& p) {
  return p.scale_batch || p.shift_batch || p.activation != IDENTITY;
}
