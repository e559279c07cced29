// Vectors, elementwise functions and the parallel loop of the files that are compiled once per instruction set.
//
// Those files include nothing from the C++ library: the linker keeps one copy of an inline function, and it might be the
// one with instructions that the machine lacks.
#pragma once

#include <stdint.h>
#include <string.h>

#include "../backend.h"

#ifndef SIGE_ISA
#define SIGE_ISA baseline
#endif

#define SIGE_INLINE static inline __attribute__((always_inline))

namespace sige::cpu::SIGE_ISA {

// A tile of the matrix product is MAX_ROWS x (COLUMNS vectors): as many accumulators as there are registers.
#if defined(__AVX512F__)
constexpr int VECTOR = 16, COLUMNS = 2, MAX_ROWS = 14;
#elif defined(__AVX2__)
constexpr int VECTOR = 8, COLUMNS = 2, MAX_ROWS = 6;
#elif defined(__aarch64__)
constexpr int VECTOR = 4, COLUMNS = 4, MAX_ROWS = 6;
#else
constexpr int VECTOR = 4, COLUMNS = 2, MAX_ROWS = 6;
#endif

typedef float Vector __attribute__((vector_size(VECTOR * sizeof(float)), aligned(sizeof(float)), may_alias));

template <typename Body>
static void parallel(const sige_execution& execution, int64_t count, const Body& body) {
  if (!execution.parallel_for || count <= 1) {
    for (int64_t i = 0; i < count; ++i) body(i);
    return;
  }
  execution.parallel_for(
      execution.parallel_context, count,
      [](void* argument, int64_t i) { (*static_cast<const Body*>(argument))(i); }, const_cast<Body*>(&body));
}

SIGE_INLINE int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
SIGE_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// exp with 2 ulp, after Cephes' expf (netlib.org/cephes); branch-free, so that loops over it vectorise. Results below
// 1e-38 stay there and results above 1e26 stop there, which is enough for the functions below. No larger: compilers
// multiply every SiLU by what its clamped sigmoid would be, and products below 1e-38 take a hundred cycles each.
SIGE_INLINE float exponential(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 60.0f ? 60.0f : x;
  const float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;  // nearest integer
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float y = 1.9875691500e-4f;
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * r * r + r + 1.0f;
  return y * __builtin_bit_cast(float, (static_cast<int32_t>(n) + 127) << 23);
}

SIGE_INLINE float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

SIGE_INLINE float tangent(float x) { return 1.0f - 2.0f / (1.0f + exponential(2.0f * x)); }

// Abramowitz and Stegun 7.1.26, absolute error 1.5e-7.
SIGE_INLINE float error_function(float x) {
  const float a = x < 0 ? -x : x;
  const float t = 1.0f / (1.0f + 0.3275911f * a);
  float y = 1.061405429f;
  y = y * t - 1.453152027f;
  y = y * t + 1.421413741f;
  y = y * t - 0.284496736f;
  y = y * t + 0.254829592f;
  y = 1.0f - y * t * exponential(-a * a);
  return x < 0 ? -y : y;
}

static inline void activate(int32_t activation, float alpha, float* __restrict x, int64_t count) {
  switch (activation) {
    case SIGE_RELU:
      for (int64_t i = 0; i < count; ++i) x[i] = x[i] < 0 ? 0.0f : x[i];
      break;
    case SIGE_LEAKY_RELU:
      for (int64_t i = 0; i < count; ++i) x[i] = x[i] < 0 ? alpha * x[i] : x[i];
      break;
    case SIGE_SILU:
      for (int64_t i = 0; i < count; ++i) x[i] = x[i] * sigmoid(x[i]);
      break;
    case SIGE_GELU:
      for (int64_t i = 0; i < count; ++i) x[i] = 0.5f * x[i] * (1.0f + error_function(x[i] * 0.70710678f));
      break;
    case SIGE_GELU_TANH:
      for (int64_t i = 0; i < count; ++i)
        x[i] = 0.5f * x[i] * (1.0f + tangent(0.79788456f * (x[i] + 0.044715f * x[i] * x[i] * x[i])));
      break;
    case SIGE_SIGMOID:
      for (int64_t i = 0; i < count; ++i) x[i] = sigmoid(x[i]);
      break;
    case SIGE_TANH:
      for (int64_t i = 0; i < count; ++i) x[i] = tangent(x[i]);
      break;
    default: break;
  }
}

}  // namespace sige::cpu::SIGE_ISA
