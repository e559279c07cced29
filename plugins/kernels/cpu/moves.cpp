// Rows out of dense arrays and into them, and whole arrays. Bytes only, so it serves every dtype.
#include <string.h>

#include "../edit.h"

namespace sige::cpu {
namespace {

template <bool TAKE>
sige_status move(const sige_move_args* args, int32_t count, const sige_execution&) {
  for (int32_t i = 0; i < count; ++i) {
    const sige_move_args& a = args[i];
    char* row = static_cast<char*>(a.rows);
    for (int32_t b = 0; b < a.batch; ++b) {
      for (int32_t p = 0; p < a.fresh; ++p) {
        const int64_t pixel = a.n[b] + a.y[a.active[p] / a.width] + a.x[a.active[p] % a.width];
        for (int32_t c = 0; c < a.channels; ++c, row += a.bytes) {
          if (a.c[c] < 0) continue;
          char* const entry = static_cast<char*>(a.dense) + (pixel + a.c[c]) * a.bytes;
          memcpy(TAKE ? row : entry, TAKE ? entry : row, a.bytes);
        }
      }
    }
  }
  return SIGE_OK;
}

}  // namespace

sige_status take_rows(const sige_move_args* args, int32_t count, const sige_execution& execution) {
  return move<true>(args, count, execution);
}
sige_status put_rows(const sige_move_args* args, int32_t count, const sige_execution& execution) {
  return move<false>(args, count, execution);
}

sige_status copy(const sige_copy_args* args, int32_t count, const sige_execution&) {
  for (int32_t i = 0; i < count; ++i) {
    if (args[i].bytes) memcpy(args[i].to, args[i].from, args[i].bytes);
  }
  return SIGE_OK;
}

}  // namespace sige::cpu
