// The part of TensorRT's plugin interface that the adapter uses: from the SDK's headers where CMake was given
// TENSORRT_ROOT, else declared here, so that the library builds where no SDK is. These are declarations of a binary
// interface (64-bit Itanium C++ ABI): sizes, values and the order of virtual functions are what TensorRT 10.3 to 11 and
// TensorRT for RTX expect.
#pragma once

#ifdef SIGE_TENSORRT_SDK
#include <NvInferRuntime.h>
#else

#include <cstddef>
#include <cstdint>

struct CUstream_st;
using cudaStream_t = CUstream_st*;

namespace nvinfer1 {

enum class DataType : int32_t { kFLOAT = 0, kHALF = 1, kINT32 = 3 };
enum class TensorFormat : int32_t { kLINEAR = 0 };
enum class PluginFieldType : int32_t { kFLOAT32 = 1, kINT32 = 5, kCHAR = 6 };
enum class TensorRTPhase : int32_t { kBUILD = 0, kRUNTIME = 1 };
enum class PluginCapabilityType : int32_t { kCORE = 0, kBUILD = 1, kRUNTIME = 2 };
enum class DimensionOperation : int32_t { kSUM = 0, kPROD = 1, kFLOOR_DIV = 7 };
enum class APILanguage : int32_t { kCPP = 0 };

using AsciiChar = char;

struct Dims64 {
  int32_t nbDims;
  int64_t d[8];
};
using Dims = Dims64;

struct PluginField {
  const char* name = nullptr;
  const void* data = nullptr;
  PluginFieldType type{};
  int32_t length = 0;
};

struct PluginFieldCollection {
  int32_t nbFields;
  const PluginField* fields;
};

struct PluginTensorDesc {
  Dims dims;
  DataType type;
  TensorFormat format;
  float scale;
};

struct DynamicPluginTensorDesc {
  PluginTensorDesc desc;
  Dims min, max, opt;
};

static_assert(sizeof(Dims) == 72 && sizeof(PluginField) == 24 && sizeof(PluginFieldCollection) == 16);
static_assert(sizeof(PluginTensorDesc) == 88 && sizeof(DynamicPluginTensorDesc) == 304);

struct InterfaceInfo {
  const char* kind;
  int32_t major, minor;
};

// An expression of dimensions: TensorRT hands over the outer object and answers through the inner one.
class IDimensionExpr;

class DimensionTable {
 public:
  virtual ~DimensionTable() noexcept = default;
  virtual bool isConstant() const = 0;
  virtual int64_t getConstantValue() const = 0;
  virtual bool isSizeTensor() const = 0;
};

class ExpressionTable {
 public:
  virtual ~ExpressionTable() noexcept = default;
  virtual const IDimensionExpr* constant(int64_t value) = 0;
  virtual const IDimensionExpr* operation(DimensionOperation op, const IDimensionExpr& a, const IDimensionExpr& b) = 0;
  virtual const IDimensionExpr* declareSizeTensor(int32_t output, const IDimensionExpr& opt,
                                                  const IDimensionExpr& upper) = 0;
};

class IDimensionExpr {
 public:
  bool isConstant() const noexcept { return table_->isConstant(); }
  int64_t getConstantValue() const noexcept { return table_->getConstantValue(); }
  virtual ~IDimensionExpr() noexcept = default;

 private:
  DimensionTable* table_;
};

class IExprBuilder {
 public:
  const IDimensionExpr* constant(int64_t value) noexcept { return table_->constant(value); }
  const IDimensionExpr* operation(DimensionOperation op, const IDimensionExpr& a, const IDimensionExpr& b) noexcept {
    return table_->operation(op, a, b);
  }
  virtual ~IExprBuilder() noexcept = default;

 private:
  ExpressionTable* table_;
};

static_assert(sizeof(IExprBuilder) == 16 && sizeof(IDimensionExpr) == 16);

struct DimsExprs {
  int32_t nbDims;
  const IDimensionExpr* d[8];
};

class ILoggerFinder;
class IPluginResourceContext;

class IVersionedInterface {
 public:
  virtual APILanguage getAPILanguage() const noexcept { return APILanguage::kCPP; }
  virtual InterfaceInfo getInterfaceInfo() const noexcept = 0;
  virtual ~IVersionedInterface() noexcept = default;
};

class IPluginCapability : public IVersionedInterface {};
class IPluginCreatorInterface : public IVersionedInterface {};

class IPluginV3 : public IVersionedInterface {
 public:
  InterfaceInfo getInterfaceInfo() const noexcept override { return {"PLUGIN", 1, 0}; }
  virtual IPluginCapability* getCapabilityInterface(PluginCapabilityType type) noexcept = 0;
  virtual IPluginV3* clone() noexcept = 0;
};

class IPluginV3OneCore : public IPluginCapability {
 public:
  InterfaceInfo getInterfaceInfo() const noexcept override { return {"PLUGIN_V3ONE_CORE", 1, 0}; }
  virtual const AsciiChar* getPluginName() const noexcept = 0;
  virtual const AsciiChar* getPluginVersion() const noexcept = 0;
  virtual const AsciiChar* getPluginNamespace() const noexcept = 0;
};

class IPluginV3OneBuild : public IPluginCapability {
 public:
  InterfaceInfo getInterfaceInfo() const noexcept override { return {"PLUGIN_V3ONE_BUILD", 1, 0}; }
  virtual int32_t configurePlugin(const DynamicPluginTensorDesc* in, int32_t inputs, const DynamicPluginTensorDesc* out,
                                  int32_t outputs) noexcept = 0;
  virtual int32_t getOutputDataTypes(DataType* out, int32_t outputs, const DataType* in,
                                     int32_t inputs) const noexcept = 0;
  virtual int32_t getOutputShapes(const DimsExprs* in, int32_t inputs, const DimsExprs* shapes, int32_t shapeInputs,
                                  DimsExprs* out, int32_t outputs, IExprBuilder& builder) noexcept = 0;
  virtual bool supportsFormatCombination(int32_t position, const DynamicPluginTensorDesc* all, int32_t inputs,
                                         int32_t outputs) noexcept = 0;
  virtual int32_t getNbOutputs() const noexcept = 0;
  virtual size_t getWorkspaceSize(const DynamicPluginTensorDesc*, int32_t, const DynamicPluginTensorDesc*,
                                  int32_t) const noexcept { return 0; }
  virtual int32_t getValidTactics(int32_t*, int32_t) noexcept { return 0; }
  virtual int32_t getNbTactics() noexcept { return 0; }
  virtual const char* getTimingCacheID() noexcept { return nullptr; }
  virtual int32_t getFormatCombinationLimit() noexcept { return 100; }
  virtual const char* getMetadataString() noexcept { return nullptr; }
};

class IPluginV3OneRuntime : public IPluginCapability {
 public:
  InterfaceInfo getInterfaceInfo() const noexcept override { return {"PLUGIN_V3ONE_RUNTIME", 1, 0}; }
  virtual int32_t setTactic(int32_t) noexcept { return 0; }
  virtual int32_t onShapeChange(const PluginTensorDesc* in, int32_t inputs, const PluginTensorDesc* out,
                                int32_t outputs) noexcept = 0;
  virtual int32_t enqueue(const PluginTensorDesc* inDesc, const PluginTensorDesc* outDesc, const void* const* in,
                          void* const* out, void* workspace, cudaStream_t stream) noexcept = 0;
  virtual IPluginV3* attachToContext(IPluginResourceContext* context) noexcept = 0;
  virtual const PluginFieldCollection* getFieldsToSerialize() noexcept = 0;
};

class IPluginCreatorV3One : public IPluginCreatorInterface {
 public:
  InterfaceInfo getInterfaceInfo() const noexcept override { return {"PLUGIN CREATOR_V3ONE", 1, 0}; }
  virtual IPluginV3* createPlugin(const AsciiChar* name, const PluginFieldCollection* fields,
                                  TensorRTPhase phase) noexcept = 0;
  virtual const PluginFieldCollection* getFieldNames() noexcept = 0;
  virtual const AsciiChar* getPluginName() const noexcept = 0;
  virtual const AsciiChar* getPluginVersion() const noexcept = 0;
  virtual const AsciiChar* getPluginNamespace() const noexcept = 0;
};

}  // namespace nvinfer1

#endif
