// PNG files.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

struct Picture {
  int height = 0;
  int width = 0;
  std::vector<uint8_t> pixels;  // [height, width, channels]
};

// One channel. Both throw std::runtime_error with one sentence.
Picture read_grey(const std::string& file);

// Three channels.
void write_colour(const std::string& file, const Picture& picture);
