// Drives a plugin as TensorRT does, from its creation to runs on a stream: a shared library, for enqueue.py.
#include <dlfcn.h>

#include <array>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "abi.h"

using namespace nvinfer1;

// A tensor of a node. most: the largest size of an axis that varies, -1 where it does not.
struct Tensor {
  int32_t type, rank;
  int64_t sizes[3], most[3];
};

static std::map<std::string, IPluginCreatorV3One*> creators;
static std::string sentence;

static void require(bool condition, const std::string& what) {
  if (!condition) throw std::runtime_error(what);
}

// What an expression is worth: now, and where all that varies is largest.
struct Worth {
  int64_t now, most;
  bool constant;
};

// Expressions of dimensions. TensorRT's objects hold the pointer to what answers behind the table of a class of its own.
struct Inner final : DimensionTable {
  explicit Inner(Worth worth) : worth(worth) {}
  bool isConstant() const override { return worth.constant; }
  int64_t getConstantValue() const override { return worth.now; }
  bool isSizeTensor() const override { return false; }
  Worth worth;
};

class Expressions final : public ExpressionTable {
 public:
  Expressions() : builder_{nullptr, this} {}
  const IDimensionExpr* of(Worth worth) {
    inner_.emplace_back(worth);
    outer_.push_back({nullptr, &inner_.back()});
    return reinterpret_cast<const IDimensionExpr*>(&outer_.back());
  }
  static Worth worth(const IDimensionExpr& expression) {
    return static_cast<const Inner*>(reinterpret_cast<const Outer&>(expression).inner)->worth;
  }
  IExprBuilder& builder() { return reinterpret_cast<IExprBuilder&>(builder_); }

  const IDimensionExpr* constant(int64_t value) override { return of({value, value, true}); }
  const IDimensionExpr* operation(DimensionOperation op, const IDimensionExpr& a, const IDimensionExpr& b) override {
    const Worth x = worth(a), y = worth(b);
    const auto apply = [op](int64_t p, int64_t q) -> int64_t {
      switch (op) {
        case DimensionOperation::kSUM: return p + q;
        case DimensionOperation::kPROD: return p * q;
        case DimensionOperation::kFLOOR_DIV: return p / q;
      }
      throw std::runtime_error("an operation that the host does not know");
    };
    return of({apply(x.now, y.now), apply(x.most, y.most), x.constant && y.constant});
  }
  const IDimensionExpr* declareSizeTensor(int32_t, const IDimensionExpr&, const IDimensionExpr&) override {
    return nullptr;
  }

 private:
  struct Outer {
    const void* table;
    DimensionTable* inner;
  };
  struct OuterBuilder {
    const void* table;
    ExpressionTable* inner;
  };
  OuterBuilder builder_;
  std::deque<Inner> inner_;
  std::deque<Outer> outer_;
};

static IPluginV3OneBuild& build(IPluginV3& plugin) {
  auto* found = static_cast<IPluginV3OneBuild*>(plugin.getCapabilityInterface(PluginCapabilityType::kBUILD));
  require(found, "the plugin cannot be built with");
  return *found;
}
static IPluginV3OneRuntime& runtime(IPluginV3& plugin) {
  auto* found = static_cast<IPluginV3OneRuntime*>(plugin.getCapabilityInterface(PluginCapabilityType::kRUNTIME));
  require(found, "the plugin cannot run");
  return *found;
}

// The output as the plugin describes it for these inputs.
static Tensor output(IPluginV3& plugin, const std::vector<Tensor>& inputs) {
  std::vector<DataType> types;
  std::vector<DimsExprs> shapes;
  Expressions expressions;
  for (const Tensor& tensor : inputs) {
    types.push_back(static_cast<DataType>(tensor.type));
    DimsExprs shape{};
    shape.nbDims = tensor.rank;
    for (int32_t i = 0; i < tensor.rank; ++i) {
      const bool fixed = tensor.most[i] < 0;
      shape.d[i] = expressions.of({tensor.sizes[i], fixed ? tensor.sizes[i] : tensor.most[i], fixed});
    }
    shapes.push_back(shape);
  }
  const auto count = static_cast<int32_t>(inputs.size());
  require(build(plugin).getNbOutputs() == 1, "the plugin has not one output");
  DataType type{};
  require(!build(plugin).getOutputDataTypes(&type, 1, types.data(), count), "getOutputDataTypes failed");
  DimsExprs shape{};
  require(!build(plugin).getOutputShapes(shapes.data(), count, nullptr, 0, &shape, 1, expressions.builder()),
          "getOutputShapes failed");
  require(shape.nbDims == 3, "the output has not three axes");
  Tensor made{static_cast<int32_t>(type), shape.nbDims, {}, {}};
  for (int32_t i = 0; i < shape.nbDims; ++i) {
    const Worth worth = Expressions::worth(*shape.d[i]);
    made.sizes[i] = worth.now;
    made.most[i] = worth.constant ? -1 : worth.most;
  }
  return made;
}

static PluginTensorDesc now(const Tensor& tensor) {
  PluginTensorDesc made{};
  made.dims.nbDims = tensor.rank;
  std::copy(tensor.sizes, tensor.sizes + tensor.rank, made.dims.d);
  made.type = static_cast<DataType>(tensor.type);
  made.scale = 1.0f;
  return made;
}

// As while an engine is built, when sizes that vary are not known.
static DynamicPluginTensorDesc described(const Tensor& tensor) {
  DynamicPluginTensorDesc made{};
  made.desc = now(tensor);
  made.min = made.opt = made.max = made.desc.dims;
  for (int32_t i = 0; i < tensor.rank; ++i) {
    if (tensor.most[i] < 0) continue;
    made.desc.dims.d[i] = -1;
    made.min.d[i] = 0;
    made.max.d[i] = tensor.most[i];
  }
  return made;
}

// A plugin's attributes as an engine holds them, after the plugin has gone.
struct Stored {
  std::deque<std::string> texts;
  std::vector<PluginField> fields;

  explicit Stored(const PluginFieldCollection& from) {
    for (int32_t i = 0; i < from.nbFields; ++i) {
      PluginField field = from.fields[i];
      const size_t bytes = static_cast<size_t>(field.length) * (field.type == PluginFieldType::kCHAR ? 1 : 4);
      field.name = texts.emplace_back(field.name).c_str();
      field.data = texts.emplace_back(static_cast<const char*>(field.data), bytes).data();
      fields.push_back(field);
    }
  }
};

// A node of an engine in an execution context.
struct Node {
  std::unique_ptr<IPluginV3> plugin;
  std::vector<Tensor> inputs;
  Tensor out;
  size_t workspace;
};

static std::unique_ptr<IPluginV3> created(const char* op, const std::vector<PluginField>& fields, TensorRTPhase phase) {
  require(creators.count(op), std::string("there is no creator of ") + op);
  const PluginFieldCollection collection{static_cast<int32_t>(fields.size()), fields.data()};
  std::unique_ptr<IPluginV3> made(creators[op]->createPlugin(op, &collection, phase));
  require(made != nullptr, "createPlugin failed");
  return made;
}

static std::unique_ptr<Node> node(const char* op, std::vector<PluginField> fields, std::vector<Tensor> inputs,
                                  bool stored) {
  std::unique_ptr<IPluginV3> plugin(created(op, fields, TensorRTPhase::kBUILD)->clone());
  require(plugin != nullptr, "clone failed");
  const auto count = static_cast<int32_t>(inputs.size());
  const Tensor out = output(*plugin, inputs);
  std::vector<DynamicPluginTensorDesc> all;
  for (const Tensor& tensor : inputs) all.push_back(described(tensor));
  all.push_back(described(out));
  for (int32_t i = 0; i <= count; ++i)
    require(build(*plugin).supportsFormatCombination(i, all.data(), count, 1),
            "supportsFormatCombination refuses tensor " + std::to_string(i));
  require(!build(*plugin).configurePlugin(all.data(), count, &all[count], 1), "configurePlugin failed");
  require(build(*plugin).getNbTactics() == 0, "the plugin has tactics, of which the host knows nothing");
  const size_t workspace = build(*plugin).getWorkspaceSize(all.data(), count, &all[count], 1);
  if (stored) {
    const Stored kept(*runtime(*plugin).getFieldsToSerialize());
    plugin.reset();
    plugin = created(op, kept.fields, TensorRTPhase::kRUNTIME);
  }
  std::unique_ptr<IPluginV3> attached(runtime(*plugin).attachToContext(nullptr));
  require(attached && attached != plugin, "attachToContext gave no plugin of its own");
  return std::unique_ptr<Node>(new Node{std::move(attached), std::move(inputs), out, workspace});
}

template <typename Body>
static int32_t guarded(const Body& body) {
  try {
    body();
    return 0;
  } catch (const std::exception& error) {
    sentence = error.what();
    return 1;
  }
}

extern "C" {

// What the last call that did not return 0 failed in.
const char* host_error() { return sentence.c_str(); }

int32_t host_open(const char* library) {
  return guarded([&] {
    void* handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    require(handle, handle ? "" : dlerror());
    using Get = IPluginCreatorInterface* const* (*)(int32_t&);
    const auto get = reinterpret_cast<Get>(dlsym(handle, "getCreators"));
    require(get, "the library has no getCreators");
    int32_t count = 0;
    IPluginCreatorInterface* const* found = get(count);
    for (int32_t i = 0; i < count; ++i) {
      auto* creator = static_cast<IPluginCreatorV3One*>(found[i]);
      creators[creator->getPluginName()] = creator;
    }
  });
}

// Builds a node. stored: its plugin is made from what an engine stores. Give it back with host_close.
int32_t host_node(const char* op, const PluginField* fields, int32_t fieldCount, const Tensor* inputs,
                  int32_t inputCount, int32_t stored, Node** made, Tensor* out, uint64_t* workspace) {
  return guarded([&] {
    *made = node(op, {fields, fields + fieldCount}, {inputs, inputs + inputCount}, stored).release();
    *out = (*made)->out;
    *workspace = (*made)->workspace;
  });
}

// Sets the shapes of the runs that follow.
int32_t host_shapes(Node* node, const Tensor* inputs, Tensor* out) {
  return guarded([&] {
    node->inputs.assign(inputs, inputs + node->inputs.size());
    node->out = *out = output(*node->plugin, node->inputs);
    std::vector<PluginTensorDesc> in;
    for (const Tensor& tensor : node->inputs) in.push_back(now(tensor));
    const PluginTensorDesc to = now(node->out);
    require(!runtime(*node->plugin).onShapeChange(in.data(), static_cast<int32_t>(in.size()), &to, 1),
            "onShapeChange failed");
  });
}

int32_t host_enqueue(Node* node, const void* const* arrays, void* out, void* workspace, cudaStream_t stream) {
  return guarded([&] {
    std::vector<PluginTensorDesc> in;
    for (const Tensor& tensor : node->inputs) in.push_back(now(tensor));
    const PluginTensorDesc to = now(node->out);
    require(!runtime(*node->plugin).enqueue(in.data(), &to, arrays, &out, workspace, stream), "enqueue failed");
  });
}

void host_close(Node* node) { delete node; }

}  // extern "C"
