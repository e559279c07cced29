// Scatter: one thread for four channels of one pixel, which looks its row up; one pass, and no pixel is written twice.
#include "parameters.h"
#include "rows.h"

template <typename In>
half4 scattered(In rows, device const half* base, device const int* active, int live, constant ScatterParameters& p, int b,
                int pixel, int channel) {
  const int row = row_of(active, live, pixel);
  return row < 0 ? load(base, b, p.pixels, pixel, channel, p.channels) : load(rows, b, p.fresh, row, channel, p.channels);
}

#define SCATTER_ARGUMENTS                                                                               \
  device const half *base [[buffer(0)]], device const int *active [[buffer(1)]],                        \
      device const int *live [[buffer(2)]], constant ScatterParameters &p [[buffer(3)]],                \
      uint3 at [[thread_position_in_grid]]

// at: pixel, vector of four channels, image. The output is an image of lines of p.width pixels.
kernel void scatter_images(ImageIn rows [[texture(0)]], ImageOut out [[texture(1)]], SCATTER_ARGUMENTS) {
  const int pixel = at.x, channel = at.y * 4;
  if (pixel >= p.pixels || channel >= p.channels) return;
  const uint2 to = uint2(pixel % p.width, pixel / p.width);
  out.write(scattered(rows, base, active, live[0], p, at.z, pixel, channel), to, at.z * ((p.channels + 3) / 4) + at.y);
}

kernel void scatter_buffers(device const half* rows [[buffer(4)]], device half* out [[buffer(5)]], SCATTER_ARGUMENTS) {
  const int pixel = at.x, channel = at.y * 4;
  if (pixel >= p.pixels || channel >= p.channels) return;
  store(out, at.z, p.pixels, pixel, channel, p.channels, p.channels,
        scattered(rows, base, active, live[0], p, at.z, pixel, channel));
}
