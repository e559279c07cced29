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
  static constexpr Input INPUTS[] = {
      ROWS, BASE, HALO, TABLE, {"weight", Type::VALUES, true}, {"bias", Type::VALUES, false}, SCALE, SHIFT,
      {"embedding", Type::VALUES, false}, {"residual", Type::VALUES, false},
      {"multiplier", Type::VALUES, false}, ROWS_2, BASE_2};

  Conv(const Ort::ConstKernelInfo& info, const Target& target);
  void run(Call& call) const;

 private:
  static constexpr size_t WEIGHT = 4;

  Sources sources_;
  int32_t group_;
  sige_activation activation_in_, activation_out_;
  float alpha_in_, alpha_out_;
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
