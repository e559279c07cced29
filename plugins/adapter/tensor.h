// What the adapters of all engines share: typed inputs, tensors as an op sees them, errors.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>

#include "sige/kernels.h"

namespace sige::adapter {

enum class Type { VALUES, INDICES };  // T of docs/ops.md; int32

struct Input {
  const char* name;
  Type type;
  bool required;
};

// Throws the status's sentence.
inline void check(sige_status status) {
  if (status) throw std::runtime_error(sige_status_string(status));
}

inline int32_t to_int32(int64_t value, const char* what) {
  if (value < INT32_MIN || value > INT32_MAX)
    throw std::runtime_error(std::string(what) + " is " + std::to_string(value) + ", beyond 32 bits.");
  return static_cast<int32_t>(value);
}

constexpr int64_t ANY = -1;  // a size that fits anything

struct Tensor {
  const void* data = nullptr;  // null for an input that is left out
  std::array<int64_t, 3> shape{};
  size_t rank = 0;

  template <typename T>
  const T* as() const { return static_cast<const T*>(data); }
  int32_t size(size_t axis) const { return to_int32(shape[axis], "a size"); }
};

// A shape in an error's sentence.
inline std::string text(const int64_t* sizes, size_t rank) {
  std::string result = "[";
  for (size_t i = 0; i < rank; ++i) {
    if (i) result += ", ";
    result += sizes[i] == ANY ? "any" : std::to_string(sizes[i]);
  }
  return result + "]";
}

inline std::runtime_error misshapen(const Input& input, const int64_t* shape, size_t rank,
                                    std::initializer_list<int64_t> expected) {
  return std::runtime_error(std::string(input.name) + " has shape " + text(shape, rank) + ", expected " +
                            text(expected.begin(), expected.size()) + ".");
}

// The activation that the attribute `name` names; throws for a value that docs/ops.md does not have.
inline sige_activation activation_of(const char* name, const std::string& value) {
  constexpr const char* NAMES[] = {"identity", "relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid", "tanh"};
  for (int32_t i = 0; i <= SIGE_TANH; ++i)
    if (value == NAMES[i]) return static_cast<sige_activation>(i);
  throw std::runtime_error(std::string(name) + " is '" + value + "', which is no activation of the op set.");
}

}  // namespace sige::adapter
