// Scatter: rows over a copy of the base. Bytes only, so it serves every dtype.
#include <string.h>

#include "../backend.h"

namespace sige::cpu {

sige_status scatter(const sige_scatter_args& a, const sige_execution&) {
  const size_t row = a.channels * (a.dtype == SIGE_FLOAT16 ? 2 : 4);
  if (a.out != a.base) memcpy(a.out, a.base, a.batch * row * a.pixels);
  const char* from = static_cast<const char*>(a.rows);
  for (int64_t b = 0; b < a.batch; ++b) {
    char* image = static_cast<char*>(a.out) + b * a.pixels * row;
    for (int64_t p = 0; p < a.fresh; ++p, from += row) memcpy(image + a.active[p] * row, from, row);
  }
  return SIGE_OK;
}

}  // namespace sige::cpu
