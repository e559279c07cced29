// Rows as every kernel reads and writes them: four channels of one row at a time.
//
// An image is what Core ML hands to `encode` for a [B, C, 1, P] array: rgba16Float, one texel for each row, four channels
// a slice, the slices of an image of the batch one after the other. A buffer is a dense [B, P, C] array. Channels past
// the last one may hold anything in what `load` returns.
#pragma once

#include <metal_stdlib>
using namespace metal;

typedef texture2d_array<half, access::read> ImageIn;
typedef texture2d_array<half, access::write> ImageOut;

// Channels [channel, channel + 4) of row `row` out of `count` of image `b` of the batch.
inline half4 load(ImageIn rows, int b, int count, int row, int channel, int channels) {
  const int slices = (channels + 3) / 4;
  const int slice = channel / 4;
  const uint2 at = uint2(row, 0);
  const half4 x = rows.read(at, b * slices + slice);
  const int skip = channel % 4;
  if (skip == 0 || slice + 1 == slices) return skip == 0 ? x : half4(x[skip], x[min(skip + 1, 3)], x[3], x[3]);
  const half4 next = rows.read(at, b * slices + slice + 1);
  if (skip == 1) return half4(x[1], x[2], x[3], next[0]);
  if (skip == 2) return half4(x[2], x[3], next[0], next[1]);
  return half4(x[3], next[0], next[1], next[2]);
}

inline half4 load(device const half* rows, int b, int count, int row, int channel, int channels) {
  device const half* from = rows + (long(b) * count + row) * channels + channel;
  if ((channels | channel) % 4 == 0) return *(device const half4*)from;
  half4 x = half4(0);
  for (int i = 0; i < 4; ++i) {
    if (channel + i < channels) x[i] = from[i];
  }
  return x;
}

// Writes channels [channel, channel + 4) up to `end`. `channel` is a multiple of four in an image, whose texels are written
// whole: `end` is then the last channel, or a multiple of four too.
inline void store(ImageOut rows, int b, int count, int row, int channel, int end, int channels, half4 x) {
  rows.write(x, uint2(row, 0), b * ((channels + 3) / 4) + channel / 4);
}

inline void store(device half* rows, int b, int count, int row, int channel, int end, int channels, half4 x) {
  device half* to = rows + (long(b) * count + row) * channels + channel;
  if ((channels | channel) % 4 == 0 && channel + 4 <= end) {
    *(device half4*)to = x;
    return;
  }
  for (int i = 0; i < min(4, end - channel); ++i) to[i] = x[i];
}

// The row of a pixel in the ascending list of `count` active pixels, or -1.
inline int row_of(device const int* active, int count, int pixel) {
  int low = 0, high = count;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (active[middle] < pixel) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < count && active[low] == pixel ? low : -1;
}
