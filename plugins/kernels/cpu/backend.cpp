// The CPU backend: the ops are compiled once per instruction set, the machine's best is chosen at the first call.
#include "../backend.h"

namespace sige::cpu {

sige_status scatter(const sige_scatter_args&, const sige_execution&);

#define SIGE_DECLARE(isa)                                                                                \
  namespace isa {                                                                                        \
  sige_status gather(const sige_gather_args&, const sige_execution&);                                    \
  sige_status conv(const sige_conv_args&, const sige_execution&);                                        \
  sige_status attention(const sige_attention_args&, const sige_execution&);                              \
  size_t gather_workspace(const sige_gather_args&);                                                      \
  size_t conv_workspace(const sige_conv_args&);                                                          \
  size_t attention_workspace(const sige_attention_args&);                                                \
  size_t packed_size(const sige_conv_args&);                                                             \
  void pack(const sige_conv_args&, void*);                                                               \
  constexpr Backend backend{gather,           conv,           scatter,             attention,            \
                            gather_workspace, conv_workspace, attention_workspace, packed_size, pack};   \
  }

SIGE_DECLARE(baseline)
#ifdef SIGE_AVX2
SIGE_DECLARE(avx2)
#endif
#ifdef SIGE_AVX512
SIGE_DECLARE(avx512)
#endif

static const Backend& choose() {
#ifdef SIGE_AVX512
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
    return avx512::backend;
#endif
#ifdef SIGE_AVX2
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return avx2::backend;
#endif
  return baseline::backend;
}

}  // namespace sige::cpu

namespace sige {

const Backend& cpu_backend() {
  static const Backend& chosen = cpu::choose();
  return chosen;
}

}  // namespace sige
