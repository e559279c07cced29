#include "call.h"

#include <algorithm>
#include <stdexcept>

namespace sige::trt {

// Stands for an array that is there but has no address, because it is empty or the run has not come yet.
static const void* const SOMEWHERE = reinterpret_cast<const void*>(uintptr_t{SIGE_WORKSPACE_ALIGNMENT});

static sige_dtype dtype_of(nvinfer1::DataType type) {
  return type == nvinfer1::DataType::kHALF ? SIGE_FLOAT16 : SIGE_FLOAT32;
}

void Call::add(const nvinfer1::Dims& dims, const void* data) {
  dims_.push_back(dims);
  data_.push_back(data ? data : SOMEWHERE);
}

Call Call::built(const Inputs& inputs, const nvinfer1::DynamicPluginTensorDesc* described) {
  Call call(inputs, true);
  call.dtype_ = dtype_of(described[0].desc.type);
  for (int32_t i = 0; i < inputs.count(); ++i) call.add(described[i].desc.dims, nullptr);
  return call;
}

Call Call::largest(const Inputs& inputs, const nvinfer1::DynamicPluginTensorDesc* described) {
  Call call(inputs, false);
  call.dtype_ = dtype_of(described[0].desc.type);
  for (int32_t i = 0; i < inputs.count(); ++i) call.add(described[i].max, nullptr);
  return call;
}

Call Call::run(const Inputs& inputs, const nvinfer1::PluginTensorDesc* described, const void* const* arrays) {
  Call call(inputs, true);
  call.dtype_ = dtype_of(described[0].type);
  for (int32_t i = 0; i < inputs.count(); ++i) call.add(described[i].dims, arrays ? arrays[i] : nullptr);
  return call;
}

Tensor Call::input(size_t index, std::initializer_list<int64_t> shape) const {
  Tensor tensor;
  if (!inputs_.has(index)) return tensor;
  const size_t place = static_cast<size_t>(inputs_.place(index));
  const nvinfer1::Dims& dims = dims_[place];
  const size_t rank = static_cast<size_t>(std::max(dims.nbDims, 0));
  bool fits = rank == shape.size();
  for (size_t i = 0; fits && compared_ && i < rank; ++i)
    fits = shape.begin()[i] == ANY || dims.d[i] == ANY || shape.begin()[i] == dims.d[i];
  if (!fits) throw misshapen(inputs_.signature(index), dims.d, rank, shape);
  std::copy(dims.d, dims.d + rank, tensor.shape.begin());
  tensor.rank = rank;
  tensor.data = data_[place];
  return tensor;
}

const nvinfer1::IDimensionExpr* Shapes::size(size_t input, int32_t axis) const {
  const nvinfer1::DimsExprs& dims = in_[inputs_.place(input)];
  if (axis >= dims.nbDims)
    throw std::runtime_error(std::string(inputs_.signature(input).name) + " has " + std::to_string(dims.nbDims) +
                             " axes, which is too few.");
  return dims.d[axis];
}

}  // namespace sige::trt
