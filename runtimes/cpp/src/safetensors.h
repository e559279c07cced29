// A safetensors file: eight bytes of header length, a JSON header, the tensors' bytes.
#pragma once

#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "arrays.h"

namespace sige {

// What is wrong with a file of the bundle.
struct Damaged {
  std::string what;
};

// All of a file in memory. Methods throw Damaged and nlohmann::json::exception.
class Tensors {
 public:
  explicit Tensors(const std::filesystem::path& file);

  bool has(const std::string& name) const { return header_.contains(name); }

  // Names of all tensors.
  std::vector<std::string> names() const;

  // A tensor of any dtype that there is.
  View view(const std::string& name) const;

  // Values of a tensor, and its shape.
  template <typename T>
  std::vector<T> read(const std::string& name, DType dtype, Shape& shape) const {
    const View found = view(name);
    if (found.dtype != dtype) throw Damaged{name + " has type " + name_of(found.dtype)};
    shape = found.shape;
    std::vector<T> values(bytes_of(found) / sizeof(T));
    if (!values.empty()) std::memcpy(values.data(), found.data, values.size() * sizeof(T));
    return values;
  }

 private:
  std::vector<char> data_;
  nlohmann::json header_;
  size_t start_ = 0;
};

}  // namespace sige
