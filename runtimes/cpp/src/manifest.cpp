#include "manifest.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "arrays.h"
#include "digest.h"
#include "text.h"

namespace sige {

using json = nlohmann::json;

constexpr double ANY = std::numeric_limits<double>::max();

// A value of the manifest and where it is.
class Value {
 public:
  Value(const json& data, std::string where) : data_(data), where_(std::move(where)) {}

  [[noreturn]] void fail(const std::string& what) const { throw Invalid{where_, what}; }

  Value at(const std::string& key, const json& data) const { return {data, where_.empty() ? key : where_ + "." + key}; }

  std::string text() const {
    if (!data_.is_string()) fail("Input should be a valid string");
    return data_.get<std::string>();
  }

  std::string one_of(std::initializer_list<const char*> known) const {
    const std::string value = text();
    if (std::find(known.begin(), known.end(), value) == known.end()) fail("'" + value + "' is not known here");
    return value;
  }

  int64_t integer(int64_t least) const {
    if (!data_.is_number_integer() || (data_.is_number_unsigned() && data_.get<uint64_t>() > INT64_MAX))
      fail("Input should be a valid integer");
    const int64_t value = data_.get<int64_t>();
    if (value < least) fail("Input should be greater than or equal to " + std::to_string(least));
    return value;
  }

  double number(double most = ANY) const {
    if (!data_.is_number() || !std::isfinite(data_.get<double>())) fail("Input should be a valid number");
    const double value = data_.get<double>();
    if (value < 0) fail("Input should be greater than or equal to 0");
    if (value > most) fail("Input should be less than or equal to 1");
    return value;
  }

  DType dtype() const {
    const std::optional<DType> found = dtype_named(text());
    if (!found) fail("'" + text() + "' is no dtype");
    return *found;
  }

  template <typename Read>
  auto list(Read read) const {
    if (!data_.is_array()) fail("Input should be a valid list");
    std::vector<decltype(read(*this))> result;
    for (size_t i = 0; i < data_.size(); ++i) result.push_back(read(at(std::to_string(i), data_[i])));
    return result;
  }

  Shape integers(int64_t least) const {
    return list([least](const Value& value) { return value.integer(least); });
  }

  const json& data() const { return data_; }

 private:
  const json& data_;
  std::string where_;
};

// An object whose fields are all known.
class Object {
 public:
  Object(const Value& value, std::initializer_list<const char*> known) : value_(value) {
    if (!value.data().is_object()) value.fail("Input should be a valid dictionary");
    for (const auto& [key, field] : value.data().items())
      if (std::find(known.begin(), known.end(), key) == known.end())
        value.at(key, field).fail("Extra inputs are not permitted");
  }

  Value operator[](const char* key) const {
    const auto found = value_.data().find(key);
    if (found == value_.data().end()) value_.at(key, value_.data()).fail("Field required");
    return value_.at(key, *found);
  }

  std::optional<Value> get(const char* key) const {
    const auto found = value_.data().find(key);
    if (found == value_.data().end() || found->is_null()) return std::nullopt;
    return value_.at(key, *found);
  }

  std::optional<std::string> text(const char* key) const {
    const auto value = get(key);
    return value ? std::optional(value->text()) : std::nullopt;
  }

  int64_t integer(const char* key, int64_t least, int64_t otherwise) const {
    const auto value = get(key);
    return value ? value->integer(least) : otherwise;
  }

  double number(const char* key, double otherwise, double most = ANY) const {
    const auto value = get(key);
    return value ? value->number(most) : otherwise;
  }

 private:
  Value value_;
};

static char kind_of(const Value& value) { return value.one_of({"N", "Y", "X", "C"})[0]; }

static InputSpec input_of(const Value& value) {
  const Object fields(value, {"name", "shape", "dtype", "role", "level", "axes", "reason"});
  InputSpec spec{fields["name"].text(),   fields["shape"].integers(0),
                 fields["dtype"].dtype(), fields["role"].one_of({"spatial", "pinned", "free"}),
                 fields.text("level"),    "",
                 fields.text("reason")};
  const auto axes = fields.get("axes");
  if (axes)
    for (char kind : axes->list(kind_of)) spec.axes += kind;
  if (!spec.spatial()) return spec;
  if (!spec.level || !axes) value.fail("spatial input " + named(spec.name) + " lacks its level or axes");
  std::string sorted = spec.axes;
  std::sort(sorted.begin(), sorted.end());
  if (spec.axes.size() != spec.shape.size() || std::unique(sorted.begin(), sorted.end()) != sorted.end())
    value.fail("axes " + spec.axes + " of input " + named(spec.name) + " do not fit its shape " + listed(spec.shape));
  if (spec.axes.find('Y') == std::string::npos || spec.axes.find('X') == std::string::npos)
    value.fail("axes " + spec.axes + " of spatial input " + named(spec.name) + " lack Y or X");
  return spec;
}

static Atom atom_of(const Value& value) {
  if (!value.data().is_array() || value.data().size() != 2) value.fail("Input should be a valid tuple");
  return {kind_of(value.at("0", value.data()[0])), value.at("1", value.data()[1]).integer(1)};
}

static OutputSpec output_of(const Value& value) {
  const Object fields(value, {"name", "shape", "dtype", "level", "layout", "order"});
  OutputSpec spec{
      fields["name"].text(), fields["shape"].integers(0), fields["dtype"].dtype(), fields.text("level"), {}, {}};
  const auto layout = fields.get("layout"), order = fields.get("order");
  if (layout) spec.layout = layout->list([](const Value& axis) { return axis.list(atom_of); });
  if (order) spec.order = order->integers(0);
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
  const Object fields(value, {"id", "height", "width", "geometry", "granularity", "dilation", "threshold", "macs"});
  return {fields["id"].text(),
          fields["height"].integer(1),
          fields["width"].integer(1),
          fields.text("geometry"),
          fields.integer("granularity", 1, 1),
          fields.integer("dilation", 0, 1),
          fields.number("threshold", 0.3, 1),
          fields.integer("macs", 0, 0)};
}

static GeometrySpec geometry_of(const Value& value) {
  const Object fields(value, {"id", "source", "target"});
  return {fields["id"].text(), fields["source"].text(), fields["target"].text()};
}

static CacheSpec cache_of(const Value& value) {
  const Object fields(value, {"name", "kind", "shape", "dtype", "level", "rows", "reads"});
  return {fields["name"].text(),       fields["kind"].one_of({"base", "static"}),
          fields["shape"].integers(0), fields["dtype"].dtype(),
          fields.text("level"),        fields.text("rows")};
}

static FileSpec file_of(const Value& value) {
  const Object fields(value, {"sha256", "bytes"});
  const std::string digest = fields["sha256"].text();
  if (digest.size() != 64 || digest.find_first_not_of("0123456789abcdef") != std::string::npos)
    fields["sha256"].fail("String should match pattern '^[0-9a-f]{64}$'");
  return {digest, fields["bytes"].integer(0)};
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

Manifest read_manifest(const json& data) {
  const Value root(data, "");
  const Object fields(root, {"schema_version", "op_set_version", "name", "inputs", "outputs", "levels", "geometries",
                             "caches", "policy", "planner", "islands", "refusals", "precision", "launches", "macs",
                             "parameters", "files", "producer"});
  Manifest manifest;
  fields["name"].text();
  manifest.inputs = fields["inputs"].list(input_of);
  manifest.outputs = fields["outputs"].list(output_of);
  manifest.levels = fields["levels"].list(level_of);
  if (const auto list = fields.get("geometries")) manifest.geometries = list->list(geometry_of);
  if (const auto list = fields.get("caches")) manifest.caches = list->list(cache_of);
  if (const auto value = fields.get("policy")) {
    const Object policy(*value, {"eps", "dilate", "threshold", "statistics"});
    manifest.eps = policy.number("eps", 0);
    manifest.dilate = policy.integer("dilate", 0, 1);
    manifest.threshold = policy.number("threshold", 0.3, 1);
  }
  if (const auto value = fields.get("planner")) {
    const Object planner(*value, {"dense_above", "gpu_dense_above", "calibrated"});
    manifest.dense_above = planner.number("dense_above", 0.5);
  }
  manifest.precision = fields["precision"].text();
  fields["macs"].integer(0);
  fields["parameters"].integer(0);
  if (const auto files = fields.get("files")) {
    if (!files->data().is_object()) files->fail("Input should be a valid dictionary");
    for (const auto& [name, spec] : files->data().items()) {
      if (!stays_inside(name))
        files->fail("file name " + named(name) + " is not a plain relative path inside the bundle");
      manifest.files.emplace(name, file_of(files->at(name, spec)));
    }
  }
  check_fit(manifest);
  return manifest;
}

}  // namespace sige
