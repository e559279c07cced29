#include "engine_folder.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>

#include "digest.h"
#include "fields.h"
#include "text.h"

namespace sige {

constexpr int ENGINE_SCHEMA = 1;
constexpr int64_t ENGINE_MANIFEST_LIMIT = 64 << 20;  // bytes
constexpr const char* ENGINE_NAMES[] = {"record.engine", "edit.engine", "dense.engine"};
constexpr const char* BUILD_ANEW = "; build the engines anew with 'sige-deploy build'.";

[[noreturn]] static void refuse_engine(const std::string& sentence) {
  throw Error(Kind::BUNDLE, sentence + BUILD_ANEW);
}

static std::string joined(const std::vector<std::string>& texts, const char* between = ", ") {
  std::string all;
  for (const std::string& text : texts) all += (all.empty() ? "" : between) + text;
  return all;
}

static std::string title(const std::string& flavour) {
  return flavour == "tensorrt-rtx" ? "TensorRT for RTX" : "TensorRT";
}

static std::string listed_capabilities(const std::vector<std::string>& capabilities) {
  return (capabilities.size() == 1 ? "compute capability " : "compute capabilities ") + joined(capabilities);
}

// The command that builds engines for a GPU.
static std::string rebuild(const Bundle& bundle, const std::string& flavour, std::string capability) {
  const std::string command = "sige-deploy build " + bundle.root().string() + " --target " + flavour;
  capability.erase(std::remove(capability.begin(), capability.end(), '.'), capability.end());
  return flavour == "tensorrt-rtx" ? command + " --targets sm" + capability : command;
}

// Fields that only the builder reads are checked all the same.
static void check_content(const Value& value) {
  const Object fields(value, "ContentSpec");
  fields["layers"].integer(1);
  fields["plugins"].entries([](const std::string&, const Value& plugin) { plugin.text(); });
  if (const auto stored = fields.get("stored")) stored->list([](const Value& name) { return name.text(); });
  fields.done();
}

static void check_profile(const Value& value) {
  value.entries([](const std::string&, const Value& rows) {
    if (rows.data().is_array() && rows.data().size() != 3) rows.fail("Tuple should have 3 items");
    rows.integers(INT64_MIN);
  });
}

static PluginSpec plugin_of(const Value& value) {
  const Object fields(value, "PluginSpec");
  PluginSpec spec{fields["api_version"].integer(INT64_MIN), fields["libsige_tensorrt"].matching("[0-9a-f]{64}"),
                  fields["libsige_kernels"].matching("[0-9a-f]{64}")};
  fields.done();
  return spec;
}

static void check_not_empty(const Value& value) {
  if (value.data().is_array() && value.data().empty())
    value.fail("List should have at least 1 item after validation, not 0");
}

static EngineManifest engine_of(const nlohmann::json& data) {
  const Value root(data, "");
  const Object fields(root, "EngineManifest");
  EngineManifest manifest;
  fields["schema_version"];  // known by now
  manifest.bundle = fields["bundle"].matching("[0-9a-f]{64}");
  manifest.flavour = fields["flavour"].one_of({"tensorrt", "tensorrt-rtx"});
  manifest.version = fields["version"].matching("\\d+\\.\\d+(\\.\\d+)*");
  check_not_empty(fields["capabilities"]);
  manifest.capabilities = fields["capabilities"].list([](const Value& c) { return c.matching("\\d+\\.\\d"); });
  fields.text("gpu");
  fields["precision"].text();
  manifest.plugin = plugin_of(fields["plugin"]);
  check_not_empty(fields["profiles"]);
  fields["profiles"].list([](const Value& profile) { return check_profile(profile), true; });
  fields["contents"].entries([](const std::string&, const Value& content) { check_content(content); });
  fields["files"].entries(
      [&](const std::string& name, const Value& file) { manifest.files.emplace(name, file_of(file)); });
  std::vector<std::string> names;
  for (const auto& [name, file] : manifest.files) names.push_back(name);
  if (!std::is_permutation(names.begin(), names.end(), std::begin(ENGINE_NAMES), std::end(ENGINE_NAMES)))
    fields["files"].fail("it lists " + (names.empty() ? "nothing" : joined(names)) + " instead of " +
                         joined({std::begin(ENGINE_NAMES), std::end(ENGINE_NAMES)}));
  fields["producer"].entries([](const std::string&, const Value& version) { version.text(); });
  fields.done();
  return manifest;
}

static EngineManifest parse_engine(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "engine.json";
  struct stat status {};
  if (::lstat(path.c_str(), &status)) refuse_engine("cannot read " + named(path) + " (" + std::strerror(errno) + ")");
  if (!S_ISREG(status.st_mode) || status.st_size > ENGINE_MANIFEST_LIMIT)
    refuse_engine(named(path) + " is not an engine manifest");
  std::ifstream file(path, std::ios::binary);
  if (!file) refuse_engine("cannot read " + named(path) + " (" + std::strerror(errno) + ")");
  nlohmann::json data;
  try {
    data = nlohmann::json::parse(file);
  } catch (const nlohmann::json::exception& error) {
    refuse_engine(named(path) + " is truncated or not JSON (" + error.what() + ")");
  }
  const auto version = data.is_object() ? data.value("schema_version", nlohmann::json()) : nlohmann::json();
  if (version != ENGINE_SCHEMA)
    refuse_engine(named(path) + " has schema_version " + (version.is_null() ? "None" : version.dump()) +
                  ", this sige_deploy reads " + std::to_string(ENGINE_SCHEMA));
  try {
    return engine_of(data);
  } catch (const Invalid& error) {
    refuse_engine(named(path) + " is not valid at " + error.where + ": " + error.what);
  }
}

std::filesystem::path find_engine(const Bundle& bundle, const std::string& flavour, const std::string& version,
                                  const std::string& capability) {
  std::vector<std::filesystem::path> folders;
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator(bundle.root() / "tensorrt", none))
    if (std::filesystem::exists(entry.path() / "engine.json", none)) folders.push_back(entry.path());
  std::sort(folders.begin(), folders.end());
  std::vector<std::string> others;
  for (const std::filesystem::path& folder : folders) {
    try {
      const EngineManifest found = parse_engine(folder);
      const auto& listed = found.capabilities;
      if (found.flavour == flavour && found.version == version &&
          std::find(listed.begin(), listed.end(), capability) != listed.end())
        return folder;
      others.push_back(title(found.flavour) + " " + found.version + " on " + listed_capabilities(listed));
    } catch (const Error&) {
      others.push_back("a damaged one in " + named(folder.filename()));
    }
  }
  throw Error(Kind::RUNTIME, "bundle " + named(bundle.root()) + " has no engine for " + title(flavour) + " " + version +
                                 " on compute capability " + capability + ", " +
                                 (others.empty() ? "and none for any other" : "only for " + joined(others, "; ")) +
                                 "; run '" + rebuild(bundle, flavour, capability) + "'.");
}

EngineManifest read_engine(const std::filesystem::path& folder) {
  EngineManifest manifest = parse_engine(folder);
  for (const char* name : ENGINE_NAMES) {
    const std::filesystem::path path = folder / name;
    const FileSpec& spec = manifest.files.at(name);
    const auto unreadable = [&] { refuse_engine("cannot read " + named(path) + " (" + std::strerror(errno) + ")"); };
    struct stat status {};
    if (::lstat(path.c_str(), &status)) unreadable();
    if (!S_ISREG(status.st_mode)) refuse_engine(named(path) + " is not a regular file");
    if (status.st_size != spec.bytes)
      refuse_engine(named(path) + " has " + std::to_string(status.st_size) + " bytes, its manifest says " +
                    std::to_string(spec.bytes) + ": it is truncated or of another engine");
    const std::string digest = sha256(path);
    if (digest.empty()) unreadable();
    if (digest != spec.sha256) refuse_engine(named(path) + " was altered: its SHA-256 is not its manifest's");
  }
  return manifest;
}

void check_engine(const EngineManifest& manifest, const std::string& flavour, const std::string& version,
                  const std::string& capability, const PluginSpec& plugin, const Bundle& bundle) {
  const std::string again = "; run '" + rebuild(bundle, flavour, capability) + "'.";
  const auto refuse = [&](const std::string& sentence) { throw Error(Kind::RUNTIME, sentence + again); };
  const std::string id = bundle.manifest().bundle_id();
  if (manifest.bundle != id)
    throw Error(Kind::BUNDLE, "the engines were built from bundle " + manifest.bundle.substr(0, 12) + ", " +
                                  named(bundle.root()) + " is " + id.substr(0, 12) + again);
  const std::string ours = title(flavour) + " " + version, theirs = title(manifest.flavour) + " " + manifest.version;
  if (ours != theirs) refuse("the engines were built by " + theirs + ", this is " + ours);
  const auto& listed = manifest.capabilities;
  if (std::find(listed.begin(), listed.end(), capability) == listed.end())
    refuse("the engines were built for " + listed_capabilities(listed) + ", this GPU has " + capability);
  if (manifest.plugin.api_version != plugin.api_version)
    refuse("the engines were built with kernels of API version " + std::to_string(manifest.plugin.api_version) +
           ", those installed have " + std::to_string(plugin.api_version));
  for (const auto& [name, digest] : {std::pair("libsige_tensorrt", &PluginSpec::libsige_tensorrt),
                                     {"libsige_kernels", &PluginSpec::libsige_kernels}})
    if (manifest.plugin.*digest != plugin.*digest)
      refuse(std::string("the engines were built with the ") + name + " whose SHA-256 begins with " +
             (manifest.plugin.*digest).substr(0, 12) + ", that of the installed one begins with " +
             (plugin.*digest).substr(0, 12));
}

}  // namespace sige
