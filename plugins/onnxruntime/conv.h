#pragma once

#include <memory>
#include <mutex>
#include <new>

#include "branch.h"
#include "source.h"

namespace sige::ort {

class Conv : Kernel {
 public:
  static constexpr const char* NAME = "Conv";
  static constexpr const auto& INPUTS = CONV_INPUTS;

  Conv(const Ort::ConstKernelInfo& info, const Target& target);
  void run(Call& call) const;

 private:
  Sources sources_;
  ConvSettings settings_;
  bool early_;
  struct Free {
    void operator()(void* memory) const { ::operator delete(memory, std::align_val_t{SIGE_WORKSPACE_ALIGNMENT}); }
    void operator()(sige_plans* plans) const { sige_plans_destroy(plans); }
  };
  // A constant weight in the backend's order; null where the backend takes it as it is.
  bool constant_ = false;
  std::unique_ptr<void, Free> packed_;
  // CUDA: the products of the row counts seen so far. Filled and read under the lock; a call only launches.
  std::unique_ptr<sige_plans, Free> plans_;
  mutable std::mutex lock_;
  mutable std::shared_ptr<Branch> branch_;  // CUDA: where an early conv runs
};

}  // namespace sige::ort
