// ONNX Runtime's sessions for a bundle's graphs, and its errors in one sentence.
#pragma once

#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

#include <map>
#include <new>
#include <set>
#include <string>

#include "device_memory.h"

namespace sige {

// Ready for use; throws Error where ONNX Runtime is older than the one that this library was built for.
Ort::Env& ort_environment();

// Whether it knows overloads of functions: without them it gets the edit graph without functions.
bool ort_knows_overloads();
inline const char* edit_graph() { return ort_knows_overloads() ? "edit.onnx" : "edit_inlined.onnx"; }

ONNXTensorElementDataType onnx_type(DType dtype);

// ONNX Runtime's words for a memory's device. index: of the GPU.
Ort::MemoryInfo place_of(const Memory& memory, int index);

// A tensor on memory that it does not own.
Ort::Value value_at(const Memory& memory, int index, DType dtype, const Shape& shape, void* data);

// An array on the host, likewise.
Ort::Value value_of(const View& view);

// A graph and the names of its inputs.
struct Graph {
  Ort::Session session;
  std::set<std::string> inputs;
};

// How a graph is loaded.
struct Loading {
  int threads = 0;         // that a run may use, 0 for all cores
  bool kernels = false;    // with libsige_onnxruntime's ops
  bool rows_vary = false;  // shapes change from run to run
  bool fold = true;        // compute constant parts once, into memory of their own
  const Memory* memory = nullptr;       // whose memory the session uses, null: the host's
  int index = 0;                        // of the GPU
  bool search = false;                  // GPU: try all algorithms of a convolution
  const std::map<std::string, Ort::Value>* shared = nullptr;  // taken for initializers of their names
};

Graph load_graph(const std::string& path, const Loading& how);

// What the engine's exception says, as an Error of one sentence. memory: whose memory it uses, null: the host's.
Error engine_failure(const std::string& doing, const std::string& text, const Memory* memory);

// What `run` returns; the engine's exceptions are of many types and lines.
template <typename Run>
decltype(auto) translated(const std::string& doing, const Memory* memory, Run run) {
  try {
    return run();
  } catch (const std::bad_alloc&) {
    throw out_of_memory(doing);
  } catch (const Ort::Exception& error) {
    throw engine_failure(doing, error.what(), memory);
  }
}

}  // namespace sige
