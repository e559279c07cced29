// Embeds bundles in C++ applications: record an image once, then edit it at a cost in proportion to what changed.
// See docs/cpp.md.
#ifndef SIGE_SESSION_H
#define SIGE_SESSION_H

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#define SIGE_CPP_API __attribute__((visibility("default")))

namespace sige {

// What kind of mistake an Error is about; the classes of the Python package.
enum class Kind {
  BUNDLE,   // BundleError: missing, truncated, altered, unsafe, or of an unknown version
  INPUT,    // InputError: an argument of the wrong name, shape, dtype or contents
  STATE,    // StateError: a call that came too early
  RUNTIME,  // RuntimeFailure: the engine is too old, or failed
  CACHE,    // CacheError: a cache file that is damaged, foreign, or cannot be written
};

// Every error that this library throws on purpose; what() is one clear sentence.
class SIGE_CPP_API Error : public std::runtime_error {
 public:
  Error(Kind kind, const std::string& sentence) : std::runtime_error(sentence), kind_(kind) {}
  Kind kind() const noexcept { return kind_; }

 private:
  Kind kind_;
};

enum class DType { FLOAT16, FLOAT32, FLOAT64, BOOL, INT8, INT16, INT32, INT64, UINT8, UINT16, UINT32, UINT64 };

// "float32", "bool", ...; bytes of an element.
SIGE_CPP_API const char* name_of(DType dtype);
SIGE_CPP_API size_t size_of(DType dtype);

using Shape = std::vector<int64_t>;

// Where an array lies: in host memory, or in that of the session's GPU.
enum class Place { HOST, CUDA };

// An array that the caller owns: dense, row-major, alive until the call returns.
struct View {
  DType dtype;
  Shape shape;
  const void* data;
  Place place;

  View(DType type, Shape sizes, const void* values, Place where = Place::HOST)
      : dtype(type), shape(std::move(sizes)), data(values), place(where) {}
  View(Shape sizes, const float* values, Place where = Place::HOST)
      : View(DType::FLOAT32, std::move(sizes), values, where) {}
};

// An array that the library made: dense, row-major. bytes: its contents on the host; empty where it lies on the GPU.
// cuda: its memory there. It is used again for later outputs once no Array holds it, so work of the caller's that reads
// it must be done by then.
struct Array {
  DType dtype = DType::FLOAT32;
  Shape shape;
  std::vector<unsigned char> bytes;
  std::shared_ptr<const void> cuda;

  template <typename T>
  const T* data() const {
    return cuda ? static_cast<const T*>(cuda.get()) : reinterpret_cast<const T*>(bytes.data());
  }
  operator View() const { return {dtype, shape, data<unsigned char>(), cuda ? Place::CUDA : Place::HOST}; }
};

// Which pixels were edited: nonzero in [height, width], the size of the first spatial input.
struct Mask {
  const uint8_t* data;
  int64_t height;
  int64_t width;
  Place place = Place::HOST;
};

// An input or output of the network. role: "spatial", "pinned" or "free"; "output" of an output.
struct Signature {
  std::string name;
  DType dtype;
  Shape shape;
  std::string role;
};

using Inputs = std::map<std::string, View>;
using Outputs = std::map<std::string, Array>;

// How the last record or edit ran; the fields of the Python package's report.
struct Report {
  std::string path;                     // "record", "sparse", "dense" or "reuse"
  double active_fraction = 0;           // share of the dense multiply-adds that the edit touches
  std::map<std::string, int64_t> rows;  // active pixels by level
  double milliseconds = 0;
  std::map<std::string, double> stages;  // the same split into "load", "check", "index", "run" and "write"
  std::string runtime;
  size_t cache_bytes = 0;  // memory that the recorded caches take on the device
  bool captured = false;   // whether a captured CUDA graph ran
  size_t graphs = 0;       // captured CUDA graphs that the session keeps
};

// What a bundle runs on.
struct Options {
  std::string device = "cpu";           // or "cuda:0", "cuda:1", ...
  std::string runtime = "onnxruntime";  // or, on a GPU, "tensorrt"
  int threads = 0;                      // CPU threads that a run may use, 0 for all cores
  Place outputs = Place::HOST;          // where the arrays lie that record and edit return
  void* stream = nullptr;  // cudaStream_t of the caller's (null: the default stream), behind whose work inputs that lie
                           // on the GPU are read; outputs are ready when a call returns
};

// A bundle on one device, with one recorded state. Calls from several threads run one after the other; several sessions
// may use one bundle at once. A call that throws leaves the session as it was before; where the engine itself fails in
// an edit on a GPU, an earlier edit can no longer be committed. All calls throw Error.
class SIGE_CPP_API Session {
 public:
  // Checks the folder that sige_deploy.export wrote, all of it, before anything is loaded. Throws kinds BUNDLE, INPUT
  // and RUNTIME.
  static Session open(const std::filesystem::path& bundle, const Options& options = {});

  Session(Session&&) noexcept;
  Session& operator=(Session&&) noexcept;
  ~Session();

  const std::vector<Signature>& inputs() const;
  const std::vector<Signature>& outputs() const;

  // Runs the whole network and keeps what edits need. Throws INPUT or RUNTIME; then an earlier record stays in force.
  Outputs record(const Inputs& inputs);

  // Outputs for edited inputs, recomputing only what changed against the record. Without a mask: the pixels that
  // differ from the recorded inputs; with one, changes outside it are ignored. Pinned inputs must be as recorded.
  // Throws STATE before a record, INPUT, RUNTIME; the recorded state never changes.
  Outputs edit(const Inputs& inputs, const std::optional<Mask>& mask = std::nullopt);

  // Makes the last edit part of the recorded state. Throws STATE where there is none.
  void commit();

  // Writes the recorded state to a safetensors file, crash-safely: an older file stays whole until the new one is.
  // Python sessions of the bundle load it. Throws STATE before a record, CACHE when the file cannot be written.
  void save(const std::filesystem::path& file) const;

  // Takes up the state that `save` wrote, here or in Python, as if it had been recorded here. Throws CACHE for a
  // damaged file or one of another bundle; then an earlier record stays in force.
  void load(const std::filesystem::path& file);

  // Throws STATE before the first record.
  Report report() const;

 private:
  struct State;
  explicit Session(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace sige

#endif
