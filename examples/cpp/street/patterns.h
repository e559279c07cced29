// The fixed patterns that the street network's textures are made of (examples/street/planes.py).
#pragma once

#include <vector>

constexpr int HEIGHT = 256, WIDTH = 512, PATTERNS = 7;

// [PATTERNS, HEIGHT, WIDTH], values in [-1, 1].
std::vector<float> patterns();
