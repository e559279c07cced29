#include "patterns.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

// A number in [0, 1) that looks random, from an integer position.
static double hash(int64_t x, int64_t y, uint64_t seed) {
  uint64_t mixed =
      (static_cast<uint64_t>(x) * 0x9E3779B1 + static_cast<uint64_t>(y) * 0x85EBCA77 + seed * 0xC2B2AE3D) & 0xFFFFFFFF;
  mixed = ((mixed ^ mixed >> 15) * 0x2C1B3C6D) & 0xFFFFFFFF;
  mixed = ((mixed ^ mixed >> 12) * 0x297A2D39) & 0xFFFFFFFF;
  return static_cast<double>(mixed ^ mixed >> 15) / 4294967296.0;
}

// Value noise in [-1, 1] with cells of sx by sy pixels.
static double smooth(int x, int y, double sx, double sy, uint64_t seed) {
  const double u = x / sx, v = y / sy;
  const auto i = static_cast<int64_t>(std::floor(u)), j = static_cast<int64_t>(std::floor(v));
  const auto ease = [](double w) { return w * w * (3 - 2 * w); };
  const double s = ease(u - static_cast<double>(i)), t = ease(v - static_cast<double>(j));
  const double top = hash(i, j, seed) * (1 - s) + hash(i + 1, j, seed) * s;
  const double low = hash(i, j + 1, seed) * (1 - s) + hash(i + 1, j + 1, seed) * s;
  return 2 * (top * (1 - t) + low * t) - 1;
}

// Clumps lit from the upper left: cells around jittered points, in [-1, 1].
static double leaves(int x, int y, double cell, uint64_t seed) {
  const double u = x / cell, v = y / cell;
  const auto i = static_cast<int64_t>(std::floor(u)), j = static_cast<int64_t>(std::floor(v));
  double nearest = 9, lit = 0;
  for (int a = -1; a <= 1; ++a)
    for (int b = -1; b <= 1; ++b) {
      const double dx = u - (static_cast<double>(i + a) + 0.15 + 0.7 * hash(i + a, j + b, seed));
      const double dy = v - (static_cast<double>(j + b) + 0.15 + 0.7 * hash(i + a, j + b, seed + 1));
      const double distance = std::hypot(dx, dy);
      const double own = 0.5 * hash(i + a, j + b, seed + 2) - 0.25;
      if (distance < nearest) lit = 0.75 - 1.25 * distance - 0.75 * (dx + 1.2 * dy) + own;
      nearest = std::min(nearest, distance);
    }
  return std::clamp(lit, -1.0, 1.0);
}

// Rows of blocks, every second row offset by half a block; `joint`: value between blocks.
static double courses(int x, int y, int width, int height, double joint, uint64_t seed) {
  const int row = y / height, shifted = x + row % 2 * (width / 2);
  if (shifted % width == 0 || y % height == 0) return joint;
  return 1.3 * hash(shifted / width, row, seed) - 0.5;
}

std::vector<float> patterns() {
  std::vector<float> result(static_cast<size_t>(PATTERNS) * HEIGHT * WIDTH);
  for (int y = 0; y < HEIGHT; ++y)
    for (int x = 0; x < WIDTH; ++x) {
      const double values[PATTERNS] = {
          2.0 * y / (HEIGHT - 1) - 1,
          0.6 * (2 * hash(x, y, 7) - 1) + 0.4 * smooth(x, y, 2.5, 2.5, 8),
          0.6 * leaves(x, y, 8.0, 10) + 0.55 * leaves(x, y, 4.0, 20),
          courses(x, y, 8, 4, -0.8, 30),
          courses(x, y, 6, 5, -0.9, 40) - 0.35 * (y % 5 == 4),
          0.6 * smooth(x, y, 46, 30, 50) + 0.4 * smooth(x, y, 17, 13, 51),
          0.6 * smooth(x, y, 2.0, 6.0, 60) + 0.4 * (2 * hash(x, y / 2, 61) - 1),
      };
      for (int i = 0; i < PATTERNS; ++i)
        result[(static_cast<size_t>(i) * HEIGHT + y) * WIDTH + x] =
            static_cast<float>(std::clamp(values[i], -1.0, 1.0));
    }
  return result;
}
