// Element types, sizes, and arrays.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "sige/session.h"

namespace sige {

using Arrays = std::map<std::string, Array>;
using Views = std::map<std::string, View>;

struct ArraySpec {
  std::string name;
  DType dtype;
  Shape shape;
};

std::optional<DType> dtype_named(const std::string& name);

// The type as safetensors files name it ("F32"), and back.
const char* saved_name(DType dtype);
std::optional<DType> dtype_saved(const std::string& name);

// The type as sige/indices.h has it (sige_element).
int32_t element_of(DType dtype);

// Elements of an array; throws Error where it has more than fit any memory.
int64_t count_of(const Shape& shape);

template <typename Spec>  // a View or an ArraySpec
size_t bytes_of(const Spec& array) {
  return static_cast<size_t>(count_of(array.shape)) * size_of(array.dtype);
}

// An array of zeros, and a copy, on the host.
Array empty(DType dtype, const Shape& shape);
Array copied(const View& view);

inline Error out_of_memory(const std::string& doing) {
  return {Kind::RUNTIME, doing + " ran out of memory; free some, or export the network at a smaller size."};
}

// Throws Error with the status's sentence unless it is SIGE_OK.
void check(int32_t status);

}  // namespace sige
