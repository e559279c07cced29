#include "manifest.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "arrays.h"
#include "digest.h"
#include "fields.h"
#include "text.h"

namespace sige {

using json = nlohmann::json;

static char kind_of(const Value& value) { return value.one_of({"N", "Y", "X", "C"})[0]; }

static InputSpec input_of(const Value& value) {
  const Object fields(value, "InputSpec");
  InputSpec spec{fields["name"].text(),   fields["shape"].integers(0),
                 fields["dtype"].dtype(), fields["role"].one_of({"spatial", "pinned", "free"}),
                 fields.text("level"),    "",
                 {}};
  const auto axes = fields.get("axes");
  std::vector<std::string> kinds;
  if (axes)
    for (char kind : axes->list(kind_of)) kinds.emplace_back(1, kind);
  for (const std::string& kind : kinds) spec.axes += kind;
  spec.reason = fields.text("reason");
  fields.done();
  if (!spec.spatial()) return spec;
  if (!spec.level || !axes) value.fail("spatial input " + named(spec.name) + " lacks its level or axes");
  std::string sorted = spec.axes;
  std::sort(sorted.begin(), sorted.end());
  const std::string all = "axes [" + listed(kinds) + "] of ";
  if (spec.axes.size() != spec.shape.size() || std::unique(sorted.begin(), sorted.end()) != sorted.end())
    value.fail(all + "input " + named(spec.name) + " do not fit its shape " + listed(spec.shape));
  if (spec.axes.find('Y') == std::string::npos || spec.axes.find('X') == std::string::npos)
    value.fail(all + "spatial input " + named(spec.name) + " lack Y or X");
  return spec;
}

static Atom atom_of(const Value& value) {
  const json& pair = value.data();
  if (!pair.is_array()) value.fail("Input should be a valid tuple");
  if (pair.size() > 2)
    value.fail("Tuple should have at most 2 items after validation, not " + std::to_string(pair.size()));
  const auto item = [&](size_t i) {
    if (i >= pair.size()) value.at(std::to_string(i), pair).fail("Field required");
    return value.at(std::to_string(i), pair[i]);
  };
  return {kind_of(item(0)), item(1).integer(1)};
}

static OutputSpec output_of(const Value& value) {
  const Object fields(value, "OutputSpec");
  OutputSpec spec{
      fields["name"].text(), fields["shape"].integers(0), fields["dtype"].dtype(), fields.text("level"), {}, {}};
  const auto layout = fields.get("layout"), order = fields.get("order");
  if (layout) spec.layout = layout->list([](const Value& axis) { return axis.list(atom_of); });
  if (order) spec.order = order->integers(0);
  fields.done();
  if (!spec.level) return spec;
  if (!layout || !order) value.fail("spatial output " + named(spec.name) + " lacks its layout or order");
  Shape sizes;
  int64_t channels = 0;
  for (const auto& axis : spec.layout) {
    Shape factors;
    for (const Atom& atom : axis) {
      factors.push_back(atom.size);
      channels += atom.kind == 'C';
    }
    sizes.push_back(count_of(factors));
  }
  if (sizes != spec.shape)
    value.fail("layout of output " + named(spec.name) + " gives shape " + listed(sizes) + ", not " +
               listed(spec.shape));
  Shape sorted = spec.order;
  std::sort(sorted.begin(), sorted.end());
  bool fits = static_cast<int64_t>(sorted.size()) == channels;
  for (size_t i = 0; fits && i < sorted.size(); ++i) fits = sorted[i] == static_cast<int64_t>(i);
  if (!fits)
    value.fail("order " + listed(spec.order) + " of output " + named(spec.name) + " is no order of its " +
               std::to_string(channels) + " C atoms");
  return spec;
}

static LevelSpec level_of(const Value& value) {
  const Object fields(value, "LevelSpec");
  LevelSpec spec{fields["id"].text(),
                 fields["height"].integer(1),
                 fields["width"].integer(1),
                 fields.text("geometry"),
                 fields.integer("granularity", 1, 1),
                 fields.integer("dilation", 0, 1),
                 fields.number("threshold", 0.3, 1),
                 fields.integer("macs", 0, 0)};
  fields.done();
  return spec;
}

static GeometrySpec geometry_of(const Value& value) {
  const Object fields(value, "GeometrySpec");
  GeometrySpec spec{fields["id"].text(), fields["source"].text(), fields["target"].text()};
  fields.done();
  return spec;
}

static CacheSpec cache_of(const Value& value) {
  const Object fields(value, "CacheSpec");
  CacheSpec spec{fields["name"].text(),       fields["kind"].one_of({"base", "static"}),
                 fields["shape"].integers(0), fields["dtype"].dtype(),
                 fields.text("level"),        fields.text("rows"),
                 {},
                 0,
                 {}};
  if (const auto channels = fields.get("rows_channels")) spec.rows_channels = channels->integer(1);
  spec.rows_offset = fields.integer("rows_offset", 0, 0);
  if (const auto reads = fields.get("reads")) spec.reads = reads->list([](const Value& id) { return id.text(); });
  fields.done();
  return spec;
}

// What only people read: an island, or a refusal of the graph pass.
static bool remark_of(const Value& value, const char* name, bool sized) {
  const Object fields(value, name);
  for (const char* key : {"node", "op", "reason"}) fields[key].text();
  if (sized) fields.integer("bytes", 0, 0);
  fields.done();
  return true;
}


// A plain relative POSIX path.
static bool stays_inside(const std::string& name) {
  if (name.empty() || name == "manifest.json" || name.find_first_of(std::string("\\:\0", 3)) != std::string::npos)
    return false;
  for (size_t start = 0; start <= name.size();) {
    const size_t end = std::min(name.find('/', start), name.size());
    const std::string part = name.substr(start, end - start);
    if (part.empty() || part == "." || part == "..") return false;
    start = end + 1;
  }
  return true;
}

// The text that Python's json.dumps(..., sort_keys=True) gives.
std::string Manifest::bundle_id() const {
  std::string text;
  for (const auto& [name, spec] : files)
    text += (text.empty() ? "{" : ", ") + json(name).dump(-1, ' ', true) + ": {\"bytes\": " +
            std::to_string(spec.bytes) + ", \"sha256\": \"" + spec.sha256 + "\"}";
  text += text.empty() ? "{}" : "}";
  Digest digest;
  digest.add(text.data(), text.size());
  return digest.hex();
}

static void policy_of(const Value& value, Manifest& manifest) {
  const Object fields(value, "PolicySpec");
  manifest.eps = fields.number("eps", 0);
  manifest.dilate = fields.integer("dilate", 0, 1);
  manifest.threshold = fields.number("threshold", 0.3, 1);
  if (const auto statistics = fields.find("statistics")) statistics->one_of({"recorded", "fresh"});
  fields.done();
}

static void planner_of(const Value& value, Manifest& manifest) {
  const Object fields(value, "PlannerSpec");
  manifest.dense_above = fields.number("dense_above", 0.5);
  manifest.gpu_dense_above = fields.number("gpu_dense_above", 1);
  if (const auto calibrated = fields.find("calibrated")) calibrated->boolean();
  fields.done();
}

Manifest read_manifest(const json& data) {
  const Object fields(Value(data, ""), "Manifest");
  Manifest manifest;
  for (const char* checked_before : {"schema_version", "op_set_version"}) fields.find(checked_before);
  fields["name"].text();
  manifest.inputs = fields["inputs"].list(input_of);
  manifest.outputs = fields["outputs"].list(output_of);
  manifest.levels = fields["levels"].list(level_of);
  if (const auto list = fields.find("geometries")) manifest.geometries = list->list(geometry_of);
  if (const auto list = fields.find("caches")) manifest.caches = list->list(cache_of);
  if (const auto policy = fields.find("policy")) policy_of(*policy, manifest);
  if (const auto planner = fields.find("planner")) planner_of(*planner, manifest);
  if (const auto list = fields.find("islands"))
    list->list([](const Value& island) { return remark_of(island, "IslandSpec", true); });
  if (const auto list = fields.find("refusals"))
    list->list([](const Value& refusal) { return remark_of(refusal, "RefusalSpec", false); });
  manifest.precision = fields["precision"].text();
  if (const auto launches = fields.find("launches"))
    launches->entries([](const std::string&, const Value& count) { count.integer(1); });
  fields["macs"].integer(0);
  fields["parameters"].integer(0);
  if (const auto files = fields.find("files")) {
    files->entries([&](const std::string& name, const Value& spec) { manifest.files.emplace(name, file_of(spec)); });
    for (const auto& [name, spec] : manifest.files)
      if (!stays_inside(name))
        files->fail("file name " + named(name) + " is not a plain relative path inside the bundle");
  }
  if (const auto producer = fields.find("producer"))
    producer->entries([](const std::string&, const Value& version) { version.text(); });
  fields.done();
  check_fit(manifest);
  return manifest;
}

}  // namespace sige
