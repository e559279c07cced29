// Where neighbourhoods read, from geometry.safetensors (sige_deploy/geometry.py).
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "manifest.h"

namespace sige {

// Taps along one axis: index, weight [outputs, taps], phase [outputs]; weight and phase may be empty.
struct AxisTaps {
  std::vector<int32_t> index;
  std::vector<float> weight;
  std::vector<int32_t> phase;
  int32_t outputs = 0;
  int32_t taps = 0;
  int32_t source = 0;
  int32_t phases = 1;
};

struct Geometry {
  std::string id;
  std::string source;
  std::string target;
  AxisTaps y;
  AxisTaps x;

  int64_t taps() const { return int64_t{y.taps} * x.taps; }
  bool weighted() const { return !y.weight.empty() || !x.weight.empty(); }
};

// The manifest's geometries, in its order; throws Error where they or the levels do not fit.
std::vector<Geometry> read_geometries(const std::filesystem::path& file, const Manifest& manifest);

}  // namespace sige
