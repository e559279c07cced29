// What the CUDA files share: 16-byte vectors, activations, division by a run-time constant.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "../backend.h"
#include "failure.h"

namespace sige::cuda {

constexpr int THREADS = 256;                    // per block of an elementwise kernel
constexpr int64_t MAX_VECTORS = 0x7fffffff;     // of one launch, so that 32-bit indices suffice

// N values of one array, loaded and stored at once.
template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
  T at[N];
};

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__half x) { return __half2float(x); }
template <typename T>
__device__ T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) { return x; }
template <>
__device__ inline __half from_float<__half>(float x) { return __float2half_rn(x); }

__device__ inline float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }

// To 1.5e-7 (Abramowitz and Stegun 1964, 7.1.26), in half the instructions of erff.
__device__ inline float error_function(float x) {
  const float t = __fdividef(1.0f, fmaf(0.3275911f, fabsf(x), 1.0f));
  float sum = fmaf(t, 1.061405429f, -1.453152027f);
  sum = fmaf(t, sum, 1.421413741f);
  sum = fmaf(t, sum, -0.284496736f);
  sum = fmaf(t, sum, 0.254829592f);
  return copysignf(1.0f - t * sum * __expf(-x * x), x);
}

// A call: long functions would make kernels larger that run for a few microseconds and wait for their instructions.
static __device__ __noinline__ float tangent(float x) { return tanhf(x); }

// Activates N values. The choice is outside of the loops: one branch, not one per value.
template <int N>
__device__ void activate(int activation, float alpha, float (&x)[N]) {
  const auto each = [&](const auto& function) {
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] = function(x[i]);
  };
  switch (activation) {
    case SIGE_RELU: return each([](float v) { return v < 0.0f ? 0.0f : v; });
    case SIGE_LEAKY_RELU: return each([=](float v) { return v < 0.0f ? alpha * v : v; });
    case SIGE_SILU: return each([](float v) { return v * sigmoid(v); });
    case SIGE_GELU: return each([](float v) { return 0.5f * v * (1.0f + error_function(v * 0.70710678f)); });
    case SIGE_GELU_TANH:
      return each([](float v) { return 0.5f * v * (1.0f + tangent(0.79788456f * (v + 0.044715f * v * v * v))); });
    case SIGE_SIGMOID: return each([](float v) { return sigmoid(v); });
    case SIGE_TANH: return each([](float v) { return tangent(v); });
    default: return;
  }
}

// Quotient and remainder by multiplication (Granlund and Montgomery 1994), for 0 <= x < 2^31.
struct Divider {
  uint32_t divisor, multiplier, shift;

  explicit Divider(int64_t value) : divisor(static_cast<uint32_t>(value)), multiplier(0), shift(0) {
    while ((1ull << shift) < divisor) ++shift;
    multiplier = static_cast<uint32_t>(((1ull << 32) * ((1ull << shift) - divisor)) / divisor + 1);
  }
  __device__ void divide(uint32_t x, uint32_t& quotient, uint32_t& remainder) const {
    quotient = (__umulhi(x, multiplier) + x) >> shift;
    remainder = x - quotient * divisor;
  }
};

inline bool aligned(const void* pointer, size_t bytes) { return reinterpret_cast<uintptr_t>(pointer) % bytes == 0; }

inline size_t element_size(int32_t dtype) { return dtype == SIGE_FLOAT16 ? 2 : 4; }

inline cudaStream_t stream_of(const sige_execution& execution) { return static_cast<cudaStream_t>(execution.stream); }

template <int N>
struct Width {
  static constexpr int value = N;
};

// Calls op(T{}, Width<N>{}) with the widest vector of up to 16 bytes that divides `channels`; `aligned16` says that
// every array is aligned to 16 bytes.
template <typename Op>
sige_status with_vector(int32_t dtype, int64_t channels, bool aligned16, const Op& op) {
  if (dtype == SIGE_FLOAT16) {
    if (aligned16 && channels % 8 == 0) return op(__half{}, Width<8>{});
    if (aligned16 && channels % 4 == 0) return op(__half{}, Width<4>{});
    return op(__half{}, Width<1>{});
  }
  if (aligned16 && channels % 4 == 0) return op(float{}, Width<4>{});
  return op(float{}, Width<1>{});
}

}  // namespace sige::cuda
