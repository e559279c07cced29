// Comparison of all inputs in one launch. A block has some pixels of one input; where that has many planes, the warps
// share them out.
#include "../compare.h"

#include <algorithm>

#include "../edit.h"
#include "device.cuh"

namespace sige::cuda {
namespace {

constexpr int INPUTS = 16;                         // of one launch
constexpr int WARPS = THREADS / 32;                // and planes from which on they are shared out
constexpr size_t VECTOR = 16;                      // bytes

struct Input {
  sige_compare_args args;
  int32_t pixels, planes, planes_in_turn;  // a warp reads every so manieth plane
  bool vectors;                            // pixels lie side by side: a thread has as many as fit into 16 bytes
};

struct Inputs {
  Input at[INPUTS];
};

template <typename T, int N>
__device__ void compare_pixels(const Input& input, int32_t* status, uint32_t (&parts)[WARPS][32]) {
  const sige_compare_args& a = input.args;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const bool shared_out = input.planes_in_turn > 1;
  const int32_t first = ((shared_out ? blockIdx.x : blockIdx.x * WARPS + warp) * 32 + lane) * N;
  bool broken = false, changed = false;
  uint32_t edited = 0;  // one bit per pixel
  if (first < input.pixels) {
    const int32_t y = first / a.size[3], x = first - y * a.size[3];
    const int64_t pixel = y * a.stride[2] + x * a.stride[3];
    const T* const given = static_cast<const T*>(a.given) + pixel;
    const T* const recorded = static_cast<const T*>(a.recorded) + pixel;
#pragma unroll 4
    for (int32_t plane = shared_out ? warp : 0; plane < input.planes; plane += input.planes_in_turn) {
      const int32_t n = plane / a.size[1], c = plane - n * a.size[1];
      const int64_t at = n * a.stride[0] + c * a.stride[1];
      const Pack<T, N> now = *reinterpret_cast<const Pack<T, N>*>(given + at);
#pragma unroll
      for (int i = 0; i < N; ++i) broken |= !is_finite(now.at[i]);
      if (!a.recorded) continue;
      const Pack<T, N> then = *reinterpret_cast<const Pack<T, N>*>(recorded + at);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        changed |= different_bits(now.at[i], then.at[i]);
        edited |= uint32_t{differs(now.at[i], then.at[i], a.eps)} << i;
      }
    }
  }
  if (__syncthreads_or(broken) && threadIdx.x == 0) status[0] = 1;
  if (__syncthreads_or(changed) && threadIdx.x == 0) status[1] = 1;
  if (!a.mask) return;
  if (shared_out) {
    parts[warp][lane] = edited;
    __syncthreads();
    if (warp > 0) return;
    for (int i = 1; i < WARPS; ++i) edited |= parts[i][lane];
  }
  if (first >= input.pixels) return;
  Pack<uint8_t, N> mask;
#pragma unroll
  for (int i = 0; i < N; ++i) mask.at[i] = edited >> i & 1;
  *reinterpret_cast<Pack<uint8_t, N>*>(a.mask + first) = mask;
}

__global__ void __launch_bounds__(THREADS) compare_kernel(const __grid_constant__ Inputs inputs, int32_t* status) {
  __shared__ uint32_t parts[WARPS][32];
  const Input& input = inputs.at[blockIdx.y];
  const int32_t own = 32 * (input.planes_in_turn > 1 ? 1 : WARPS);
  with_element<__half>(input.args.element, [&](auto type) {
    using T = decltype(type);
    constexpr int N = VECTOR / sizeof(T);
    if (int64_t{blockIdx.x} * own * (input.vectors ? N : 1) >= input.pixels) return;
    if (input.vectors) {
      compare_pixels<T, N>(input, status + 2 * blockIdx.y, parts);
    } else {
      compare_pixels<T, 1>(input, status + 2 * blockIdx.y, parts);
    }
  });
}

// Whether 16 bytes of every plane hold neighbouring pixels, at aligned addresses.
bool in_vectors(const sige_compare_args& a, int32_t pixels, int32_t count) {
  const bool rows_follow = a.stride[3] == 1 && (a.size[2] == 1 || a.stride[2] == a.size[3]);
  return rows_follow && pixels % count == 0 && (a.size[0] == 1 || a.stride[0] % count == 0) &&
         (a.size[1] == 1 || a.stride[1] % count == 0) && aligned(a.given, VECTOR) && aligned(a.recorded, VECTOR) &&
         aligned(a.mask, count);
}

}  // namespace

sige_status compare(const sige_compare_args* args, int32_t count, int32_t* status, const sige_execution& execution) {
  const cudaStream_t stream = stream_of(execution);
  if (cudaMemsetAsync(status, 0, count * 2 * sizeof *status, stream) != cudaSuccess) return failed();
  for (int32_t start = 0; start < count; start += INPUTS) {
    Inputs inputs{};
    const int32_t some = std::min(count - start, INPUTS);
    int64_t blocks = 0;
    for (int32_t i = 0; i < some; ++i) {
      Input& input = inputs.at[i];
      const sige_compare_args& a = input.args = args[start + i];
      input.pixels = a.size[2] * a.size[3];
      input.planes = a.size[0] * a.size[1];
      input.planes_in_turn = input.planes < WARPS ? 1 : WARPS;
      const int32_t count = VECTOR / element_bytes(a.element);
      input.vectors = in_vectors(a, input.pixels, count);
      const int64_t own = 32 * (input.planes_in_turn > 1 ? 1 : WARPS) * (input.vectors ? count : 1);
      blocks = std::max(blocks, (input.pixels + own - 1) / own);
    }
    if (!blocks) continue;
    const dim3 grid(static_cast<uint32_t>(blocks), some);
    compare_kernel<<<grid, THREADS, 0, stream>>>(inputs, status + 2 * start);
  }
  return launched();
}

}  // namespace sige::cuda
