// Gather: one thread for four channels of one target's neighbourhood; affine and activation fused.
#include "source.h"

// Channels [channel, channel + 4) of one tap's phase.
template <typename In>
half4 gather_tap(In rows, In rows_2, SourceBuffers s, constant GatherParameters& p, int b, int target, int tap, int channel) {
  int phase;
  const int place = place_of(s, p.source, p.phases, target, tap, phase);
  if (place == PADDING) return half4(as_type<half>(ushort(p.padding)));
  channel += phase * (p.source.channels / p.phases);
  const half4 x = load_source(rows, rows_2, s, p.source, b, place, channel);
  return transforms(p.source) ? half4(transform(s, p.source, b, channel, x)) : x;
}

// at: target, vector of four output channels, image. Targets that are not live become zeros.
template <typename In, typename Out>
void gather(In rows, In rows_2, Out out, SourceBuffers s, device const int* live, constant GatherParameters& p, uint3 at) {
  const int width = p.source.channels / p.phases, total = p.source.taps * width;
  const int target = at.x, first = at.y * 4, b = at.z;
  if (target >= p.source.targets || first >= total) return;
  half4 result = half4(0);
  if (target < live[0]) {
    if (width % 4 == 0) {
      result = gather_tap(rows, rows_2, s, p, b, target, first / width, first % width);
    } else {
      for (int i = 0; i < min(4, total - first); ++i) {
        const half4 tap = gather_tap(rows, rows_2, s, p, b, target, (first + i) / width, (first + i) % width);
        result[i] = tap[0];
      }
    }
  }
  store(out, b, p.source.targets, target, first, total, total, result);
}

#define GATHER_ARGUMENTS                                                                             \
  device const half *base [[buffer(0)]], device const half *base_2 [[buffer(1)]],                    \
      device const int *halo [[buffer(2)]], device const int *table [[buffer(3)]],                   \
      device const half *scale [[buffer(4)]], device const half *shift [[buffer(5)]],                \
      device const int *live [[buffer(6)]], constant GatherParameters &p [[buffer(7)]],              \
      uint3 at [[thread_position_in_grid]]

kernel void gather_images(ImageIn rows [[texture(0)]], ImageIn rows_2 [[texture(1)]], ImageOut out [[texture(2)]],
                          GATHER_ARGUMENTS) {
  gather(rows, rows_2, out, SourceBuffers{base, base_2, halo, table, scale, shift}, live, p, at);
}

kernel void gather_buffers(device const half* rows [[buffer(8)]], device const half* rows_2 [[buffer(9)]],
                           device half* out [[buffer(10)]], GATHER_ARGUMENTS) {
  gather(rows, rows_2, out, SourceBuffers{base, base_2, halo, table, scale, shift}, live, p, at);
}
