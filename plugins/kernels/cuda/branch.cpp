// A second stream beside a captured one, and events that bring their work together again.
#include <cuda_runtime.h>

#include <memory>
#include <new>
#include <unordered_map>
#include <vector>

#include "../backend.h"
#include "failure.h"

struct sige_branch {
  cudaStream_t beside = nullptr;
  cudaEvent_t start = nullptr;
  std::vector<cudaEvent_t> events;                      // as many as a capture has had results
  size_t used = 0;                                      // of them in this capture
  unsigned long long capture = 0;                       // the one that was forked last
  std::unordered_map<const void*, cudaEvent_t> unread;  // its results that nobody has waited for

  ~sige_branch() {
    for (cudaEvent_t event : events) cudaEventDestroy(event);
    if (start) cudaEventDestroy(start);
    if (beside) cudaStreamDestroy(beside);
  }
};

// The number of the capture that a stream is in, 0 if it is in none.
static cudaError_t capture_of(cudaStream_t stream, unsigned long long& capture) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  const cudaError_t error = cudaStreamGetCaptureInfo(stream, &status, &capture);
  if (error || status != cudaStreamCaptureStatusActive) capture = 0;
  return error;
}

using sige::cuda::failed;

extern "C" {

sige_status sige_branch_create(sige_branch** branch) {
  if (!branch) return SIGE_INVALID_ARGUMENT;
  std::unique_ptr<sige_branch> created(new (std::nothrow) sige_branch);
  if (!created || cudaStreamCreateWithFlags(&created->beside, cudaStreamNonBlocking) ||
      cudaEventCreateWithFlags(&created->start, cudaEventDisableTiming))
    return failed();
  *branch = created.release();
  return SIGE_OK;
}

sige_status sige_branch_fork(sige_branch* branch, void* stream, void** beside) {
  if (!branch || !beside) return SIGE_INVALID_ARGUMENT;
  const auto main = static_cast<cudaStream_t>(stream);
  unsigned long long capture = 0;
  if (capture_of(main, capture)) return failed();
  if (!capture) {
    *beside = stream;
    return SIGE_OK;
  }
  if (capture != branch->capture) {
    branch->unread.clear();
    branch->used = 0;
    if (cudaEventRecord(branch->start, main) || cudaStreamWaitEvent(branch->beside, branch->start, 0)) return failed();
    branch->capture = capture;
  }
  *beside = branch->beside;
  return SIGE_OK;
}

sige_status sige_branch_add(sige_branch* branch, void* stream, const void* result) {
  if (!branch || !result) return SIGE_INVALID_ARGUMENT;
  unsigned long long capture = 0;
  if (capture_of(static_cast<cudaStream_t>(stream), capture)) return failed();
  if (!capture || capture != branch->capture) return SIGE_OK;
  if (branch->used == branch->events.size()) {
    cudaEvent_t event;
    if (cudaEventCreateWithFlags(&event, cudaEventDisableTiming)) return failed();
    branch->events.push_back(event);
  }
  const cudaEvent_t event = branch->events[branch->used++];
  if (cudaEventRecord(event, branch->beside)) return failed();
  branch->unread[result] = event;
  return SIGE_OK;
}

sige_status sige_branch_join(sige_branch* branch, void* stream, const void* const* read, int32_t count) {
  if (!branch || (count > 0 && !read)) return SIGE_INVALID_ARGUMENT;
  if (branch->unread.empty()) return SIGE_OK;
  const auto main = static_cast<cudaStream_t>(stream);
  unsigned long long capture = 0;
  if (capture_of(main, capture)) return failed();
  if (capture != branch->capture) branch->unread.clear();  // of a capture that was given up
  for (int32_t i = 0; i < count && !branch->unread.empty(); ++i) {
    const auto found = branch->unread.find(read[i]);
    if (found == branch->unread.end()) continue;
    if (cudaStreamWaitEvent(main, found->second, 0)) return failed();
    branch->unread.erase(found);
  }
  return SIGE_OK;
}

void sige_branch_destroy(sige_branch* branch) { delete branch; }

}  // extern "C"
