// Which inputs of the source of Gather and Conv a node has.
#pragma once

#include "kernel.h"

namespace sige::ort {

inline Sources sources_of(const Ort::ConstKernelInfo& info, size_t affine, size_t second) {
  return Sources([&](size_t index) { return has_input(info, index); }, affine, second);
}

}  // namespace sige::ort
