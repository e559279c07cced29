// Gather: neighbourhoods of target pixels, copied side by side; without a table, the rows transformed into the output.
#include "source.h"

namespace sige::cpu::SIGE_ISA {

constexpr int64_t GATHER_ROWS = 64;  // target pixels per task

size_t gather_workspace(const sige_gather_args& a) { return a.source.table ? source_workspace(a.source) : 0; }

sige_status gather(const sige_gather_args& a, const sige_execution& execution) {
  const sige_source& s = a.source;
  if (!s.table) {
    transform_rows(s, static_cast<float*>(a.out), execution);
    return SIGE_OK;
  }
  const Source source = prepare(s, execution);
  const int64_t width = s.channels / a.phases, tasks = ceil_div(s.targets, GATHER_ROWS);
  parallel(execution, s.batch * tasks, [&](int64_t task) {
    const int64_t b = task / tasks, first = task % tasks * GATHER_ROWS;
    const int64_t last = min(first + GATHER_ROWS, s.targets);
    const float* const* pointers = source.image(b);
    float* out = static_cast<float*>(a.out) + (b * s.targets + first) * s.taps * width;
    for (int64_t i = first * s.taps; i < last * s.taps; ++i, out += width) {
      const int32_t entry = s.table[i];
      if (entry < 0) {
        for (int64_t c = 0; c < width; ++c) out[c] = a.pad_value;
      } else {
        memcpy(out, pointers[entry / a.phases] + entry % a.phases * width, width * sizeof(float));
      }
    }
  });
  return SIGE_OK;
}

}  // namespace sige::cpu::SIGE_ISA
