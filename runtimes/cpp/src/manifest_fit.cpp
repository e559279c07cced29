// Whether the parts of a manifest fit together.
#include <algorithm>
#include <set>

#include "arrays.h"
#include "manifest.h"
#include "text.h"

namespace sige {

int64_t InputSpec::size(char kind) const {
  const size_t axis = axes.find(kind);
  return axis == std::string::npos ? 1 : shape[axis];
}

size_t Manifest::level_index(const std::string& id) const {
  for (size_t i = 0; i < levels.size(); ++i)
    if (levels[i].id == id) return i;
  throw Invalid{"", "level " + named(id) + " is not listed"};
}

const LevelSpec& Manifest::level(const std::string& id) const { return levels[level_index(id)]; }

double Manifest::active_fraction(const std::vector<int32_t>& counts) const {
  const bool counted = std::any_of(levels.begin(), levels.end(), [](const LevelSpec& l) { return l.macs > 0; });
  double touched = 0, total = 0;
  for (size_t i = 0; i < levels.size(); ++i) {
    const double pixels = static_cast<double>(levels[i].height * levels[i].width);
    const double work = counted ? static_cast<double>(levels[i].macs) : pixels;
    touched += work * (counts[i] / pixels);
    total += work;
  }
  return touched / total;
}

std::vector<const InputSpec*> Manifest::spatial() const {
  std::vector<const InputSpec*> result;
  for (const InputSpec& input : inputs)
    if (input.spatial()) result.push_back(&input);
  return result;
}

std::vector<const OutputSpec*> Manifest::spatial_outputs() const {
  std::vector<const OutputSpec*> result;
  for (const OutputSpec& output : outputs)
    if (output.level) result.push_back(&output);
  return result;
}

std::vector<const CacheSpec*> Manifest::row_caches() const {
  std::vector<const CacheSpec*> result;
  for (const CacheSpec& cache : caches)
    if (cache.rows) result.push_back(&cache);
  return result;
}

std::set<std::string> Manifest::edit_outputs() const {
  std::set<std::string> names;
  for (const OutputSpec& output : outputs) names.insert(output.rows());
  for (const CacheSpec* cache : row_caches()) names.insert(*cache->rows);
  return names;
}

template <typename Specs, typename Name>
static std::set<std::string> names_of(const char* what, const Specs& specs, Name name) {
  std::set<std::string> names;
  for (const auto& spec : specs)
    if (!names.insert(name(spec)).second)
      throw Invalid{"", std::string(what) + " " + named(name(spec)) + " is listed twice"};
  return names;
}

static int64_t pixels(const OutputSpec& output, char kind) {
  int64_t product = 1;
  for (const auto& axis : output.layout)
    for (const Atom& atom : axis)
      if (atom.kind == kind) product *= atom.size;
  return product;
}

void check_fit(const Manifest& manifest) {
  const auto by_name = [](const auto& spec) { return spec.name; };
  const auto by_id = [](const auto& spec) { return spec.id; };
  names_of("input", manifest.inputs, by_name);
  names_of("output", manifest.outputs, by_name);
  const std::set<std::string> levels = names_of("level", manifest.levels, by_id);
  const std::set<std::string> geometries = names_of("geometry", manifest.geometries, by_id);
  names_of("cache", manifest.caches, by_name);
  const auto listed = [&](const std::string& who, const std::optional<std::string>& level) {
    if (level && !levels.count(*level))
      throw Invalid{"", who + " names level " + named(*level) + ", which is not listed"};
  };
  for (const GeometrySpec& g : manifest.geometries) {
    listed("geometry " + named(g.id), g.source);
    listed("geometry " + named(g.id), g.target);
  }
  for (const InputSpec& i : manifest.inputs) listed("input " + named(i.name), i.level);
  for (const OutputSpec& o : manifest.outputs) listed("output " + named(o.name), o.level);
  for (const CacheSpec& c : manifest.caches) listed("cache " + named(c.name), c.level);
  for (const LevelSpec& level : manifest.levels) {
    if (level.geometry && !geometries.count(*level.geometry))
      throw Invalid{"",
                    "level " + named(level.id) + " names geometry " + named(*level.geometry) + ", which is not listed"};
    if (level.threshold != manifest.threshold)
      throw Invalid{"", "level " + named(level.id) + " has another threshold than the policy"};
  }
  if (manifest.spatial().empty()) throw Invalid{"", "no input is spatial"};
  const auto size = [](const LevelSpec& level) {
    return "(" + std::to_string(level.height) + ", " + std::to_string(level.width) + ")";
  };
  for (const InputSpec* i : manifest.spatial()) {
    const LevelSpec& level = manifest.level(*i->level);
    if (i->size('Y') != level.height || i->size('X') != level.width)
      throw Invalid{"", "input " + named(i->name) + " of size (" + std::to_string(i->size('Y')) + ", " +
                            std::to_string(i->size('X')) + ") does not fit its level " + size(level)};
  }
  for (const OutputSpec& o : manifest.outputs) {
    if (!o.level) continue;
    const LevelSpec& level = manifest.level(*o.level);
    if (pixels(o, 'Y') != level.height || pixels(o, 'X') != level.width)
      throw Invalid{"", "layout of output " + named(o.name) + " does not fit its level " + size(level)};
  }
  for (const CacheSpec& c : manifest.caches) {
    const bool base = c.kind == "base";
    if (c.rows && !base) throw Invalid{"", "static cache " + named(c.name) + " cannot have rows"};
    const LevelSpec* level = base && c.level ? &manifest.level(*c.level) : nullptr;
    if (base && (!level || c.shape.size() != 3 || c.shape[1] != count_of({level->height, level->width})))
      throw Invalid{"", "base cache " + named(c.name) + " is not [B, H*W, C] of a level"};
    if ((c.rows_offset && !c.rows_channels) || (!c.rows && c.rows_channels))
      throw Invalid{"", "cache " + named(c.name) + " names channels of no rows"};
    if (c.rows_channels && c.rows_offset + c.shape.back() > *c.rows_channels)
      throw Invalid{"", "cache " + named(c.name) + " does not fit in " + std::to_string(*c.rows_channels) +
                            " channels of its rows"};
    for (const std::string& id : c.reads) {
      const auto leads = [&](const GeometrySpec& g) { return g.id == id && g.source == c.level; };
      if (!base || std::none_of(manifest.geometries.begin(), manifest.geometries.end(), leads))
        throw Invalid{"", "cache " + named(c.name) + " cannot be read through geometry " + named(id)};
    }
  }
}

}  // namespace sige
