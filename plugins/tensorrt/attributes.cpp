#include "attributes.h"

#include <cstring>
#include <sstream>
#include <stdexcept>

namespace sige::trt {

static size_t element_bytes(Kind kind) { return kind == Kind::kCHAR ? 1 : 4; }

Attributes::Attributes(const std::vector<Attribute>& known, const nvinfer1::PluginFieldCollection* given) {
  for (int32_t i = 0; given && i < given->nbFields; ++i) {
    const nvinfer1::PluginField& field = given->fields[i];
    for (const Attribute& attribute : known) {
      if (std::strcmp(attribute.name, field.name)) continue;
      if (field.type != attribute.kind || (attribute.kind != Kind::kCHAR && field.length != 1))
        throw std::runtime_error(std::string("attribute ") + field.name + " has another type than the op gives it.");
      const size_t bytes = static_cast<size_t>(field.length) * element_bytes(attribute.kind);
      const std::string& value = values_.emplace_back(static_cast<const char*>(field.data), bytes);
      fields_.emplace_back();
      fields_.back().name = attribute.name;
      fields_.back().data = value.data();
      fields_.back().type = field.type;
      fields_.back().length = field.length;
    }
  }
  collection_.nbFields = static_cast<int32_t>(fields_.size());
  collection_.fields = fields_.data();
}

const nvinfer1::PluginField* Attributes::find(const char* name) const {
  for (const nvinfer1::PluginField& field : fields_)
    if (!std::strcmp(field.name, name)) return &field;
  return nullptr;
}

int32_t Attributes::number(const char* name, int32_t otherwise) const {
  if (const nvinfer1::PluginField* field = find(name)) std::memcpy(&otherwise, field->data, sizeof otherwise);
  return otherwise;
}

float Attributes::real(const char* name, float otherwise) const {
  if (const nvinfer1::PluginField* field = find(name)) std::memcpy(&otherwise, field->data, sizeof otherwise);
  return otherwise;
}

std::string Attributes::text(const char* name, const char* otherwise) const {
  const nvinfer1::PluginField* field = find(name);
  if (!field) return otherwise;
  const std::string value(static_cast<const char*>(field->data), static_cast<size_t>(field->length));
  return value.substr(0, value.find('\0'));  // some callers count the zero at the end
}

sige_activation Attributes::activation(const char* name) const { return activation_of(name, text(name, "identity")); }

Inputs::Inputs(const Input* signature, size_t count, const std::string& names)
    : signature_(signature), places_(count, -1) {
  std::istringstream words(names);
  size_t index = 0;
  for (std::string name; words >> name; ++index) {
    while (index < count && name != signature[index].name) ++index;
    if (index == count)
      throw std::runtime_error("attribute inputs names '" + name + "', which is no input of the op or out of order.");
    places_[index] = static_cast<int32_t>(order_.size());
    order_.push_back(index);
  }
  for (size_t i = 0; i < count; ++i)
    if (signature[i].required && !has(i))
      throw std::runtime_error(std::string("attribute inputs lacks '") + signature[i].name + "', a required input.");
}

}  // namespace sige::trt
