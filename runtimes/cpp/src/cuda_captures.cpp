#include "cuda_captures.h"

#include <algorithm>

namespace sige {

constexpr size_t NODE_BYTES = 16 << 10;  // what a node is taken to cost at least; the driver allocates in larger pieces

CudaCaptures::~CudaCaptures() {
  for (const Captured& one : captured_) cudaGraphExecDestroy(one.launchable);
}

std::list<CudaCaptures::Captured>::iterator CudaCaptures::find(const std::string& key) {
  return std::find_if(captured_.begin(), captured_.end(), [&](const Captured& one) { return one.key == key; });
}

bool CudaCaptures::run(const std::string& key, const std::function<void()>& work) {
  auto found = find(key);
  if (found == captured_.end() && seen_.count(key) && !refused_.count(key) && capture(key, work)) found = find(key);
  if (found == captured_.end()) {
    work();
    seen_.insert(key);
    return false;
  }
  captured_.splice(captured_.begin(), captured_, found);
  memory_->check(cudaGraphLaunch(found->launchable, static_cast<cudaStream_t>(memory_->stream())));
  return true;
}

void CudaCaptures::forget(const std::string& key) {
  seen_.erase(key);
  refused_.erase(key);
  if (const auto found = find(key); found != captured_.end()) release(found);
}

// Whether the captured work is now kept under its key.
bool CudaCaptures::capture(const std::string& key, const std::function<void()>& work) {
  const size_t before = memory_->free_bytes();
  cudaGraphExec_t launchable = nullptr;
  size_t count = 0;
  try {
    using Graph = std::remove_pointer_t<cudaGraph_t>;
    const std::unique_ptr<Graph, void (*)(Graph*)> graph(record(work), [](Graph* g) { cudaGraphDestroy(g); });
    const Nodes all = nodes(graph.get());
    count = all.size();
    if (make_repeatable(graph.get(), all)) memory_->check(cudaGraphInstantiate(&launchable, graph.get(), 0));
  } catch (const Error& error) {
    if (error.kind() != Kind::RUNTIME) throw;
    launchable = nullptr;
  }
  if (!launchable) {
    memory_->forget_failures();
    refused_.insert(key);
    return false;
  }
  const size_t after = memory_->free_bytes();
  captured_.push_front({key, launchable, std::max(before > after ? before - after : 0, count * NODE_BYTES)});
  const auto total = [&] {
    size_t bytes = 0;
    for (const Captured& one : captured_) bytes += one.bytes;
    return bytes;
  };
  while (captured_.size() > 1 && total() > budget_) release(std::prev(captured_.end()));
  return true;
}

// The work as a graph, nothing executed; throws what the work throws under capture.
cudaGraph_t CudaCaptures::record(const std::function<void()>& work) {
  const auto stream = static_cast<cudaStream_t>(memory_->stream());
  memory_->synchronize();
  // Relaxed: engines may allocate on the way, which other threads' work does not disturb.
  memory_->check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
  cudaGraph_t graph = nullptr;
  try {
    work();
  } catch (...) {
    cudaStreamEndCapture(stream, &graph);
    if (graph) cudaGraphDestroy(graph);
    throw;
  }
  memory_->check(cudaStreamEndCapture(stream, &graph));
  return graph;
}

CudaCaptures::Nodes CudaCaptures::nodes(cudaGraph_t graph) const {
  size_t count = 0;
  memory_->check(cudaGraphGetNodes(graph, nullptr, &count));
  Nodes result(count);
  if (count) memory_->check(cudaGraphGetNodes(graph, result.data(), &count));
  return result;
}

// Sees to it that launching the graph again does the same again; returns whether it does.
//
// ONNX Runtime hands some kernels parameters through pinned host memory, which a host function at the end of a run
// gives back. That function is taken out of the graph: so the memory stays as it is until the engine goes. Any other
// copy from or to the host is not repeatable, except one to where it is to be read, a landing.
bool CudaCaptures::make_repeatable(cudaGraph_t graph, const Nodes& nodes) const {
  for (const cudaGraphNode_t node : nodes) {
    cudaGraphNodeType kind{};
    memory_->check(cudaGraphNodeGetType(node, &kind));
    if (kind == cudaGraphNodeTypeMemcpy && !stays(node)) return false;
    if (kind == cudaGraphNodeTypeHost) bypass(graph, node);
  }
  return true;
}

// Whether a copy reads device memory or pinned host memory, and writes device memory or a landing.
bool CudaCaptures::stays(cudaGraphNode_t node) const {
  cudaMemcpy3DParms copy{};
  memory_->check(cudaGraphMemcpyNodeGetParams(node, &copy));
  const auto kind = [](const void* pointer) {
    cudaPointerAttributes found{};
    const bool known = cudaPointerGetAttributes(&found, pointer) == cudaSuccess;
    if (!known) cudaGetLastError();  // or the next call would report it again
    return known ? found.type : cudaMemoryTypeUnregistered;
  };
  const auto device = [](cudaMemoryType type) { return type == cudaMemoryTypeDevice || type == cudaMemoryTypeManaged; };
  const cudaMemoryType source = kind(copy.srcPtr.ptr);
  return (device(source) || source == cudaMemoryTypeHost) &&
         (device(kind(copy.dstPtr.ptr)) || memory_->lands(copy.dstPtr.ptr));
}

// Takes a node out: what came after it comes after what came before it.
void CudaCaptures::bypass(cudaGraph_t graph, cudaGraphNode_t node) const {
  const auto listed = [&](auto ask) {
    size_t count = 0;
    memory_->check(ask(node, nullptr, nullptr, &count));
    Nodes result(count);
    std::vector<cudaGraphEdgeData> edges(count);
    if (count) memory_->check(ask(node, result.data(), edges.data(), &count));
    return result;
  };
  // Lambdas, because their names may stand for functions with a version.
  const Nodes before = listed([](auto... a) { return cudaGraphNodeGetDependencies(a...); });
  const Nodes after = listed([](auto... a) { return cudaGraphNodeGetDependentNodes(a...); });
  memory_->check(cudaGraphDestroyNode(node));
  Nodes from, to;
  for (const cudaGraphNode_t a : before)
    for (const cudaGraphNode_t b : after) {
      from.push_back(a);
      to.push_back(b);
    }
  const std::vector<cudaGraphEdgeData> plain(from.size());
  if (!from.empty())
    memory_->check(cudaGraphAddDependencies(graph, from.data(), to.data(), plain.data(), from.size()));
}

void CudaCaptures::release(std::list<Captured>::iterator captured) {
  memory_->synchronize();
  cudaGraphExecDestroy(captured->launchable);
  captured_.erase(captured);
}

}  // namespace sige
