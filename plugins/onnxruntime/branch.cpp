#include "branch.h"

#include <map>
#include <mutex>

#include "kernel.h"

namespace sige::ort {

static std::mutex lock;  // of the map and of all branches
static std::map<void*, std::weak_ptr<Branch>> branches;  // by stream; a session's stream is its own

Branch::Branch() { check(sige_branch_create(&branch_)); }
Branch::~Branch() { sige_branch_destroy(branch_); }

std::shared_ptr<Branch> Branch::of(void* stream) {
  const std::lock_guard<std::mutex> guard(lock);
  std::shared_ptr<Branch> branch = branches[stream].lock();
  if (!branch) branches[stream] = branch = std::make_shared<Branch>();
  return branch;
}

void Branch::join(void* stream, const void* const* read, int32_t count) {
  const std::lock_guard<std::mutex> guard(lock);
  const auto found = branches.find(stream);
  if (found == branches.end()) return;
  if (const std::shared_ptr<Branch> branch = found->second.lock()) {
    check(sige_branch_join(branch->branch_, stream, read, count));
  } else {
    branches.erase(found);
  }
}

void* Branch::fork(void* stream) const {
  const std::lock_guard<std::mutex> guard(lock);
  void* beside = nullptr;
  check(sige_branch_fork(branch_, stream, &beside));
  return beside;
}

void Branch::add(void* stream, const void* result) const {
  const std::lock_guard<std::mutex> guard(lock);
  check(sige_branch_add(branch_, stream, result));
}

}  // namespace sige::ort
