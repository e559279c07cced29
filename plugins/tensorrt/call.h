// What an op sees of its tensors: by their place in docs/ops.md, in every phase of a plugin's life.
#pragma once

#include <array>
#include <initializer_list>

#include "attributes.h"

namespace sige::trt {

// Throws the status's sentence.
void check(sige_status status);

int32_t to_int32(int64_t value, const char* what);

constexpr int64_t ANY = -1;  // a size that fits anything; also how TensorRT writes one that is not known yet

struct Tensor {
  const void* data = nullptr;  // null for an input that is left out
  std::array<int64_t, 3> shape{};

  template <typename T>
  const T* as() const { return static_cast<const T*>(data); }
  int32_t size(size_t axis) const { return to_int32(shape[axis], "a size"); }
};

// The tensors of one node at one moment.
class Call {
 public:
  // While an engine is built: shapes with ANY where they may vary.
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
