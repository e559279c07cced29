// What the node of an op says of itself: attributes, and which of the op's inputs it has.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "../adapter/args.h"
#include "abi.h"

namespace sige::trt {

using namespace adapter;

using Kind = nvinfer1::PluginFieldType;

struct Attribute {
  const char* name;
  Kind kind;
};

// The names of the inputs that a node has, in the op's order, with spaces between. TensorRT numbers a plugin's inputs
// without gaps, so the node itself has to say which they are.
constexpr Attribute INPUTS_ATTRIBUTE{"inputs", Kind::kCHAR};

// A node's own attributes, in the form in which TensorRT passes and stores them. Never changes once made.
class Attributes {
 public:
  // Copies those of `given` that `known` names; throws for one of another type.
  Attributes(const std::vector<Attribute>& known, const nvinfer1::PluginFieldCollection* given);
  Attributes(const Attributes&) = delete;

  // The node's value, or `otherwise` where it has none.
  int32_t number(const char* name, int32_t otherwise) const;
  float real(const char* name, float otherwise) const;
  std::string text(const char* name, const char* otherwise) const;
  // The attribute that names an activation; throws for a name that docs/ops.md does not have.
  sige_activation activation(const char* name) const;

  const nvinfer1::PluginFieldCollection* fields() const { return &collection_; }

 private:
  const nvinfer1::PluginField* find(const char* name) const;

  std::deque<std::string> values_;
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection collection_{};
};

// Which inputs of an op a node has, and where.
class Inputs {
 public:
  // Throws for a name that the op does not have, one out of order, and a required one that is missing.
  Inputs(const Input* signature, size_t count, const std::string& names);

  const Input& signature(size_t index) const { return signature_[index]; }
  bool has(size_t index) const { return places_[index] >= 0; }
  // Position among those that the node has; -1 for one that it lacks.
  int32_t place(size_t index) const { return places_[index]; }
  // The input at a position.
  const Input& at(int32_t place) const { return signature_[order_[static_cast<size_t>(place)]]; }
  int32_t count() const { return static_cast<int32_t>(order_.size()); }

 private:
  const Input* signature_;
  std::vector<int32_t> places_;
  std::vector<size_t> order_;
};

}  // namespace sige::trt
