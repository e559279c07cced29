// A second stream beside a first one, and events that bring their work together again.
#include <cuda_runtime.h>

#include <memory>
#include <new>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "../backend.h"

struct sige_branch {
  cudaStream_t beside = nullptr;
  cudaEvent_t start = nullptr;
  std::vector<cudaEvent_t> events;                          // as many as a run has had results
  size_t used = 0;                                          // of them in this run
  std::unordered_set<const void*> ops;                      // of this run
  std::unordered_map<const void*, cudaEvent_t> unread;      // results that nobody has waited for

  ~sige_branch() {
    for (cudaEvent_t event : events) cudaEventDestroy(event);
    if (start) cudaEventDestroy(start);
    if (beside) cudaStreamDestroy(beside);
  }
};

extern "C" {

sige_status sige_branch_create(sige_branch** branch) {
  if (!branch) return SIGE_INVALID_ARGUMENT;
  std::unique_ptr<sige_branch> created(new (std::nothrow) sige_branch);
  if (!created || cudaStreamCreateWithFlags(&created->beside, cudaStreamNonBlocking) ||
      cudaEventCreateWithFlags(&created->start, cudaEventDisableTiming))
    return SIGE_ENGINE_FAILURE;
  *branch = created.release();
  return SIGE_OK;
}

sige_status sige_branch_fork(sige_branch* branch, void* stream, const void* op, void** beside) {
  if (!branch || !beside) return SIGE_INVALID_ARGUMENT;
  if (branch->ops.empty() || branch->ops.count(op)) {
    branch->ops.clear();
    branch->unread.clear();
    branch->used = 0;
    if (cudaEventRecord(branch->start, static_cast<cudaStream_t>(stream)) ||
        cudaStreamWaitEvent(branch->beside, branch->start, 0))
      return SIGE_ENGINE_FAILURE;
  }
  branch->ops.insert(op);
  *beside = branch->beside;
  return SIGE_OK;
}

sige_status sige_branch_add(sige_branch* branch, const void* result) {
  if (!branch || !result) return SIGE_INVALID_ARGUMENT;
  if (branch->used == branch->events.size()) {
    cudaEvent_t event;
    if (cudaEventCreateWithFlags(&event, cudaEventDisableTiming)) return SIGE_ENGINE_FAILURE;
    branch->events.push_back(event);
  }
  const cudaEvent_t event = branch->events[branch->used++];
  if (cudaEventRecord(event, branch->beside)) return SIGE_ENGINE_FAILURE;
  branch->unread[result] = event;
  return SIGE_OK;
}

sige_status sige_branch_join(sige_branch* branch, void* stream, const void* const* read, int32_t count) {
  if (!branch || (count > 0 && !read)) return SIGE_INVALID_ARGUMENT;
  for (int32_t i = 0; i < count && !branch->unread.empty(); ++i) {
    const auto found = branch->unread.find(read[i]);
    if (found == branch->unread.end()) continue;
    if (cudaStreamWaitEvent(static_cast<cudaStream_t>(stream), found->second, 0)) return SIGE_ENGINE_FAILURE;
    branch->unread.erase(found);
  }
  return SIGE_OK;
}

void sige_branch_destroy(sige_branch* branch) { delete branch; }

}  // extern "C"
