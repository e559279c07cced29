// The activations of docs/ops.md on four values at once, in the order of its table.
//
// Exponents are clamped: Metal compiles with fast math, where an overflow may become anything.
#pragma once

#include <metal_stdlib>
using namespace metal;

enum Activation { IDENTITY = 0, RELU, LEAKY_RELU, SILU, GELU, GELU_TANH, SIGMOID, TANH };

inline float4 sigmoid4(float4 x) { return 1.0f / (1.0f + exp(-clamp(x, float4(-80.0f), float4(80.0f)))); }

inline float4 tanh4(float4 x) { return tanh(clamp(x, float4(-10.0f), float4(10.0f))); }

// Metal has no erf. Abramowitz and Stegun 7.1.26, absolute error below 1.5e-7.
inline float4 erf4(float4 x) {
  const float4 a = min(abs(x), float4(6.0f));
  const float4 t = 1.0f / (1.0f + 0.3275911f * a);
  const float4 poly = ((((1.061405429f * t - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t + 0.254829592f) * t;
  const float4 y = 1.0f - poly * exp(-a * a);
  return select(y, -y, x < float4(0.0f));
}

inline float4 activate(int activation, float alpha, float4 x) {
  switch (activation) {
    case RELU: return max(x, float4(0.0f));
    case LEAKY_RELU: return select(x, alpha * x, x < float4(0.0f));
    case SILU: return x * sigmoid4(x);
    case GELU: return 0.5f * x * (1.0f + erf4(0.70710678f * x));
    case GELU_TANH: return 0.5f * x * (1.0f + tanh4(0.79788456f * (x + 0.044715f * x * x * x)));
    case SIGMOID: return sigmoid4(x);
    case TANH: return tanh4(x);
    default: return x;
  }
}
