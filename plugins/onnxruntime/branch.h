// Ops of an edit that may run beside those in front of them (attribute `early` of Conv).
#pragma once

#include <memory>

#include "sige/kernels.h"

namespace sige::ort {

// The second stream beside a CUDA stream, shared by the kernels of the session that runs on it.
class Branch {
 public:
  // The one of a stream, made if there is none.
  static std::shared_ptr<Branch> of(void* stream);
  // Has `stream` wait for what its branch still computes of the `count` arrays in `read`.
  static void join(void* stream, const void* const* read, int32_t count);

  Branch();
  Branch(const Branch&) = delete;
  Branch& operator=(const Branch&) = delete;
  ~Branch();

  void* fork(void* stream) const;
  void add(void* stream, const void* result) const;

 private:
  sige_branch* branch_ = nullptr;
};

}  // namespace sige::ort
