// TensorRT's plugin interface around an op `K` (NAME, INPUTS, ATTRIBUTES, shape, workspace, prepare, run).
//
// No call before onShapeChange touches CUDA: engines are built on machines without a GPU. A plugin is known by its
// attributes alone; a clone is made from them anew, so each execution context has what its op prepares for itself.
#pragma once

#include <algorithm>
#include <iostream>
#include <iterator>
#include <memory>
#include <stdexcept>

#include "call.h"

namespace sige::trt {

constexpr const char* NAMESPACE = "sige";
constexpr const char* VERSION = "1";

// What TensorRT takes for success; an error's sentence goes to stderr, as plugins have no way to return it.
template <typename Body>
int32_t guarded(const char* op, const Body& body) noexcept {
  try {
    body();
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "sige::" << op << ": " << error.what() << std::endl;
    return 1;
  }
}

template <typename K>
class Plugin final : public nvinfer1::IPluginV3,
                     public nvinfer1::IPluginV3OneCore,
                     public nvinfer1::IPluginV3OneBuild,
                     public nvinfer1::IPluginV3OneRuntime {
 public:
  explicit Plugin(std::shared_ptr<const Attributes> attributes)
      : attributes_(std::move(attributes)),
        inputs_(K::INPUTS, std::size(K::INPUTS), attributes_->text(INPUTS_ATTRIBUTE.name, "")),
        op_(*attributes_, inputs_) {}

  nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override {
    switch (type) {
      case nvinfer1::PluginCapabilityType::kCORE: return static_cast<nvinfer1::IPluginV3OneCore*>(this);
      case nvinfer1::PluginCapabilityType::kBUILD: return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
      case nvinfer1::PluginCapabilityType::kRUNTIME: return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
    }
    return nullptr;
  }
  Plugin* clone() noexcept override {
    Plugin* copy = nullptr;
    guarded(K::NAME, [&] { copy = new Plugin(attributes_); });
    return copy;
  }

  const nvinfer1::AsciiChar* getPluginName() const noexcept override { return K::NAME; }
  const nvinfer1::AsciiChar* getPluginVersion() const noexcept override { return VERSION; }
  const nvinfer1::AsciiChar* getPluginNamespace() const noexcept override { return NAMESPACE; }

  int32_t getNbOutputs() const noexcept override { return 1; }
  bool supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc* all, int32_t inputs,
                                 int32_t) noexcept override {
    using nvinfer1::DataType;
    if (inputs != inputs_.count() || all[position].desc.format != nvinfer1::TensorFormat::kLINEAR) return false;
    const DataType type = all[position].desc.type;
    if (position < inputs && inputs_.at(position).type == Type::INDICES) return type == DataType::kINT32;
    return (type == DataType::kFLOAT || type == DataType::kHALF) && type == all[0].desc.type;
  }
  int32_t getOutputDataTypes(nvinfer1::DataType* out, int32_t, const nvinfer1::DataType* in,
                             int32_t inputs) const noexcept override {
    return guarded(K::NAME, [&] {
      expect_inputs(inputs);
      out[0] = in[0];
    });
  }
  int32_t getOutputShapes(const nvinfer1::DimsExprs* in, int32_t inputs, const nvinfer1::DimsExprs*, int32_t,
                          nvinfer1::DimsExprs* out, int32_t, nvinfer1::IExprBuilder& builder) noexcept override {
    return guarded(K::NAME, [&] {
      expect_inputs(inputs);
      const Shape shape = op_.shape(Shapes(inputs_, in, builder));
      out[0].nbDims = static_cast<int32_t>(shape.size());
      std::copy(shape.begin(), shape.end(), out[0].d);
    });
  }
  int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* in, int32_t inputs,
                          const nvinfer1::DynamicPluginTensorDesc*, int32_t) noexcept override {
    return guarded(K::NAME, [&] {
      expect_inputs(inputs);
      op_.check_shapes(Call::built(inputs_, in));
    });
  }
  size_t getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc* in, int32_t,
                          const nvinfer1::DynamicPluginTensorDesc*, int32_t) const noexcept override {
    size_t bytes = 0;
    guarded(K::NAME, [&] { bytes = op_.workspace(Call::largest(inputs_, in)); });
    return bytes;
  }

  int32_t onShapeChange(const nvinfer1::PluginTensorDesc* in, int32_t, const nvinfer1::PluginTensorDesc*,
                        int32_t) noexcept override {
    return guarded(K::NAME, [&] { op_.prepare(Call::run(inputs_, in)); });
  }
  int32_t enqueue(const nvinfer1::PluginTensorDesc* described, const nvinfer1::PluginTensorDesc*,
                  const void* const* in, void* const* out, void* workspace, cudaStream_t stream) noexcept override {
    return guarded(K::NAME, [&] {
      const Call call = Call::run(inputs_, described, in);
      sige_execution execution{};
      execution.backend = SIGE_CUDA;
      execution.workspace = workspace;
      execution.workspace_bytes = op_.workspace(call);
      execution.stream = stream;
      op_.run(call, out[0], execution);
    });
  }
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override { return clone(); }
  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override { return attributes_->fields(); }

 private:
  void expect_inputs(int32_t count) const {
    if (count != inputs_.count())
      throw std::runtime_error("attribute inputs names " + std::to_string(inputs_.count()) + " inputs, the node has " +
                               std::to_string(count) + ".");
  }

  std::shared_ptr<const Attributes> attributes_;
  Inputs inputs_;
  K op_;
};

template <typename K>
class Creator final : public nvinfer1::IPluginCreatorV3One {
 public:
  Creator() {
    for (const Attribute& attribute : known()) {
      fields_.emplace_back();
      fields_.back().name = attribute.name;
      fields_.back().type = attribute.kind;
      fields_.back().length = attribute.kind == Kind::kCHAR ? 0 : 1;
    }
    collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
  }

  nvinfer1::IPluginV3* createPlugin(const nvinfer1::AsciiChar*, const nvinfer1::PluginFieldCollection* fields,
                                    nvinfer1::TensorRTPhase) noexcept override {
    nvinfer1::IPluginV3* plugin = nullptr;
    guarded(K::NAME, [&] { plugin = new Plugin<K>(std::make_shared<const Attributes>(known(), fields)); });
    return plugin;
  }
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }
  const nvinfer1::AsciiChar* getPluginName() const noexcept override { return K::NAME; }
  const nvinfer1::AsciiChar* getPluginVersion() const noexcept override { return VERSION; }
  const nvinfer1::AsciiChar* getPluginNamespace() const noexcept override { return NAMESPACE; }

 private:
  static const std::vector<Attribute>& known() {
    static const std::vector<Attribute> all = [] {
      std::vector<Attribute> list(K::ATTRIBUTES.begin(), K::ATTRIBUTES.end());
      list.push_back(INPUTS_ATTRIBUTE);
      return list;
    }();
    return all;
  }

  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection collection_{};
};

}  // namespace sige::trt
