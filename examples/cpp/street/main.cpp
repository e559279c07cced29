// Paints a street from a label map, then paints an edited label map at the cost of what changed.
//
//     street <bundle> <label map.png> <edited label map.png> <picture.png>
//
// The bundle is the one that `sige-deploy demo` exports; label maps are grey PNGs of 256 x 512 with the classes of
// examples/street/labels.py.
#include <algorithm>
#include <cmath>
#include <iostream>

#include "patterns.h"
#include "png.h"
#include "sige/session.h"

constexpr int CLASSES = 24, SHADE = 32;  // SHADE: flag beside the class
constexpr int CHANNELS = CLASSES + 1 + PATTERNS;
constexpr size_t PIXELS = size_t{HEIGHT} * WIDTH;

// The network's input: a channel per class, one that is 1 in the shade, then the patterns.
static std::vector<float> encoded(const std::string& file) {
  const Picture label = read_grey(file);
  if (label.height != HEIGHT || label.width != WIDTH)
    throw std::runtime_error("'" + file + "' is no label map of 256 x 512 pixels.");
  static const std::vector<float> fixed = patterns();
  std::vector<float> channels(CHANNELS * PIXELS);
  for (size_t pixel = 0; pixel < PIXELS; ++pixel) {
    const int value = label.pixels[pixel];
    if (value % SHADE >= CLASSES) throw std::runtime_error("'" + file + "' holds a class that there is not.");
    channels[static_cast<size_t>(value % SHADE) * PIXELS + pixel] = 1;
    channels[CLASSES * PIXELS + pixel] = value >= SHADE ? 1 : 0;
  }
  std::copy(fixed.begin(), fixed.end(), channels.begin() + (CLASSES + 1) * PIXELS);
  return channels;
}

// [1, 3, HEIGHT, WIDTH] in [-1, 1] as a picture.
static Picture painted(const sige::Array& output) {
  Picture picture{HEIGHT, WIDTH, std::vector<uint8_t>(3 * PIXELS)};
  for (size_t channel = 0; channel < 3; ++channel)
    for (size_t pixel = 0; pixel < PIXELS; ++pixel) {
      const float value = std::clamp(output.data<float>()[channel * PIXELS + pixel], -1.0f, 1.0f);
      picture.pixels[3 * pixel + channel] = static_cast<uint8_t>(std::nearbyint((value + 1) * 127.5f));
    }
  return picture;
}

static void say(const sige::Report& report) {
  std::cout << report.path << ": " << 100 * report.active_fraction << " % of the work, " << report.milliseconds
            << " ms, " << report.cache_bytes / 1000000 << " MB of caches (" << report.runtime << ")\n";
}

int main(int count, char** arguments) {
  if (count != 5) {
    std::cerr << "street <bundle> <label map.png> <edited label map.png> <picture.png>\n";
    return 2;
  }
  try {
    sige::Session session = sige::Session::open(arguments[1]);
    const sige::Signature& input = session.inputs().at(0);
    const std::vector<float> before = encoded(arguments[2]), after = encoded(arguments[3]);
    const sige::Shape shape{1, CHANNELS, HEIGHT, WIDTH};
    session.record({{input.name, {shape, before.data()}}});
    say(session.report());
    const sige::Outputs outputs = session.edit({{input.name, {shape, after.data()}}});
    say(session.report());
    write_colour(arguments[4], painted(outputs.begin()->second));
  } catch (const std::exception& error) {
    std::cerr << "street: " << error.what() << "\n";
    return 1;
  }
}
