#include "save_load.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <nlohmann/json.hpp>
#include <random>
#include <system_error>
#include <vector>

#include "arrays.h"
#include "digest.h"
#include "text.h"

namespace sige {

// The header follows from the bundle alone (names, shapes, dtypes, bundle id), but for the digest: SHA-256 over the
// whole file with the digest's own 64 characters as zeros. So any altered byte is found.
constexpr const char* CACHES_FORMAT = "sige_deploy.caches";
constexpr int CACHES_VERSION = 1;
constexpr uint64_t HEADER_LIMIT = 64 << 20;  // bytes
constexpr size_t LENGTH = 8;                 // bytes that say how long the header is
constexpr size_t PIECE = 4 << 20;            // bytes read or written at once
static const std::string NO_DIGEST(64, '0');

// An array of the file.
struct SavedSpec {
  const char* part;
  std::string name;
  DType dtype;
  Shape shape;

  std::string full() const { return part + ("." + name); }
  size_t bytes() const { return static_cast<size_t>(count_of(shape)) * size_of(dtype); }
};

// Widest items first, so that all are aligned.
static std::vector<SavedSpec> saved_specs(const Manifest& manifest) {
  std::vector<SavedSpec> specs;
  for (const InputSpec& i : manifest.inputs) specs.push_back({"input", i.name, i.dtype, i.shape});
  for (const OutputSpec& o : manifest.outputs) specs.push_back({"output", o.name, o.dtype, o.shape});
  for (const CacheSpec& c : manifest.caches) specs.push_back({"cache", c.name, c.dtype, c.shape});
  std::sort(specs.begin(), specs.end(), [](const SavedSpec& a, const SavedSpec& b) {
    const size_t wide = size_of(a.dtype), other = size_of(b.dtype);
    return wide != other ? wide > other : a.full() < b.full();
  });
  return specs;
}

// Length and JSON header of a cache file of this bundle, digest still zero, padded to 8 bytes.
static std::string header_of(const Manifest& manifest) {
  nlohmann::ordered_json entries;
  entries["__metadata__"] = {{"format", CACHES_FORMAT},
                             {"version", std::to_string(CACHES_VERSION)},
                             {"bundle", manifest.bundle_id()},
                             {"sha256", NO_DIGEST}};
  size_t offset = 0;
  for (const SavedSpec& spec : saved_specs(manifest)) {
    const size_t end = offset + spec.bytes();
    entries[spec.full()] = {
        {"dtype", saved_name(spec.dtype)}, {"shape", spec.shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = entries.dump(-1, ' ', true);
  text.resize((text.size() + 7) / 8 * 8, ' ');
  std::string length;
  for (size_t i = 0; i < LENGTH; ++i) length += static_cast<char>(text.size() >> 8 * i & 255);
  return length + text;
}

// What a call of the system said, as an exception with its errno.
[[noreturn]] static void fail() { throw std::system_error(errno, std::generic_category()); }

// An open file. Its methods throw std::system_error.
class OpenFile {
 public:
  OpenFile(const std::filesystem::path& path, int flags) : descriptor_(::open(path.c_str(), flags | O_CLOEXEC, 0666)) {
    if (descriptor_ < 0) fail();
  }
  OpenFile(const OpenFile&) = delete;
  ~OpenFile() { ::close(descriptor_); }

  void write(const void* data, size_t bytes) const {
    for (const char* from = static_cast<const char*>(data); bytes;) {
      const ssize_t count = ::write(descriptor_, from, bytes);
      if (count < 0 && errno != EINTR) fail();
      from += std::max<ssize_t>(count, 0);
      bytes -= static_cast<size_t>(std::max<ssize_t>(count, 0));
    }
  }

  // Bytes read: fewer than asked for at the end of the file.
  size_t read(void* data, size_t bytes) const {
    size_t done = 0;
    while (done < bytes) {
      const ssize_t count = ::read(descriptor_, static_cast<char*>(data) + done, bytes - done);
      if (count < 0 && errno != EINTR) fail();
      if (count == 0) break;
      done += static_cast<size_t>(std::max<ssize_t>(count, 0));
    }
    return done;
  }

  void seek(size_t offset) const {
    if (::lseek(descriptor_, static_cast<off_t>(offset), SEEK_SET) < 0) fail();
  }

  void sync() const {
    if (::fsync(descriptor_)) fail();
  }

 private:
  int descriptor_;
};

// The file that `path` names, through links, as far as it exists.
static std::filesystem::path resolved(const std::filesystem::path& path) {
  std::error_code failed;
  std::filesystem::path real = std::filesystem::weakly_canonical(std::filesystem::absolute(path), failed);
  if (failed) real = std::filesystem::absolute(path);
  return real.has_filename() ? real : real.parent_path();
}

// A new hidden name in the folder of `path`: a rename between the two stays on one file system.
static std::filesystem::path beside(const std::filesystem::path& path) {
  std::random_device random;
  std::string hex;
  for (uint32_t bits = random(), i = 0; i < 8; ++i, bits >>= 4) hex += "0123456789abcdef"[bits & 15];
  return path.parent_path() / ("." + path.filename().string() + "." + hex + ".tmp");
}

// Has the names in a folder on the disk, where the system can.
static void sync_folder(const std::filesystem::path& folder) {
  try {
    OpenFile(folder, O_RDONLY).sync();
  } catch (const std::system_error&) {
  }
}

void save_state(const std::filesystem::path& file, const Manifest& manifest,
                const std::function<View(const std::string& part, const std::string& name)>& find) {
  const std::string header = header_of(manifest);
  Digest digest;
  digest.add(header.data(), header.size());
  try {
    const std::filesystem::path target = resolved(file), made = beside(target);
    const OpenFile out(made, O_WRONLY | O_CREAT | O_EXCL);
    try {
      out.write(header.data(), header.size());
      for (const SavedSpec& spec : saved_specs(manifest)) {
        const auto* data = static_cast<const unsigned char*>(find(spec.part, spec.name).data);
        for (size_t done = 0, bytes = spec.bytes(); done < bytes; done += PIECE) {
          const size_t piece = std::min(PIECE, bytes - done);
          digest.add(data + done, piece);
          out.write(data + done, piece);
        }
      }
      out.seek(header.find(NO_DIGEST));
      out.write(digest.hex().data(), NO_DIGEST.size());
      out.sync();
      if (::rename(made.c_str(), target.c_str())) fail();
    } catch (...) {
      ::unlink(made.c_str());
      throw;
    }
    sync_folder(target.parent_path());
  } catch (const std::system_error& error) {
    throw Error(Kind::CACHE, "cannot write caches to " + named(file) + " (" + std::strerror(error.code().value()) +
                                 "); choose a file in a folder that you can write to.");
  }
}

static Error damaged(const std::filesystem::path& file) {
  return {Kind::CACHE, named(file) + " is damaged or truncated; record again and save anew."};
}

// The digest that a header holds; throws for all but a header of this release and this bundle.
static std::string digest_in(const std::filesystem::path& file, const std::string& text, const Manifest& manifest) {
  const std::string hint = "; give the file that session.save wrote.";
  const auto json = nlohmann::json::parse(text, nullptr, false);
  const auto found = json.is_object() ? json.find("__metadata__") : json.end();
  const auto metadata = found != json.end() && found->is_object() ? *found : nlohmann::json::object();
  std::string values[4];
  for (int i = 0; i < 4; ++i) {
    const auto value = metadata.find((const char*[]){"format", "version", "bundle", "sha256"}[i]);
    if (value == metadata.end() || !value->is_string())
      throw Error(Kind::CACHE, named(file) + " is not a cache file or is damaged" + hint);
    values[i] = value->get<std::string>();
  }
  const auto& [format, version, bundle, digest] = values;
  if (version.empty() || version.size() > 9 || version.find_first_not_of("0123456789") != std::string::npos)
    throw Error(Kind::CACHE, named(file) + " is not a cache file or is damaged" + hint);
  if (format != CACHES_FORMAT) throw Error(Kind::CACHE, named(file) + " is not a cache file" + hint);
  if (std::stoi(version) > CACHES_VERSION)
    throw Error(Kind::CACHE, named(file) + " is a cache file of version " + std::to_string(std::stoi(version)) +
                                 ", this sige_deploy reads " + std::to_string(CACHES_VERSION) +
                                 "; upgrade sige_deploy.");
  if (bundle != manifest.bundle_id())
    throw Error(Kind::CACHE,
                named(file) + " holds caches of another bundle; open that bundle, or record anew with this one.");
  return digest;
}

static SavedState read_state(const std::filesystem::path& file, const Manifest& manifest) {
  const OpenFile in(file, O_RDONLY);
  std::string length(LENGTH, '\0');
  length.resize(in.read(length.data(), LENGTH));
  uint64_t bytes = 0;
  for (size_t i = length.size(); i-- > 0;) bytes = bytes << 8 | static_cast<unsigned char>(length[i]);
  std::string text;
  while (bytes <= HEADER_LIMIT && text.size() < bytes) {  // in pieces: the length may be wrong
    const size_t before = text.size(), piece = std::min<size_t>(PIECE, bytes - before);
    text.resize(before + piece);
    text.resize(before + in.read(text.data() + before, piece));
    if (text.size() < before + piece) break;
  }
  const std::string expected = digest_in(file, text, manifest), header = header_of(manifest);
  if (const size_t at = text.find(expected); at != std::string::npos) text.replace(at, expected.size(), NO_DIGEST);
  if (length + text != header) throw damaged(file);
  Digest digest;
  digest.add(header.data(), header.size());
  SavedState state;
  for (const SavedSpec& spec : saved_specs(manifest)) {
    Array& array = state[spec.part][spec.name] = empty(spec.dtype, spec.shape);
    for (size_t done = 0; done < array.bytes.size(); done += PIECE) {
      const size_t piece = std::min(PIECE, array.bytes.size() - done);
      if (in.read(&array.bytes[done], piece) != piece) throw damaged(file);
      digest.add(&array.bytes[done], piece);
    }
  }
  char more = 0;
  if (in.read(&more, 1) || digest.hex() != expected) throw damaged(file);
  return state;
}

SavedState load_state(const std::filesystem::path& file, const Manifest& manifest) {
  try {
    struct stat status {};
    const bool there = !::stat(file.c_str(), &status);
    if (!there && errno != ENOENT && errno != ENOTDIR && errno != ELOOP) fail();
    if (!there || !S_ISREG(status.st_mode))
      throw Error(Kind::CACHE,
                  "there is no cache file " + named(file) + "; give the file that session.save wrote.");
    return read_state(file, manifest);
  } catch (const std::system_error& error) {
    throw Error(Kind::CACHE, "cannot read caches from " + named(file) + " (" +
                                 std::strerror(error.code().value()) + "); give the file that session.save wrote.");
  }
}

}  // namespace sige
