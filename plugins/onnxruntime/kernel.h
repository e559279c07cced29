// What the four ops share: typed inputs, workspaces and threads of ONNX Runtime, and errors as its statuses.
#pragma once

#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

#include <array>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>

#include "../adapter/args.h"

namespace sige::ort {

using namespace adapter;

// Where the kernels of one registration run.
struct Target {
  const char* provider;  // of ONNX Runtime
  sige_backend backend;
  sige_dtype dtype;
};

// An attribute of a node, or its default where the node has none.
template <typename T>
T attribute(const Ort::ConstKernelInfo& info, const char* name, T otherwise) {
  try {
    return info.GetAttribute<T>(name);
  } catch (const Ort::Exception&) {
    return otherwise;
  }
}

// Whether the node connects that input.
bool has_input(const Ort::ConstKernelInfo& info, size_t index);

// The attribute that names an activation; throws for a name that docs/ops.md does not have.
sige_activation activation(const Ort::ConstKernelInfo& info, const char* name);

// Throws unless the tensor is left out or has that shape.
void expect(const Tensor& tensor, const Input& input, std::initializer_list<int64_t> shape);

Tensor tensor_of(const Ort::ConstValue& value, const Input& input);

// Memory out of ONNX Runtime's allocator, aligned for the kernels, until the end of the call.
class Workspace {
 public:
  Workspace(OrtAllocator* allocator, size_t bytes);
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  void* at() const;

 private:
  OrtAllocator* allocator_;
  void* memory_;
};

// One run of a node.
class Call {
 public:
  Call(OrtKernelContext* context, const Input* inputs) : context_(context), inputs_(inputs) {}

  // The input of that index; throws unless it is left out or has that shape.
  Tensor input(size_t index, std::initializer_list<int64_t> shape) const;
  void* output(std::initializer_list<int64_t> shape);
  sige_execution execution(const Target& target, const Workspace& workspace, size_t bytes);

 private:
  Ort::KernelContext context_;
  const Input* inputs_;
};

// What every kernel keeps of its node.
class Kernel {
 public:
  Kernel(const Ort::ConstKernelInfo& info, const Target& target);

 protected:
  struct Release {
    void operator()(OrtAllocator* allocator) const { Ort::GetApi().ReleaseAllocator(allocator); }
  };
  Target target_;
  std::unique_ptr<OrtAllocator, Release> allocator_;
};

template <typename Body>
OrtStatus* guarded(const char* op, const Body& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const std::exception& error) {
    return Ort::Status(("sige::" + std::string(op) + ": " + error.what()).c_str(), ORT_FAIL).release();
  }
}

// Adapts a kernel `K` (NAME, INPUTS, a constructor like Kernel's, run(Call&)) to ONNX Runtime's interface.
template <typename K>
class Op : public Ort::CustomOpBase<Op<K>, Op<K>, true> {
 public:
  explicit Op(const Target& target) : target_(target) {
    this->KernelDestroy = [](void* kernel) { delete static_cast<K*>(kernel); };
    this->KernelComputeV2 = [](void* kernel, OrtKernelContext* context) -> OrtStatusPtr {
      return guarded(K::NAME, [&] {
        Call call(context, K::INPUTS);
        static_cast<K*>(kernel)->run(call);
      });
    };
  }

  OrtStatusPtr CreateKernelV2(const OrtApi&, const OrtKernelInfo* info, void** kernel) const {
    return guarded(K::NAME, [&] { *kernel = new K(Ort::ConstKernelInfo(info), target_); });
  }
  OrtStatusPtr ComputeV2(OrtKernelContext*) { return nullptr; }  // replaced by the constructor

  const char* GetName() const { return K::NAME; }
  const char* GetExecutionProviderType() const { return target_.provider; }
  size_t GetInputTypeCount() const { return std::size(K::INPUTS); }
  ONNXTensorElementDataType GetInputType(size_t index) const {
    return K::INPUTS[index].type == Type::INDICES ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32 : values();
  }
  OrtCustomOpInputOutputCharacteristic GetInputCharacteristic(size_t index) const {
    return K::INPUTS[index].required ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL;
  }
  size_t GetOutputTypeCount() const { return 1; }
  ONNXTensorElementDataType GetOutputType(size_t) const { return values(); }

 private:
  ONNXTensorElementDataType values() const {
    return target_.dtype == SIGE_FLOAT16 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  }

  Target target_;
};

}  // namespace sige::ort
