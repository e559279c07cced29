#include "arrays.h"

#include <cctype>
#include <cstring>

#include "sige/indices.h"

namespace sige {

constexpr int64_t LARGEST = int64_t{1} << 44;  // elements

struct Element {
  DType dtype;
  const char* name;
  const char* saved;
  size_t bytes;
  int32_t element;
};

constexpr Element ELEMENTS[] = {
    {DType::FLOAT16, "float16", "F16", 2, SIGE_ELEMENT_FLOAT16},
    {DType::FLOAT32, "float32", "F32", 4, SIGE_ELEMENT_FLOAT32},
    {DType::FLOAT64, "float64", "F64", 8, SIGE_ELEMENT_FLOAT64},
    {DType::BOOL, "bool", "BOOL", 1, SIGE_ELEMENT_UINT8},
    {DType::INT8, "int8", "I8", 1, SIGE_ELEMENT_INT8},
    {DType::INT16, "int16", "I16", 2, SIGE_ELEMENT_INT16},
    {DType::INT32, "int32", "I32", 4, SIGE_ELEMENT_INT32},
    {DType::INT64, "int64", "I64", 8, SIGE_ELEMENT_INT64},
    {DType::UINT8, "uint8", "U8", 1, SIGE_ELEMENT_UINT8},
    {DType::UINT16, "uint16", "U16", 2, SIGE_ELEMENT_UINT16},
    {DType::UINT32, "uint32", "U32", 4, SIGE_ELEMENT_UINT32},
    {DType::UINT64, "uint64", "U64", 8, SIGE_ELEMENT_UINT64},
};

const char* name_of(DType dtype) { return ELEMENTS[static_cast<int>(dtype)].name; }

size_t size_of(DType dtype) { return ELEMENTS[static_cast<int>(dtype)].bytes; }

int32_t element_of(DType dtype) { return ELEMENTS[static_cast<int>(dtype)].element; }

std::optional<DType> dtype_named(const std::string& name) {
  for (const Element& element : ELEMENTS)
    if (name == element.name) return element.dtype;
  return std::nullopt;
}

const char* saved_name(DType dtype) { return ELEMENTS[static_cast<int>(dtype)].saved; }

std::optional<DType> dtype_saved(const std::string& name) {
  for (const Element& element : ELEMENTS)
    if (name == element.saved) return element.dtype;
  return std::nullopt;
}

int64_t count_of(const Shape& shape) {
  int64_t count = 1;
  for (int64_t size : shape)
    if (__builtin_mul_overflow(count, size, &count) || count > LARGEST)
      throw Error(Kind::BUNDLE, "an array of the bundle is larger than any memory; export the bundle anew.");
  return count;
}

Array empty(DType dtype, const Shape& shape) {
  return {dtype, shape, std::vector<unsigned char>(static_cast<size_t>(count_of(shape)) * size_of(dtype)), nullptr};
}

Array copied(const View& view) {
  const auto* from = static_cast<const unsigned char*>(view.data);
  return {view.dtype, view.shape, std::vector<unsigned char>(from, from + bytes_of(view)), nullptr};
}

void check(int32_t status) {
  if (!status) return;
  std::string text = sige_status_string(status);
  text[0] = static_cast<char>(std::tolower(static_cast<unsigned char>(text[0])));
  throw Error(Kind::RUNTIME, "the native kernels failed: " + text);
}

}  // namespace sige
