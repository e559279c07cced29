// Arrays of halves as Hopper's tensor memory accelerator sees them.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace sige::cuda {

constexpr int BOX = 64;  // halves along the contiguous axis of a box: 128 bytes

// sizes: of an array's axes, the contiguous one first; strides: elements from step to step of the others, multiples of 8.
// `box` of them is what one load brings, 64 of the first; its rows of 128 bytes are swizzled. What lies outside the array
// reads as zeros. The data is aligned to 16 bytes.
template <int RANK>
bool map_array(const void* data, const int64_t (&sizes)[RANK], const int64_t (&strides)[RANK - 1], const int (&box)[RANK],
               CUtensorMap& map) {
  using Encode = CUresult(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*,
                          const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                          CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
  static Encode* const encode = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result;
    const cudaError_t error =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
    return reinterpret_cast<Encode*>(error || result != cudaDriverEntryPointSuccess ? nullptr : found);
  }();
  cuuint64_t lengths[RANK], bytes[RANK - 1];
  cuuint32_t boxes[RANK], steps[RANK];
  for (int i = 0; i < RANK; ++i) {
    lengths[i] = static_cast<cuuint64_t>(sizes[i]);
    boxes[i] = static_cast<cuuint32_t>(box[i]);
    steps[i] = 1;
    if (i) bytes[i - 1] = static_cast<cuuint64_t>(strides[i - 1]) * 2;
  }
  return encode && encode(&map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, RANK, const_cast<void*>(data), lengths, bytes, boxes, steps,
                          CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                          CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

}  // namespace sige::cuda
