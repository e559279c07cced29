// Rows out of dense arrays and into them: one thread per entry, all arrays in one launch.
#include <algorithm>

#include "../edit.h"
#include "device.cuh"

namespace sige::cuda {
namespace {

constexpr int ARRAYS = 16;  // of one launch

struct Move {
  sige_move_args args;
  int32_t count;  // entries
};

struct Moves {
  Move at[ARRAYS];
};

template <bool TAKE, typename T>
__device__ void move_entry(const sige_move_args& a, int32_t index) {
  const int32_t row = index / a.channels, c = index - row * a.channels;
  const int32_t b = row / a.fresh, p = row - b * a.fresh;
  if (a.c[c] < 0) return;
  const int32_t pixel = a.active[p];
  // The padded tail of a bucket names one pixel over and over; one write is enough.
  if (!TAKE && p > 0 && pixel == a.active[p - 1]) return;
  const int32_t y = pixel / a.width, x = pixel - y * a.width;
  T* const dense = static_cast<T*>(a.dense) + a.n[b] + a.y[y] + a.x[x] + a.c[c];
  T* const entry = static_cast<T*>(a.rows) + index;
  if (TAKE) {
    *entry = *dense;
  } else {
    *dense = *entry;
  }
}

template <bool TAKE>
__global__ void __launch_bounds__(THREADS) move_kernel(const __grid_constant__ Moves moves) {
  const Move& move = moves.at[blockIdx.y];
  const int64_t index = int64_t{blockIdx.x} * THREADS + threadIdx.x;
  if (index >= move.count) return;
  const int32_t entry = static_cast<int32_t>(index);
  switch (move.args.bytes) {
    case 1: return move_entry<TAKE, uint8_t>(move.args, entry);
    case 2: return move_entry<TAKE, uint16_t>(move.args, entry);
    case 4: return move_entry<TAKE, uint32_t>(move.args, entry);
    default: return move_entry<TAKE, uint64_t>(move.args, entry);
  }
}

template <bool TAKE>
sige_status move(const sige_move_args* args, int32_t count, const sige_execution& execution) {
  for (int32_t start = 0; start < count; start += ARRAYS) {
    Moves moves{};
    const int32_t some = std::min(count - start, ARRAYS);
    int32_t most = 0;
    for (int32_t i = 0; i < some; ++i) {
      Move& move = moves.at[i];
      move.args = args[start + i];
      move.count = move.args.batch * move.args.fresh * move.args.channels;
      most = std::max(most, move.count);
    }
    if (!most) continue;
    const dim3 grid((most - 1) / THREADS + 1, some);
    move_kernel<TAKE><<<grid, THREADS, 0, stream_of(execution)>>>(moves);
  }
  return launched();
}

}  // namespace

sige_status take_rows(const sige_move_args* args, int32_t count, const sige_execution& execution) {
  return move<true>(args, count, execution);
}
sige_status put_rows(const sige_move_args* args, int32_t count, const sige_execution& execution) {
  return move<false>(args, count, execution);
}

}  // namespace sige::cuda
