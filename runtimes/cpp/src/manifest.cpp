#include "manifest.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

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

  std::string one_of(const std::vector<const char*>& known) const {
    std::string wanted;
    for (const char* one : known) {
      if (data_ == one) return one;
      wanted += (one == known.front() ? "" : one == known.back() ? " or " : ", ") + named(one);
    }
    fail("Input should be " + wanted);
  }

  int64_t integer(int64_t least) const {
    if (data_.is_boolean()) return Value(json(int{data_.get<bool>()}), where_).integer(least);  // as pydantic does
    if (!data_.is_number_integer() || (data_.is_number_unsigned() && data_.get<uint64_t>() > INT64_MAX))
      fail(std::string("Input should be a valid integer") +
           (data_.is_string()         ? ", unable to parse string as an integer"
            : data_.is_number_float() ? ", got a number with a fractional part"
                                      : ""));
    const int64_t value = data_.get<int64_t>();
    if (value < least) fail("Input should be greater than or equal to " + std::to_string(least));
    return value;
  }

  double number(double most = ANY) const {
    if (data_.is_boolean()) return static_cast<double>(integer(0));
    if (!data_.is_number() || !std::isfinite(data_.get<double>()))
      fail(std::string("Input should be a valid number") +
           (data_.is_string() ? ", unable to parse string as a number" : ""));
    const double value = data_.get<double>();
    if (value < 0) fail("Input should be greater than or equal to 0");
    if (value > most) fail("Input should be less than or equal to 1");
    return value;
  }

  void boolean() const {
    if (!data_.is_boolean())
      fail(std::string("Input should be a valid boolean") +
           (data_.is_string() || data_.is_number_integer() ? ", unable to interpret input" : ""));
  }

  DType dtype() const {
    return *dtype_named(one_of({"float16", "float32", "float64", "bool", "int8", "int16", "int32", "int64", "uint8",
                                "uint16", "uint32", "uint64"}));
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

  // Calls read(name, value) for each entry of an object.
  template <typename Read>
  void entries(Read read) const {
    if (!data_.is_object()) fail("Input should be a valid dictionary");
    for (const auto& [name, entry] : data_.items()) read(name, at(name, entry));
  }

  const json& data() const { return data_; }

 private:
  const json& data_;
  std::string where_;
};

// An object of a class of sige_deploy/manifest.py. Once its fields are read, `done` refuses any other.
class Object {
 public:
  Object(const Value& value, const char* name) : value_(value) {
    if (!value.data().is_object()) value.fail(std::string("Input should be a valid dictionary or instance of ") + name);
  }

  void done() const {
    for (const auto& [key, field] : value_.data().items())
      if (!known_.count(key)) value_.at(key, field).fail("Extra inputs are not permitted");
  }

  std::optional<Value> find(const char* key) const {
    known_.insert(key);
    const auto found = value_.data().find(key);
    return found == value_.data().end() ? std::nullopt : std::optional(value_.at(key, *found));
  }

  Value operator[](const char* key) const {
    const auto value = find(key);
    if (!value) value_.at(key, value_.data()).fail("Field required");
    return *value;
  }

  // A field that may be null.
  std::optional<Value> get(const char* key) const {
    const auto value = find(key);
    return value && value->data().is_null() ? std::nullopt : value;
  }

  std::optional<std::string> text(const char* key) const {
    const auto value = get(key);
    return value ? std::optional(value->text()) : std::nullopt;
  }

  int64_t integer(const char* key, int64_t least, int64_t otherwise) const {
    const auto value = find(key);
    return value ? value->integer(least) : otherwise;
  }

  double number(const char* key, double otherwise, double most = ANY) const {
    const auto value = find(key);
    return value ? value->number(most) : otherwise;
  }

 private:
  Value value_;
  mutable std::set<std::string> known_;
};

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
                 {}};
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

static FileSpec file_of(const Value& value) {
  const Object fields(value, "FileSpec");
  const std::string digest = fields["sha256"].text();
  if (digest.size() != 64 || digest.find_first_not_of("0123456789abcdef") != std::string::npos)
    fields["sha256"].fail("String should match pattern '^[0-9a-f]{64}$'");
  FileSpec spec{digest, fields["bytes"].integer(0)};
  fields.done();
  return spec;
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
  fields.number("gpu_dense_above", 1);
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
