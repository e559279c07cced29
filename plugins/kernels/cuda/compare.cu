// Comparison of all inputs in one launch. A block has some pixels of one input; where that has many planes, the warps
// share them out. Few pixels differ: whole vectors of bits are compared first, and only what differs by value.
#include "../compare.h"

#include <algorithm>
#include <type_traits>

#include "../edit.h"
#include "launch.cuh"
#include "mma.cuh"

namespace sige::cuda {
namespace {

constexpr int INPUTS = 16;                         // of one launch
constexpr int WARPS = THREADS / 32;                // and planes from which on they are shared out
constexpr int AT_ONCE = 4;                         // planes whose loads a thread has under way
constexpr size_t VECTOR = 16;                      // bytes

struct Input {
  sige_compare_args args;
  int32_t first_block;
  int32_t pixels, planes, planes_in_turn;  // a warp reads every so manieth plane
  bool vectors;                            // pixels lie side by side: a thread has as many as fit into 16 bytes
};

struct Inputs {
  Input at[INPUTS];
  int32_t count;
};

// N elements as they lie in memory.
template <typename T, int N>
struct Bits {
  static constexpr int BYTES = sizeof(T) * N, WORDS = BYTES < 4 ? 1 : BYTES / 4;
  using Word = std::conditional_t<BYTES == 1, uint8_t, std::conditional_t<BYTES == 2, uint16_t, uint32_t>>;
  Pack<Word, WORDS> words;

  __device__ explicit Bits(const T* at) : words(*reinterpret_cast<const Pack<Word, WORDS>*>(at)) {}

  __device__ bool operator!=(const Bits& other) const {
    uint32_t different = 0;
#pragma unroll
    for (int i = 0; i < WORDS; ++i) different |= words.at[i] ^ other.words.at[i];
    return different;
  }

  // Whether an exponent has all bits set: one more in its last place carries into the sign's.
  __device__ bool any_not_finite() const {
    if constexpr (!IS_FLOAT<T>) return false;
    constexpr uint32_t SIGN = sizeof(T) == 2 ? 0x80008000 : 0x80000000;
    constexpr uint32_t EXPONENT = sizeof(T) == 2 ? 0x7c007c00 : sizeof(T) == 4 ? 0x7f800000 : 0x7ff00000;
    constexpr uint32_t ONE = sizeof(T) == 2 ? 0x04000400 : sizeof(T) == 4 ? 0x00800000 : 0x00100000;
    uint32_t carried = 0;
#pragma unroll
    for (int i = 0; i < WORDS; ++i) {
      if (sizeof(T) == 8 && i % 2 == 0) continue;  // of a double's words the second
      carried |= (words.at[i] & EXPONENT) + ONE;
    }
    return carried & SIGN;
  }
};

template <typename T, int N>
__device__ void compare_pixels(const Input& input, int32_t block, int32_t* status, uint32_t (&parts)[WARPS][32]) {
  const sige_compare_args& a = input.args;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const bool shared_out = input.planes_in_turn > 1;
  const int32_t first = ((shared_out ? block : block * WARPS + warp) * 32 + lane) * N;
  bool broken = false, changed = false;
  uint32_t edited = 0;  // one bit per pixel
  if (first < input.pixels) {
    const int32_t y = first / a.size[3], x = first - y * a.size[3];
    const int64_t pixel = y * a.stride[2] + x * a.stride[3];
    const T* const given = static_cast<const T*>(a.given) + pixel;
    const T* const recorded = a.recorded ? static_cast<const T*>(a.recorded) + pixel : given;
    const auto offset = [&](int32_t plane) {
      const int32_t n = plane / a.size[1], c = plane - n * a.size[1];
      return n * a.stride[0] + c * a.stride[1];
    };
    for (int32_t plane = shared_out ? warp : 0; plane < input.planes; plane += AT_ONCE * input.planes_in_turn) {
      // All loads first. Behind the last plane they are of this one once more.
      int64_t at[AT_ONCE];
      uint32_t odd = 0;  // planes that differ, or hold what is not a number
#pragma unroll
      for (int i = 0; i < AT_ONCE; ++i) {
        const int32_t later = plane + i * input.planes_in_turn;
        at[i] = offset(later < input.planes ? later : plane);
      }
#pragma unroll
      for (int i = 0; i < AT_ONCE; ++i) {
        const Bits<T, N> now(given + at[i]), then(recorded + at[i]);
        const bool wrong = now.any_not_finite(), different = now != then;
        broken |= wrong;
        changed |= different;
        odd |= uint32_t{wrong || different} << i;
      }
      if (!a.mask) continue;
      for (; odd; odd &= odd - 1) {
        const int32_t later = plane + (__ffs(odd) - 1) * input.planes_in_turn;
        const int64_t where = offset(later < input.planes ? later : plane);
        const Pack<T, N> now = *reinterpret_cast<const Pack<T, N>*>(given + where);
        const Pack<T, N> then = *reinterpret_cast<const Pack<T, N>*>(recorded + where);
#pragma unroll
        for (int i = 0; i < N; ++i) edited |= uint32_t{differs(now.at[i], then.at[i], a.eps)} << i;
      }
    }
  }
  wait_for_predecessor();
  if (__any_sync(~0u, broken) && lane == 0) status[0] = 1;
  if (__any_sync(~0u, changed) && lane == 0) status[1] = 1;
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

// Not a memset: between one of those and a kernel of a graph passes more time than between two kernels.
__global__ void __launch_bounds__(THREADS) clear_kernel(int32_t* status, int32_t count) {
  release_successor();
  for (int32_t i = threadIdx.x; i < count; i += THREADS) status[i] = 0;
}

// Reads before it waits: clear_kernel, which does not overlap, began when the inputs were there.
__global__ void __launch_bounds__(THREADS) compare_kernel(const __grid_constant__ Inputs inputs, int32_t* status) {
  release_successor();
  __shared__ uint32_t parts[WARPS][32];
  const int32_t block = blockIdx.x;
  int32_t index = 0;
  while (index + 1 < inputs.count && block >= inputs.at[index + 1].first_block) ++index;
  const Input& input = inputs.at[index];
  with_element<__half>(input.args.element, [&](auto type) {
    using T = decltype(type);
    constexpr int N = VECTOR / sizeof(T);
    if (input.vectors) {
      compare_pixels<T, N>(input, block - input.first_block, status + 2 * index, parts);
    } else {
      compare_pixels<T, 1>(input, block - input.first_block, status + 2 * index, parts);
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

// One plane without a mask as AT_ONCE planes of neighbouring vectors of `count` elements, where they come out even.
void split(sige_compare_args& a, int32_t count) {
  const int32_t elements = a.size[2] * a.size[3];
  if (a.mask || a.size[0] * a.size[1] > 1 || elements % (AT_ONCE * count)) return;
  a.size[1] = AT_ONCE, a.size[2] = 1, a.size[3] = elements / AT_ONCE;
  a.stride[1] = a.stride[2] = a.size[3];
}

}  // namespace

sige_status compare(const sige_compare_args* args, int32_t count, int32_t* status, const sige_execution& execution) {
  const cudaStream_t stream = stream_of(execution);
  clear_kernel<<<1, THREADS, 0, stream>>>(status, count * 2);
  sige_status result = launched();
  for (int32_t start = 0; start < count && !result; start += INPUTS) {
    Inputs inputs{};
    inputs.count = std::min(count - start, INPUTS);
    int64_t blocks = 0;
    for (int32_t i = 0; i < inputs.count; ++i) {
      Input& input = inputs.at[i];
      input.args = args[start + i];
      input.first_block = static_cast<int32_t>(blocks);
      const int32_t wide = VECTOR / element_bytes(input.args.element);
      input.vectors = in_vectors(input.args, input.args.size[2] * input.args.size[3], wide);
      if (input.vectors) split(input.args, wide);
      input.pixels = input.args.size[2] * input.args.size[3];
      input.planes = input.args.size[0] * input.args.size[1];
      input.planes_in_turn = input.planes < WARPS ? 1 : WARPS;
      const int64_t own = 32 * (input.planes_in_turn > 1 ? 1 : WARPS) * (input.vectors ? wide : 1);
      blocks += (input.pixels + own - 1) / own;
    }
    if (!blocks) continue;
    result = launch_overlapping<compare_kernel>(static_cast<uint32_t>(blocks), stream, inputs, status + 2 * start);
  }
  return result;
}

}  // namespace sige::cuda
