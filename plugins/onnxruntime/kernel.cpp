#include "kernel.h"

#include "branch.h"

#include <algorithm>
#include <stdexcept>
#include <vector>

namespace sige::ort {

bool has_input(const Ort::ConstKernelInfo& info, size_t index) {
  return index < info.GetInputCount() && !info.GetInputName(index).empty();
}

sige_activation activation(const Ort::ConstKernelInfo& info, const char* name) {
  return activation_of(name, attribute<std::string>(info, name, "identity"));
}

void expect(const Tensor& tensor, const Input& input, std::initializer_list<int64_t> shape) {
  if (!tensor.data && !input.required) return;
  bool fits = tensor.rank == shape.size();
  for (size_t i = 0; fits && i < tensor.rank; ++i) fits = shape.begin()[i] == ANY || shape.begin()[i] == tensor.shape[i];
  if (!fits) throw misshapen(input, tensor.shape.data(), tensor.rank, shape);
}

Tensor tensor_of(const Ort::ConstValue& value, const Input& input) {
  Tensor tensor;
  if (!value) return tensor;
  const std::vector<int64_t> shape = value.GetTensorTypeAndShapeInfo().GetShape();
  tensor.rank = shape.size();
  if (tensor.rank > tensor.shape.size())
    throw std::runtime_error(std::string(input.name) + " has " + std::to_string(tensor.rank) + " axes, at most 3 fit.");
  std::copy(shape.begin(), shape.end(), tensor.shape.begin());
  tensor.data = value.GetTensorRawData();
  return tensor;
}

Workspace::Workspace(OrtAllocator* allocator, size_t bytes)
    : allocator_(allocator),
      memory_(bytes ? allocator->Alloc(allocator, bytes + SIGE_WORKSPACE_ALIGNMENT) : nullptr) {
  if (bytes && !memory_)
    throw std::runtime_error("failed to allocate a workspace of " + std::to_string(bytes) + " bytes.");
}

Workspace::~Workspace() {
  if (memory_) allocator_->Free(allocator_, memory_);
}

void* Workspace::at() const {
  constexpr uintptr_t MASK = SIGE_WORKSPACE_ALIGNMENT - 1;
  return memory_ ? reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(memory_) + MASK) & ~MASK) : nullptr;
}

Tensor Call::input(size_t index, std::initializer_list<int64_t> shape) const {
  const Tensor tensor = tensor_of(context_.GetInput(index), inputs_[index]);
  expect(tensor, inputs_[index], shape);
  return tensor;
}

void* Call::output(std::initializer_list<int64_t> shape) {
  return context_.GetOutput(0, shape.begin(), shape.size()).GetTensorMutableRawData();
}

static void parallel_for(void* context, int64_t count, void (*body)(void*, int64_t), void* argument) {
  struct Task {
    void (*body)(void*, int64_t);
    void* argument;
  } task{body, argument};
  static_cast<const Ort::KernelContext*>(context)->ParallelFor(
      [](void* data, size_t index) {
        const Task& one = *static_cast<const Task*>(data);
        one.body(one.argument, static_cast<int64_t>(index));
      },
      static_cast<size_t>(count), 0, &task);
}

sige_execution Call::execution(const Target& target, const Workspace& workspace, size_t bytes) {
  sige_execution execution{};
  execution.backend = target.backend;
  execution.workspace = workspace.at();
  execution.workspace_bytes = bytes;
  if (target.backend == SIGE_CUDA) {
    execution.stream = context_.GetGPUComputeStream();
    std::vector<const void*> read;
    for (size_t i = 0; i < context_.GetInputCount(); ++i)
      if (const Ort::ConstValue value = context_.GetInput(i)) read.push_back(value.GetTensorRawData());
    Branch::join(execution.stream, read.data(), static_cast<int32_t>(read.size()));
  } else {
    execution.parallel_for = parallel_for;
    execution.parallel_context = &context_;
  }
  return execution;
}

Kernel::Kernel(const Ort::ConstKernelInfo& info, const Target& target) : target_(target) {
  OrtAllocator* allocator = nullptr;
  Ort::ThrowOnError(Ort::GetApi().KernelInfoGetAllocator(info, OrtMemTypeDefault, &allocator));
  allocator_.reset(allocator);
}

}  // namespace sige::ort
