// Rows out of dense arrays and into them: one thread per entry, all arrays in one launch. Whole arrays likewise.
#include <algorithm>

#include "../edit.h"
#include "launch.cuh"
#include "mma.cuh"

namespace sige::cuda {
namespace {

constexpr int ARRAYS = 16;  // of one launch
constexpr int IN_TURN = 4;  // copies of a thread

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
  wait_for_predecessor();
  release_successor();  // not before: a gather reads tables before it waits
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
    const sige_status status = launch_overlapping<move_kernel<TAKE>>(grid, stream_of(execution), moves);
    if (status) return status;
  }
  return SIGE_OK;
}

struct Copy {
  const char* from;
  char* to;
  int64_t bytes;
  int32_t first_block;
  bool vectors;  // of 16 bytes, but for the last
};

struct Copies {
  Copy at[ARRAYS];
  int32_t count;
};

// A thread's copies of an array of `count` T.
template <typename T>
__device__ void copy_elements(const Copy& copy, int64_t first, int64_t count) {
  const T* const from = reinterpret_cast<const T*>(copy.from);
  T* const to = reinterpret_cast<T*>(copy.to);
  T values[IN_TURN];
#pragma unroll
  for (int i = 0; i < IN_TURN; ++i) {
    if (first + i * THREADS < count) values[i] = from[first + i * THREADS];
  }
#pragma unroll
  for (int i = 0; i < IN_TURN; ++i) {
    if (first + i * THREADS < count) to[first + i * THREADS] = values[i];
  }
}

__global__ void __launch_bounds__(THREADS) copy_kernel(const __grid_constant__ Copies copies) {
  wait_for_predecessor();
  release_successor();
  const int32_t block = blockIdx.x;
  int32_t index = 0;
  while (index + 1 < copies.count && block >= copies.at[index + 1].first_block) ++index;
  const Copy& copy = copies.at[index];
  const int64_t first = int64_t{block - copy.first_block} * THREADS * IN_TURN + threadIdx.x;
  if (!copy.vectors) return copy_elements<char>(copy, first, copy.bytes);
  constexpr int64_t VECTOR = sizeof(uint4);
  copy_elements<uint4>(copy, first, copy.bytes / VECTOR);
  const int64_t rest = copy.bytes / VECTOR * VECTOR + first;
  if (rest < copy.bytes) copy.to[rest] = copy.from[rest];  // the array's first threads
}

}  // namespace

sige_status take_rows(const sige_move_args* args, int32_t count, const sige_execution& execution) {
  return move<true>(args, count, execution);
}
sige_status put_rows(const sige_move_args* args, int32_t count, const sige_execution& execution) {
  return move<false>(args, count, execution);
}

sige_status copy(const sige_copy_args* args, int32_t count, const sige_execution& execution) {
  for (int32_t start = 0; start < count; start += ARRAYS) {
    Copies copies{};
    copies.count = std::min(count - start, ARRAYS);
    int64_t blocks = 0;
    for (int32_t i = 0; i < copies.count; ++i) {
      const sige_copy_args& a = args[start + i];
      Copy& copy = copies.at[i];
      copy.from = static_cast<const char*>(a.from), copy.to = static_cast<char*>(a.to);
      copy.bytes = static_cast<int64_t>(a.bytes);
      copy.vectors = aligned(a.from, sizeof(uint4)) && aligned(a.to, sizeof(uint4));
      copy.first_block = static_cast<int32_t>(blocks);
      const int64_t own = THREADS * IN_TURN * (copy.vectors ? sizeof(uint4) : 1);
      blocks += (copy.bytes + own - 1) / own;
      if (blocks > MAX_VECTORS) return SIGE_UNSUPPORTED;
    }
    if (!blocks) continue;
    const sige_status status =
        launch_overlapping<copy_kernel>(static_cast<unsigned>(blocks), stream_of(execution), copies);
    if (status) return status;
  }
  return SIGE_OK;
}

}  // namespace sige::cuda
