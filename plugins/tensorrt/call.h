// What an op sees of its tensors: by their place in docs/ops.md, in every phase of a plugin's life.
#pragma once

#include <array>
#include <initializer_list>

#include "attributes.h"

namespace sige::trt {

// The tensors of one node at one moment.
class Call {
 public:
  // While an engine is built: shapes with ANY where they may vary, as TensorRT writes a size that is not known yet.
  static Call built(const Inputs& inputs, const nvinfer1::DynamicPluginTensorDesc* described);
  // The largest shapes. Bounds of sizes that are equal need not be equal, so they are not compared.
  static Call largest(const Inputs& inputs, const nvinfer1::DynamicPluginTensorDesc* described);
  // A run's shapes, and its arrays where they are known.
  static Call run(const Inputs& inputs, const nvinfer1::PluginTensorDesc* described,
                  const void* const* arrays = nullptr);

  // The input of that index; throws unless it is left out or has that shape. Its data say whether it is there, and
  // where it is only in a run's arrays.
  Tensor input(size_t index, std::initializer_list<int64_t> shape) const;
  sige_dtype dtype() const { return dtype_; }

 private:
  Call(const Inputs& inputs, bool compared) : inputs_(inputs), compared_(compared) {}
  void add(const nvinfer1::Dims& dims, const void* data);

  const Inputs& inputs_;
  bool compared_;
  sige_dtype dtype_ = SIGE_FLOAT32;
  std::vector<nvinfer1::Dims> dims_;
  std::vector<const void*> data_;
};

// The shapes of a node's inputs as expressions, for the shape of its output.
class Shapes {
 public:
  Shapes(const Inputs& inputs, const nvinfer1::DimsExprs* in, nvinfer1::IExprBuilder& builder)
      : inputs_(inputs), in_(in), builder_(builder) {}

  const nvinfer1::IDimensionExpr* size(size_t input, int32_t axis) const;
  const nvinfer1::IDimensionExpr* constant(int64_t value) const { return builder_.constant(value); }
  const nvinfer1::IDimensionExpr* sum(const nvinfer1::IDimensionExpr* a, const nvinfer1::IDimensionExpr* b) const {
    return builder_.operation(nvinfer1::DimensionOperation::kSUM, *a, *b);
  }
  const nvinfer1::IDimensionExpr* product(const nvinfer1::IDimensionExpr* a, const nvinfer1::IDimensionExpr* b) const {
    return builder_.operation(nvinfer1::DimensionOperation::kPROD, *a, *b);
  }
  const nvinfer1::IDimensionExpr* quotient(const nvinfer1::IDimensionExpr* a, const nvinfer1::IDimensionExpr* b) const {
    return builder_.operation(nvinfer1::DimensionOperation::kFLOOR_DIV, *a, *b);
  }

 private:
  const Inputs& inputs_;
  const nvinfer1::DimsExprs* in_;
  nvinfer1::IExprBuilder& builder_;
};

using Shape = std::array<const nvinfer1::IDimensionExpr*, 3>;

}  // namespace sige::trt
