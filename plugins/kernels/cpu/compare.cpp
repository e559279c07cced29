// Comparison of inputs with the recorded ones, one element after the other.
#include "../compare.h"

#include <string.h>

#include "../edit.h"

namespace sige::cpu {
namespace {

// An IEEE half, read only.
struct Half {
  uint16_t bits;
  operator float() const {
    const uint32_t sign = uint32_t(bits & 0x8000u) << 16, exponent = bits >> 10 & 31, fraction = bits & 0x3ffu;
    if (exponent == 0) return copysignf(ldexpf(float(fraction), -24), sign ? -1.0f : 1.0f);
    const uint32_t word = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | fraction << 13;
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
  }
};

template <typename T>
void compare_one(const sige_compare_args& a, int32_t* status) {
  const T* const given = static_cast<const T*>(a.given);
  const T* const recorded = static_cast<const T*>(a.recorded);
  uint8_t* mask = a.mask;
  int32_t broken = 0, changed = 0;
  for (int32_t y = 0; y < a.size[2]; ++y) {
    for (int32_t x = 0; x < a.size[3]; ++x) {
      uint8_t edited = 0;
      for (int32_t n = 0; n < a.size[0]; ++n) {
        for (int32_t c = 0; c < a.size[1]; ++c) {
          const int64_t at = n * a.stride[0] + c * a.stride[1] + y * a.stride[2] + x * a.stride[3];
          broken |= !is_finite(given[at]);
          if (!recorded) continue;
          changed |= memcmp(given + at, recorded + at, sizeof(T)) != 0;
          edited |= differs(given[at], recorded[at], a.eps);
        }
      }
      if (mask) *mask++ = edited;
    }
  }
  status[0] = broken;
  status[1] = changed;
}

}  // namespace

sige_status compare(const sige_compare_args* args, int32_t count, int32_t* status, const sige_execution&) {
  for (int32_t i = 0; i < count; ++i) {
    with_element<Half>(args[i].element, [&](auto type) { compare_one<decltype(type)>(args[i], status + 2 * i); });
  }
  return SIGE_OK;
}

}  // namespace sige::cpu
