// Keys and values of the base with the fresh rows in their places, as arrays of their own. The attention that reads them
// has neither pixels that do not count nor tiles of fresh rows.
#include "attention.cuh"
#include "launch.cuh"
#include "mma.cuh"

namespace sige::cuda {

namespace {

constexpr int ROWS = 16;  // pixels of a block

using Vector = uint4;  // 8 halves

// One of keys and values; strides and width in vectors.
struct Rows {
  const Vector *fresh, *base;
  Vector* out;
  int32_t fresh_stride, base_stride, width;

  __device__ void move(int32_t image, int32_t count, int32_t first, int32_t pixels, const int32_t* from,
                       const AttentionParameters& p) const {
    for (int32_t i = threadIdx.x; i < count * width; i += THREADS) {
      const int32_t row = i / width, column = i - row * width, own = from[row];
      const int64_t pixel = int64_t{image} * pixels + first + row;
      out[pixel * width + column] = own >= 0 ? fresh[(int64_t{image} * p.fresh + own) * fresh_stride + column]
                                             : base[pixel * base_stride + column];
    }
  }
};

__global__ void __launch_bounds__(THREADS)
    overlay_kernel(const __grid_constant__ AttentionParameters p, const __grid_constant__ Rows keys,
                   const __grid_constant__ Rows values) {
  __shared__ int32_t from[ROWS];  // the fresh row of each pixel, or -1
  release_successor();
  const int32_t first = blockIdx.x * ROWS, count = p.pixels - first < ROWS ? p.pixels - first : ROWS;
  if (threadIdx.x < count) {
    const int32_t pixel = first + threadIdx.x;
    int32_t low = 0, high = p.fresh;  // the first of `active` that is not below the pixel
    while (low < high) {
      const int32_t middle = (low + high) / 2;
      if (__ldg(p.active + middle) < pixel) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    from[threadIdx.x] = low < p.fresh && __ldg(p.active + low) == pixel ? low : -1;
  }
  __syncthreads();
  wait_for_predecessor();
  keys.move(blockIdx.y, count, first, p.pixels, from, p);
  values.move(blockIdx.y, count, first, p.pixels, from, p);
}

Rows rows_of(const void* fresh, const void* base, int32_t fresh_stride, int32_t base_stride, int32_t width, void* out) {
  return {static_cast<const Vector*>(fresh), static_cast<const Vector*>(base), static_cast<Vector*>(out), fresh_stride / 8,
          base_stride / 8, width / 8};
}

}  // namespace

bool pays_to_overlay(const sige_attention_args& a) {
  // In nanoseconds, on an H200: scores that fall away, against a launch and the way of all rows.
  constexpr int64_t LAUNCH = 3000, SCORES = 1000, BYTES = 3500;
  const int64_t heads = int64_t{a.batch} * a.heads;
  return a.active && heads * a.fresh * a.fresh / SCORES > LAUNCH + heads * a.pixels * (int64_t{a.dk} + a.dv) * 4 / BYTES;
}

size_t overlay_bytes(const sige_attention_args& a) {
  return align(int64_t{a.batch} * a.pixels * a.heads * a.dk * 2) + align(int64_t{a.batch} * a.pixels * a.heads * a.dv * 2);
}

sige_status launch_attention_overlay(AttentionParameters& p, void* workspace, cudaStream_t stream) {
  const int32_t dk = p.heads * p.dk, dv = p.heads * p.dv;
  char* const keys = static_cast<char*>(workspace);
  char* const values = keys + align(int64_t{p.batch} * p.pixels * dk * 2);
  const dim3 grid((p.pixels + ROWS - 1) / ROWS, p.batch);
  if (const sige_status status =
          launch_overlapping<overlay_kernel>(grid, stream, p, rows_of(p.k, p.k_base, p.k_stride, p.k_base_stride, dk, keys),
                                             rows_of(p.v, p.v_base, p.v_stride, p.v_base_stride, dv, values)))
    return status;
  p.k_base = keys, p.v_base = values;
  p.k_base_stride = dk, p.v_base_stride = dv;
  p.active = nullptr;
  return SIGE_OK;
}

}  // namespace sige::cuda
