// The bundle's manifest, as sige_deploy/manifest.py defines it: what a session needs of it; all of it is checked.
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "sige/session.h"

namespace sige {

constexpr int SCHEMA_VERSION = 1;
constexpr int OP_SET_VERSION = 1;

struct FileSpec {
  std::string sha256;
  int64_t bytes;
};

// One factor of a dense axis. kind: 'N', 'Y', 'X' or 'C'.
struct Atom {
  char kind;
  int64_t size;
};

using Layout = std::vector<std::vector<Atom>>;  // by dense axis

struct InputSpec {
  std::string name;
  Shape shape;
  DType dtype;
  std::string role;
  std::optional<std::string> level;
  std::string axes;  // kind of each axis of a spatial input
  std::optional<std::string> reason;

  bool spatial() const { return role == "spatial"; }
  // Size along the axis of a kind, 1 where there is none.
  int64_t size(char kind) const;
};

struct OutputSpec {
  std::string name;
  Shape shape;
  DType dtype;
  std::optional<std::string> level;
  Layout layout;
  std::vector<int64_t> order;  // of the C atoms in the rows' channels

  // Name of the edit graph's output.
  std::string rows() const { return level ? "rows." + name : name; }
};

struct LevelSpec {
  std::string id;
  int64_t height;
  int64_t width;
  std::optional<std::string> geometry;
  int64_t granularity;
  int64_t dilation;
  double threshold;
  int64_t macs;
};

struct GeometrySpec {
  std::string id;
  std::string source;
  std::string target;
};

struct CacheSpec {
  std::string name;
  std::string kind;
  Shape shape;
  DType dtype;
  std::optional<std::string> level;
  std::optional<std::string> rows;
  std::optional<int64_t> rows_channels;  // of rows, where they have more than the cache
  int64_t rows_offset = 0;               // the first of them that is the cache's
  std::vector<std::string> reads;        // geometries
};

struct Manifest {
  std::vector<InputSpec> inputs;
  std::vector<OutputSpec> outputs;
  std::vector<LevelSpec> levels;
  std::vector<GeometrySpec> geometries;
  std::vector<CacheSpec> caches;
  double eps = 0;
  int64_t dilate = 1;
  double threshold = 0.3;
  double dense_above = 0.5;  // active fraction of multiply-adds above which an edit runs dense
  double gpu_dense_above = 1;
  std::string precision;
  std::map<std::string, FileSpec> files;

  const LevelSpec& level(const std::string& id) const;
  // SHA-256 (hex) of the file list: two bundles with the same id hold the same files.
  std::string bundle_id() const;
  size_t level_index(const std::string& id) const;
  // Share of the dense multiply-adds that active pixels of each level touch, by pixels in a network without any.
  double active_fraction(const std::vector<int32_t>& counts) const;
  std::vector<const InputSpec*> spatial() const;
  std::vector<const OutputSpec*> spatial_outputs() const;
  // Those that a commit writes rows into.
  std::vector<const CacheSpec*> row_caches() const;
  // Names of the edit graph's outputs.
  std::set<std::string> edit_outputs() const;
};

// What is wrong with a manifest, and where in it ("inputs.0.shape"; empty: the whole).
struct Invalid {
  std::string where;
  std::string what;
};

// Throws Invalid.
Manifest read_manifest(const nlohmann::json& data);

// Throws Invalid where the parts do not fit together.
void check_fit(const Manifest& manifest);

}  // namespace sige
