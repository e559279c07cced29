#include "bundle.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "digest.h"
#include "text.h"

namespace sige {

namespace fs = std::filesystem;
using json = nlohmann::json;

constexpr int64_t MANIFEST_LIMIT = 64 << 20;  // bytes
constexpr const char* REQUIRED[] = {"record.onnx", "edit.onnx",           "edit_inlined.onnx",
                                    "dense.onnx",  "weights.safetensors", "geometry.safetensors"};

[[noreturn]] static void refuse(const std::string& sentence) { throw Error(Kind::BUNDLE, sentence); }

// A file read from its beginning to its end.
class File {
 public:
  explicit File(const fs::path& path) : descriptor_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {}
  File(const File&) = delete;
  ~File() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  // Bytes read; 0 at the end, -1 with errno on failure.
  ssize_t read(char* buffer, size_t bytes) const { return descriptor_ < 0 ? -1 : ::read(descriptor_, buffer, bytes); }

 private:
  int descriptor_;
};

static json read_json(const fs::path& root) {
  const fs::path path = root / "manifest.json";
  const auto unreadable = [&] {
    refuse("cannot read " + named(path) + " (" + std::strerror(errno) +
           "); expected the folder that sige_deploy.export wrote.");
  };
  struct stat status {};
  if (::lstat(path.c_str(), &status)) unreadable();
  if (!S_ISREG(status.st_mode) || status.st_size > MANIFEST_LIMIT)
    refuse(named(path) + " is not a manifest; export the bundle anew.");
  const File file(path);
  std::string text(static_cast<size_t>(status.st_size), '\0');
  for (size_t done = 0; done < text.size();) {
    const ssize_t count = file.read(&text[done], text.size() - done);
    if (count < 0) unreadable();
    if (count == 0) text.resize(done);
    done += static_cast<size_t>(count);
  }
  try {
    return json::parse(text);
  } catch (const json::exception& error) {
    refuse(named(path) + " is truncated or not JSON (" + error.what() + "); copy or export the bundle anew.");
  }
}

// Versions first: a newer schema may differ anywhere.
static Manifest parse(const std::string& root, const json& data) {
  const std::string who = "the manifest of bundle " + named(root);
  if (!data.is_object()) refuse(who + " is not a JSON object; export the bundle anew.");
  for (const auto& [key, known] : {std::pair("schema_version", SCHEMA_VERSION), {"op_set_version", OP_SET_VERSION}}) {
    const json version = data.value(key, json());
    if (!version.is_number_integer()) refuse(who + " has no " + key + "; export the bundle anew.");
    const std::string has =
        "bundle " + named(root) + " has " + key + " " + version.dump() + ", this sige_deploy reads ";
    if (version > known) refuse(has + "up to " + std::to_string(known) + "; upgrade sige_deploy.");
    if (version < known) refuse(has + std::to_string(known) + "; export the bundle anew.");
  }
  try {
    return read_manifest(data);
  } catch (const Invalid& error) {
    refuse(who + " is not valid" + (error.where.empty() ? "" : " at " + error.where) + ": " + error.what +
           "; export the bundle anew.");
  }
}

Bundle::Bundle(const fs::path& folder) : root_(fs::absolute(folder).lexically_normal()) {
  if (!root_.has_filename()) root_ = root_.parent_path();
  std::error_code none;
  if (!fs::is_directory(root_, none))
    refuse("there is no bundle at " + named(root_) + "; expected the folder that sige_deploy.export wrote.");
  manifest_ = parse(root_, read_json(root_));
  for (const char* name : REQUIRED)
    if (!manifest_.files.count(name))
      refuse("the manifest of bundle " + named(root_) + " does not list " + named(name) + "; export the bundle anew.");
  stamps_ = stamps();
  for (const auto& [name, spec] : manifest_.files) check_file(name, spec);
}

fs::path Bundle::path(const std::string& name) const {
  if (stamps() != stamps_) refuse("bundle " + named(root_) + " changed since it was opened; open it again.");
  return root_ / name;
}

Bundle::Stamps Bundle::stamps() const {
  Stamps result;
  for (const auto& [name, spec] : manifest_.files) {
    struct stat status {};
    if (::stat((root_ / name).c_str(), &status)) status = {};
    result.emplace_back(status.st_ino, status.st_mtim.tv_sec, status.st_mtim.tv_nsec, status.st_size);
  }
  return result;
}

void Bundle::check_file(const std::string& name, const FileSpec& spec) const {
  const fs::path path = root_ / name;
  const auto unreadable = [&](const char* why) {
    refuse("cannot read " + named(path) + " (" + why + "); copy or export the bundle anew.");
  };
  std::error_code failed;
  const fs::path real = fs::weakly_canonical(path, failed), real_root = fs::canonical(root_, failed);
  if (std::mismatch(real_root.begin(), real_root.end(), real.begin(), real.end()).first != real_root.end())
    refuse(named(name) + " of bundle " + named(root_) +
           " is a link that leaves the bundle; copy the file itself into the bundle.");
  struct stat status {};
  if (::stat(path.c_str(), &status)) unreadable(std::strerror(errno));
  if (!S_ISREG(status.st_mode)) refuse(named(path) + " is not a regular file; copy or export the bundle anew.");
  if (status.st_size != spec.bytes)
    refuse(named(path) + " has " + std::to_string(status.st_size) + " bytes, the manifest says " +
           std::to_string(spec.bytes) + ": it is truncated or of another bundle; copy or export the bundle anew.");
  const std::string digest = sha256(path);
  if (digest.empty()) unreadable(std::strerror(errno));
  if (digest != spec.sha256)
    refuse(named(path) + " was altered: its SHA-256 is not the manifest's; copy or export the bundle anew.");
}

}  // namespace sige
