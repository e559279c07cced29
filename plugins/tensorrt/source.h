// What Gather and Conv share: which inputs of the source a node has, and how many targets that makes.
#pragma once

#include "call.h"

namespace sige::trt {

inline Sources sources_of(const Inputs& inputs, size_t affine, size_t second) {
  return Sources([&](size_t index) { return inputs.has(index); }, affine, second);
}

inline const nvinfer1::IDimensionExpr* targets(const Shapes& shapes, const Sources& has) {
  return has.table ? shapes.size(3, 0) : shapes.size(0, 1);
}

}  // namespace sige::trt
