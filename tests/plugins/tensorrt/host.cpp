// Drives plugins as TensorRT does before a run: created, cloned, described, stored and made again, without a GPU.
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "abi.h"

using namespace nvinfer1;

#define REQUIRE(condition)                                                             \
  if (!(condition)) {                                                                  \
    std::printf("%s: line %d: %s\n", current.c_str(), __LINE__, #condition);           \
    std::exit(1);                                                                      \
  }

static std::string current;
static std::map<std::string, IPluginCreatorV3One*> creators;

// Attributes of a node, kept alive here.
struct Fields {
  std::vector<PluginField> list;
  std::vector<std::shared_ptr<void>> values;
  PluginFieldCollection collection{};

  Fields& text(const char* name, const char* value) {
    return add(name, value, PluginFieldType::kCHAR, std::strlen(value));
  }
  Fields& number(const char* name, int32_t value) {
    return add(name, keep(value), PluginFieldType::kINT32, 1);
  }
  Fields& real(const char* name, float value) { return add(name, keep(value), PluginFieldType::kFLOAT32, 1); }
  Fields& add(const char* name, const void* data, PluginFieldType type, size_t length) {
    PluginField field;
    field.name = name, field.data = data, field.type = type, field.length = static_cast<int32_t>(length);
    list.push_back(field);
    return *this;
  }
  template <typename T>
  const void* keep(T value) {
    values.push_back(std::make_shared<T>(value));
    return values.back().get();
  }
  IPluginV3* create(const char* op) {
    collection = {static_cast<int32_t>(list.size()), list.data()};
    return creators.at(op)->createPlugin(op, &collection, TensorRTPhase::kBUILD);
  }
};

static IPluginV3OneBuild* build(IPluginV3* plugin) {
  return static_cast<IPluginV3OneBuild*>(plugin->getCapabilityInterface(PluginCapabilityType::kBUILD));
}
static IPluginV3OneRuntime* runtime(IPluginV3* plugin) {
  return static_cast<IPluginV3OneRuntime*>(plugin->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
}

static bool same(const PluginFieldCollection& a, const PluginFieldCollection& b) {
  if (a.nbFields != b.nbFields) return false;
  for (int32_t i = 0; i < a.nbFields; ++i) {
    const PluginField &x = a.fields[i], &y = b.fields[i];
    const size_t bytes = static_cast<size_t>(x.length) * (x.type == PluginFieldType::kCHAR ? 1 : 4);
    if (std::strcmp(x.name, y.name) || x.type != y.type || x.length != y.length || std::memcmp(x.data, y.data, bytes))
      return false;
  }
  return true;
}

// A tensor whose sizes of -1 are at most `most`.
static DynamicPluginTensorDesc tensor(DataType type, std::vector<int64_t> sizes, int64_t most = 1000) {
  DynamicPluginTensorDesc made{};
  made.desc.type = type;
  made.desc.dims.nbDims = made.min.nbDims = made.opt.nbDims = made.max.nbDims = static_cast<int32_t>(sizes.size());
  for (size_t i = 0; i < sizes.size(); ++i) {
    made.desc.dims.d[i] = sizes[i];
    made.min.d[i] = sizes[i] < 0 ? 0 : sizes[i];
    made.opt.d[i] = made.max.d[i] = sizes[i] < 0 ? most : sizes[i];
  }
  return made;
}

using Sizes = std::vector<std::vector<int64_t>>;

// All that TensorRT asks while it builds an engine. `indices`: which inputs are int32; `wrong`: sizes that do not fit.
static void drive(const char* op, Fields fields, Sizes sizes, std::vector<bool> indices, std::vector<int64_t> result,
                  size_t input, std::vector<int64_t> wrong) {
  current = op;
  IPluginV3* first = fields.create(op);
  REQUIRE(first);
  IPluginV3* plugin = first->clone();
  REQUIRE(plugin && plugin != first);
  delete first;

  auto* core = static_cast<IPluginV3OneCore*>(plugin->getCapabilityInterface(PluginCapabilityType::kCORE));
  REQUIRE(core && !std::strcmp(core->getPluginName(), op) && !std::strcmp(core->getPluginNamespace(), "sige"));
  REQUIRE(!std::strcmp(core->getPluginVersion(), "1"));
  const PluginFieldCollection* stored = runtime(plugin)->getFieldsToSerialize();
  REQUIRE(same(*stored, fields.collection));
  IPluginV3* again = creators.at(op)->createPlugin(op, stored, TensorRTPhase::kRUNTIME);
  REQUIRE(again && same(*runtime(again)->getFieldsToSerialize(), fields.collection));
  delete again;

  const int32_t count = static_cast<int32_t>(sizes.size());
  for (DataType type : {DataType::kFLOAT, DataType::kHALF}) {
    std::vector<DynamicPluginTensorDesc> all;
    for (int32_t i = 0; i < count; ++i) all.push_back(tensor(indices[i] ? DataType::kINT32 : type, sizes[i]));
    all.push_back(tensor(type, result));
    REQUIRE(build(plugin)->getNbOutputs() == 1);
    for (int32_t i = 0; i <= count; ++i) {
      REQUIRE(build(plugin)->supportsFormatCombination(i, all.data(), count, 1));
      REQUIRE(!build(plugin)->supportsFormatCombination(i, all.data(), count + 1, 1));
      std::vector<DynamicPluginTensorDesc> other = all;
      other[i].desc.type = static_cast<DataType>(8);  // int64
      REQUIRE(!build(plugin)->supportsFormatCombination(i, other.data(), count, 1));
      other[i].desc.type = type == DataType::kFLOAT ? DataType::kHALF : DataType::kFLOAT;
      REQUIRE(!i || !build(plugin)->supportsFormatCombination(i, other.data(), count, 1));
    }
    DataType out{};
    REQUIRE(!build(plugin)->getOutputDataTypes(&out, 1, &all[0].desc.type, count) && out == type);
    REQUIRE(!build(plugin)->configurePlugin(all.data(), count, &all[count], 1));
    const size_t most = build(plugin)->getWorkspaceSize(all.data(), count, &all[count], 1);
    std::vector<DynamicPluginTensorDesc> fewer = all;
    for (int32_t i = 0; i < count; ++i) fewer[i] = tensor(all[i].desc.type, sizes[i], 10);
    REQUIRE(build(plugin)->getWorkspaceSize(fewer.data(), count, &all[count], 1) <= most);
    fewer[input] = tensor(fewer[input].desc.type, wrong);
    REQUIRE(build(plugin)->configurePlugin(fewer.data(), count, &all[count], 1));
  }
  IPluginV3* attached = runtime(plugin)->attachToContext(nullptr);
  REQUIRE(attached && attached != plugin);
  delete attached;
  delete plugin;
}

static void refused(const char* op, Fields fields) {
  current = std::string(op) + ", refused";
  REQUIRE(!fields.create(op));
}

int main(int, char** arguments) {
  void* library = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
  if (!library) return std::printf("%s\n", dlerror()), 1;
  const auto get = reinterpret_cast<IPluginCreatorInterface* const* (*)(int32_t&)>(dlsym(library, "getCreators"));
  int32_t count = 0;
  IPluginCreatorInterface* const* found = get(count);
  for (int32_t i = 0; i < count; ++i) {
    auto* creator = static_cast<IPluginCreatorV3One*>(found[i]);
    creators[creator->getPluginName()] = creator;
  }
  current = "creators";
  REQUIRE(creators.size() == 4);

  drive("Gather",
        Fields().text("inputs", "rows base halo table scale shift").text("activation", "leaky_relu")
            .real("alpha", 0.2f).number("phases", 2).real("pad_value", -1.0f),
        {{2, -1, 16}, {2, 96, 16}, {-1}, {-1, 9}, {1, 1, 16}, {2, 1, 16}}, {false, false, true, true, false, false},
        {2, -1, 72}, 4, {1, 1, 15});
  drive("Gather", Fields().text("inputs", "rows base halo table rows_2 base_2"),
        {{1, -1, 16}, {1, 96, 16}, {-1}, {-1, 4}, {1, -1, 8}, {1, 96, 8}}, {false, false, true, true, false, false},
        {1, -1, 96}, 5, {1, 95, 8});
  drive("Conv",
        Fields().text("inputs", "rows base halo table weight bias scale shift embedding residual multiplier")
            .number("group", 2).text("activation_in", "silu").text("activation_out", "tanh").real("alpha_out", 0.5f),
        {{2, -1, 16}, {2, 96, 16}, {-1}, {-1, 9}, {9, 8, 32}, {32}, {2, 1, 16}, {2, 1, 16}, {2, 1, 32}, {2, -1, 32},
         {2, -1, 32}},
        {false, false, true, true, false, false, false, false, false, false, false}, {2, -1, 32}, 4, {8, 8, 32});
  drive("Conv", Fields().text("inputs", "rows weight"), {{1, -1, 16}, {1, 16, 8}}, {false, false}, {1, -1, 8}, 1,
        {1, 15, 8});
  drive("Conv",
        Fields().text("inputs", "rows weight bias residual").text("gate", "gelu").real("norm_epsilon", 1e-5f),
        {{1, -1, 16}, {1, 16, 24}, {24}, {1, -1, 12}}, {false, false, false, false}, {1, -1, 12}, 1, {1, 15, 24});
  drive("Scatter", Fields().text("inputs", "base rows active"), {{2, 96, 16}, {2, -1, 16}, {-1}},
        {false, false, true}, {2, 96, 16}, 1, {2, -1, 15});
  drive("Attention", Fields().text("inputs", "q k v k_base v_base active").number("heads", 4).real("scale", 0.5f),
        {{2, -1, 64}, {2, -1, 64}, {2, -1, 32}, {2, 96, 64}, {2, 96, 32}, {-1}},
        {false, false, false, false, false, true}, {2, -1, 32}, 4, {2, 95, 32});
  drive("Attention",
        Fields().text("inputs", "q k v k_base v_base active").number("heads", 4).number("dk", 16).number("dv", 8)
            .number("q_offset", 32).number("k_offset", 96).number("v_base_offset", 64),
        {{2, -1, 160}, {2, -1, 160}, {2, -1, 32}, {2, 96, 64}, {2, 96, 96}, {-1}},
        {false, false, false, false, false, true}, {2, -1, 32}, 4, {2, 96, 95});

  refused("Conv", Fields().text("inputs", "rows"));                                       // no weight
  refused("Conv", Fields().text("inputs", "weight rows"));                                // out of order
  refused("Conv", Fields().text("inputs", "rows base weight"));                           // no table
  refused("Conv", Fields().text("inputs", "rows weight").text("activation_in", "mish"));  // no such activation
  refused("Conv", Fields().text("inputs", "rows weight").real("group", 2.0f));            // a number of another type
  refused("Gather", Fields().text("inputs", "rows").number("phases", 2));                 // phases without a table
  refused("Scatter", Fields());                                                           // no inputs
  refused("Attention", Fields().text("inputs", "q k v k_base v_base active"));            // no heads
  refused("Attention", Fields().text("inputs", "q k_base v_base").number("heads", 4).number("dk", 8));  // no dv
  refused("Attention", Fields().text("inputs", "q k_base v_base").number("heads", 4).number("q_offset", 8));  // no dk
  std::printf("all as expected\n");
}
