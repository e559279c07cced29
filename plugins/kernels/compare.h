// What the backends' comparisons share: the element types, and when two elements differ.
#pragma once

#include <math.h>
#include <stdint.h>

#include <type_traits>

#include "sige/indices.h"

#ifdef __CUDACC__
#define SIGE_COMPARE_HD __host__ __device__ inline
#else
#define SIGE_COMPARE_HD inline
#endif

namespace sige {

// What elements are compared in, unless exactly; a half is the one type that is neither an integer nor a C++ float.
template <typename T>
constexpr bool IS_FLOAT = !std::is_integral_v<T>;
template <typename T>
using Wide = std::conditional_t<IS_FLOAT<T> && sizeof(T) <= 4, float, double>;

// Whether |a - b| > eps, as masks.difference_mask has it; integers are compared exactly with eps 0.
template <typename T>
SIGE_COMPARE_HD bool differs(T a, T b, double eps) {
  using Exact = std::conditional_t<IS_FLOAT<T>, Wide<T>, T>;
  if (eps == 0) return static_cast<Exact>(a) != static_cast<Exact>(b);
  const Wide<T> difference = static_cast<Wide<T>>(a) - static_cast<Wide<T>>(b);
  return (difference < 0 ? -difference : difference) > static_cast<Wide<T>>(eps);
}

template <typename T>
SIGE_COMPARE_HD bool different_bits(const T& a, const T& b) {
  if constexpr (std::is_integral_v<T>) {
    return a != b;
  } else {
    using Bits = std::conditional_t<sizeof(T) == 2, uint16_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>>;
    return reinterpret_cast<const Bits&>(a) != reinterpret_cast<const Bits&>(b);
  }
}

template <typename T>
SIGE_COMPARE_HD bool is_finite(T value) {
  const Wide<T> x = static_cast<Wide<T>>(value);
  return !IS_FLOAT<T> || x - x == 0;
}

inline int32_t element_bytes(int32_t element) {
  constexpr int32_t BYTES[] = {2, 4, 8, 1, 2, 4, 8, 1, 2, 4, 8};
  return BYTES[element];
}

// Calls op(T{}) with the type of an element.
template <typename Half, typename Op>
SIGE_COMPARE_HD void with_element(int32_t element, const Op& op) {
  switch (element) {
    case SIGE_ELEMENT_FLOAT16: return op(Half{});
    case SIGE_ELEMENT_FLOAT32: return op(float{});
    case SIGE_ELEMENT_FLOAT64: return op(double{});
    case SIGE_ELEMENT_INT8: return op(int8_t{});
    case SIGE_ELEMENT_INT16: return op(int16_t{});
    case SIGE_ELEMENT_INT32: return op(int32_t{});
    case SIGE_ELEMENT_INT64: return op(int64_t{});
    case SIGE_ELEMENT_UINT8: return op(uint8_t{});
    case SIGE_ELEMENT_UINT16: return op(uint16_t{});
    case SIGE_ELEMENT_UINT32: return op(uint32_t{});
    default: return op(uint64_t{});
  }
}

}  // namespace sige
