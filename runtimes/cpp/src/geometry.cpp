#include "geometry.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "arrays.h"
#include "safetensors.h"
#include "text.h"

namespace sige {

using json = nlohmann::json;

constexpr int64_t MOST_TAPS = 1 << 12;  // along an axis

// The kernels trust what they are given, so everything that AxisTaps promises is checked here.
static AxisTaps axis_of(const Tensors& tensors, const std::string& prefix) {
  AxisTaps axis;
  Shape shape, sizes;
  const auto pair = tensors.read<int32_t>(prefix + ".shape", DType::INT32, sizes);
  if (pair.size() != 2 || pair[0] < 1 || pair[1] < 1) throw Damaged{prefix + ".shape is no source size and phases"};
  axis.source = pair[0];
  axis.phases = pair[1];
  axis.index = tensors.read<int32_t>(prefix + ".index", DType::INT32, shape);
  if (shape.size() != 2 || shape[0] < 1 || shape[1] < 1 || shape[0] > INT32_MAX || shape[1] > MOST_TAPS)
    throw Damaged{"Taps need an index of shape [n_out, k] with both positive, got " + listed(shape) + "."};
  axis.outputs = static_cast<int32_t>(shape[0]);
  axis.taps = static_cast<int32_t>(shape[1]);
  const auto [low, high] = std::minmax_element(axis.index.begin(), axis.index.end());
  if (*low < -1 || *high >= axis.source)
    throw Damaged{"Taps read coordinates " + std::to_string(*low) + ".." + std::to_string(*high) + " of a source of " +
                  std::to_string(axis.source) + "."};
  if (tensors.has(prefix + ".weight")) {
    axis.weight = tensors.read<float>(prefix + ".weight", DType::FLOAT32, sizes);
    if (sizes != shape ||
        !std::all_of(axis.weight.begin(), axis.weight.end(), [](float w) { return std::isfinite(w); }))
      throw Damaged{"Tap weights must be finite and of shape " + listed(shape) + "."};
  }
  if (tensors.has(prefix + ".phase")) axis.phase = tensors.read<int32_t>(prefix + ".phase", DType::INT32, sizes);
  if (axis.phase.empty() != (axis.phases == 1))
    throw Damaged{"Phases must be given exactly when there are several, got n_phases=" + std::to_string(axis.phases) +
                  "."};
  const auto outside = [&](int32_t phase) { return phase < 0 || phase >= axis.phases; };
  if (!axis.phase.empty() && (sizes != Shape{shape[0]} || std::any_of(axis.phase.begin(), axis.phase.end(), outside)))
    throw Damaged{"Phases must be [" + std::to_string(axis.outputs) + "] values in 0.." +
                  std::to_string(axis.phases - 1) + "."};
  return axis;
}

static void check_fit(const std::vector<Geometry>& geometries, const Manifest& manifest) {
  const auto fits = [&](const std::string& id, int32_t height, int32_t width) {
    const LevelSpec& level = manifest.level(id);
    return level.height == height && level.width == width;
  };
  const auto needs = [](const Geometry& g, const std::string& level, int32_t height, int32_t width) {
    throw Error(Kind::BUNDLE, "Geometry " + named(g.id) + " needs a level " + named(level) + " of (" +
                                  std::to_string(height) + ", " + std::to_string(width) +
                                  "); export the bundle again.");
  };
  for (const Geometry& g : geometries) {
    if (!fits(g.source, g.y.source, g.x.source)) needs(g, g.source, g.y.source, g.x.source);
    if (!fits(g.target, g.y.outputs, g.x.outputs)) needs(g, g.target, g.y.outputs, g.x.outputs);
  }
  for (const LevelSpec& first : manifest.levels) {
    std::set<std::string> seen;
    for (const LevelSpec* level = &first; level->geometry;) {
      const auto found = std::find_if(geometries.begin(), geometries.end(),
                                      [&](const Geometry& g) { return g.id == *level->geometry; });
      if (found == geometries.end() || found->target != level->id || !seen.insert(level->id).second)
        throw Error(Kind::BUNDLE, "Level " + named(level->id) + " names geometry " + named(*level->geometry) +
                                      ", which does not lead to it; export the bundle again.");
      level = &manifest.level(found->source);
    }
  }
}

std::vector<Geometry> read_geometries(const std::filesystem::path& file, const Manifest& manifest) {
  std::vector<Geometry> result;
  const auto parsed = [](const std::string& who, const char* how, const auto& read) {
    try {
      return read();
    } catch (const Damaged& error) {
      throw Error(Kind::BUNDLE, who + error.what + "); export the bundle " + how + ".");
    } catch (const json::exception& error) {
      throw Error(Kind::BUNDLE, who + error.what() + "); export the bundle " + how + ".");
    }
  };
  const Tensors tensors = parsed(named(file) + " is not a safetensors file (", "anew", [&] { return Tensors(file); });
  for (const GeometrySpec& spec : manifest.geometries)
    result.push_back(parsed("Geometry " + named(spec.id) + " is damaged (", "again", [&] {
      return Geometry{spec.id, spec.source, spec.target, axis_of(tensors, spec.id + ".y"),
                      axis_of(tensors, spec.id + ".x")};
    }));
  check_fit(result, manifest);
  return result;
}

}  // namespace sige
