// Element types, sizes, and arrays.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "sige/session.h"

namespace sige {

std::optional<DType> dtype_named(const std::string& name);

// The type as sige/indices.h has it (sige_element).
int32_t element_of(DType dtype);

// Elements of an array; throws Error where it has more than fit any memory.
int64_t count_of(const Shape& shape);

inline size_t bytes_of(const View& view) { return static_cast<size_t>(count_of(view.shape)) * size_of(view.dtype); }

// An array of zeros, and a copy.
Array empty(DType dtype, const Shape& shape);
Array copied(const View& view);

inline Error out_of_memory(const std::string& doing) {
  return {Kind::RUNTIME, doing + " ran out of memory; free some, or export the network at a smaller size."};
}

// Throws Error with the status's sentence unless it is SIGE_OK.
void check(int32_t status);

}  // namespace sige
