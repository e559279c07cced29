#include "fake_cuda.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

struct CUgraphNode_st {
  cudaGraphNodeType kind;
  std::function<void()> run;
  const void* source = nullptr;
  void* target = nullptr;
  std::vector<cudaGraphNode_t> before, after;
};

struct CUgraph_st {
  std::vector<std::unique_ptr<CUgraphNode_st>> nodes;
};

struct CUgraphExec_st {
  std::vector<std::function<void()>> work;
};

namespace fake {

struct Block {
  size_t bytes;
  cudaMemoryType kind;
};

struct Driver {
  std::map<const char*, Block> blocks;
  CUgraph_st* capturing = nullptr;
  std::mutex mutex;  // of blocks: arrays are let go of in any thread
};

static Driver& driver() {
  static Driver one;
  return one;
}

[[noreturn]] static void fail(const char* what) {
  std::cerr << "the stand-in for CUDA: " << what << std::endl;
  std::abort();
}

static cudaMemoryType kind_of(const void* pointer) {
  const std::lock_guard<std::mutex> guard(driver().mutex);
  const auto* at = static_cast<const char*>(pointer);
  auto found = driver().blocks.upper_bound(at);
  if (found == driver().blocks.begin()) return cudaMemoryTypeUnregistered;
  --found;
  return at < found->first + found->second.bytes ? found->second.kind : cudaMemoryTypeUnregistered;
}

static cudaError_t allocate(void** pointer, size_t bytes, cudaMemoryType kind) {
  *pointer = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  std::memset(*pointer, 0xee, bytes);
  const std::lock_guard<std::mutex> guard(driver().mutex);
  driver().blocks[static_cast<char*>(*pointer)] = {bytes, kind};
  return cudaSuccess;
}

static cudaError_t release(void* pointer) {
  const std::lock_guard<std::mutex> guard(driver().mutex);
  if (!driver().blocks.erase(static_cast<char*>(pointer))) fail("what is freed was not allocated");
  std::free(pointer);
  return cudaSuccess;
}

// At once, or into the graph being captured, behind its last node.
static CUgraphNode_st* add(cudaGraphNodeType kind, std::function<void()> work) {
  CUgraph_st* graph = driver().capturing;
  if (!graph) {
    if (kind != cudaGraphNodeTypeHost) work();
    return nullptr;
  }
  auto node = std::make_unique<CUgraphNode_st>();
  node->kind = kind;
  node->run = std::move(work);
  if (!graph->nodes.empty()) {
    node->before.push_back(graph->nodes.back().get());
    graph->nodes.back()->after.push_back(node.get());
  }
  graph->nodes.push_back(std::move(node));
  return graph->nodes.back().get();
}

void queue(std::function<void()> work) { add(cudaGraphNodeTypeKernel, std::move(work)); }

void queue_host_function() {
  add(cudaGraphNodeTypeHost, [] { fail("a launch ran a host function that gives memory back"); });
}

}  // namespace fake

using namespace fake;

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
cudaError_t cudaGetDevice(int* index) { return *index = 0, cudaSuccess; }
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) { return *value = 9, cudaSuccess; }
cudaError_t cudaGetLastError() { return cudaSuccess; }
const char* cudaGetErrorString(cudaError_t) { return "a failure of the stand-in"; }

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) { return *free = *total = size_t{1} << 30, cudaSuccess; }
cudaError_t cudaMalloc(void** pointer, size_t bytes) { return allocate(pointer, bytes, cudaMemoryTypeDevice); }
cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) {
  return allocate(pointer, bytes, cudaMemoryTypeHost);
}
cudaError_t cudaFree(void* pointer) { return release(pointer); }
cudaError_t cudaFreeHost(void* pointer) { return release(pointer); }
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* found, const void* pointer) {
  *found = {};
  found->type = kind_of(pointer);
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  static char streams[64];
  static size_t made = 0;
  return *stream = reinterpret_cast<cudaStream_t>(&streams[made++ % 64]), cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) {
  return driver().capturing ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  static char one;
  return *event = reinterpret_cast<cudaEvent_t>(&one), cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }

cudaError_t cudaMemcpyAsync(void* target, const void* source, size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
  const auto check = [](const void* pointer, bool device) {
    if ((kind_of(pointer) == cudaMemoryTypeDevice) != device) fail("a copy names the wrong kind of memory");
  };
  check(source, kind != cudaMemcpyHostToDevice);
  check(target, kind != cudaMemcpyDeviceToHost);
  CUgraphNode_st* node = add(cudaGraphNodeTypeMemcpy, [=] { std::memcpy(target, source, bytes); });
  if (!node) return cudaSuccess;
  node->source = source;
  node->target = target;
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* target, int value, size_t bytes, cudaStream_t) {
  add(cudaGraphNodeTypeMemset, [=] { std::memset(target, value, bytes); });
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
  driver().capturing = new CUgraph_st;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
  *graph = std::exchange(driver().capturing, nullptr);
  return cudaSuccess;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* count) {
  *count = graph->nodes.size();
  for (size_t i = 0; nodes && i < *count; ++i) nodes[i] = graph->nodes[i].get();
  return cudaSuccess;
}
cudaError_t cudaGraphNodeGetType(cudaGraphNode_t node, cudaGraphNodeType* kind) {
  return *kind = node->kind, cudaSuccess;
}
cudaError_t cudaGraphMemcpyNodeGetParams(cudaGraphNode_t node, cudaMemcpy3DParms* copy) {
  copy->srcPtr.ptr = const_cast<void*>(node->source);
  copy->dstPtr.ptr = node->target;
  return cudaSuccess;
}
cudaError_t cudaGraphNodeGetDependencies(cudaGraphNode_t node, cudaGraphNode_t* nodes, cudaGraphEdgeData*,
                                         size_t* count) {
  *count = node->before.size();
  if (nodes) std::copy(node->before.begin(), node->before.end(), nodes);
  return cudaSuccess;
}
cudaError_t cudaGraphNodeGetDependentNodes(cudaGraphNode_t node, cudaGraphNode_t* nodes, cudaGraphEdgeData*,
                                           size_t* count) {
  *count = node->after.size();
  if (nodes) std::copy(node->after.begin(), node->after.end(), nodes);
  return cudaSuccess;
}
cudaError_t cudaGraphDestroyNode(cudaGraphNode_t node) {
  const auto strike = [&](std::vector<cudaGraphNode_t>& nodes) {
    nodes.erase(std::remove(nodes.begin(), nodes.end(), node), nodes.end());
  };
  for (cudaGraphNode_t other : node->before) strike(other->after);
  for (cudaGraphNode_t other : node->after) strike(other->before);
  node->before.clear();
  node->after.clear();
  node->run = nullptr;
  return cudaSuccess;
}
cudaError_t cudaGraphAddDependencies(cudaGraph_t, const cudaGraphNode_t* from, const cudaGraphNode_t* to,
                                     const cudaGraphEdgeData*, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    from[i]->after.push_back(to[i]);
    to[i]->before.push_back(from[i]);
  }
  return cudaSuccess;
}
// Everything comes after the first node, so that a launch may go from node to node.
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* launchable, cudaGraph_t graph, unsigned long long) {
  *launchable = new CUgraphExec_st;
  bool first = true;
  for (const auto& node : graph->nodes) {
    if (!node->run) continue;
    if (!first && node->before.empty()) fail("a node of a graph waits for nothing");
    first = false;
    (*launchable)->work.push_back(node->run);
  }
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete graph, cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t launchable) { return delete launchable, cudaSuccess; }
cudaError_t cudaGraphLaunch(cudaGraphExec_t launchable, cudaStream_t) {
  for (const auto& work : launchable->work) work();
  return cudaSuccess;
}

}  // extern "C"
