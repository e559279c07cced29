// Affine and activation of the rows of conv_product.cu, in the tiles that the tensor memory accelerator brought.
#pragma once

#include "conv_tile.cuh"
#include "wgmma.cuh"

namespace sige::cuda {

// A warpgroup's part in it: each warp has every fourth tile, of ROWS rows. The affine of the block's images and channels is
// staged in shared memory first: a load under way would hold up the fence behind each tile.
template <int ROWS>
class Transform {
  using Vector = Pack<__half2, 4>;

 public:
  // staged: for affine_bytes; chunks: of DEPTH channels, that the block has.
  __device__ Transform(const ConvParameters& p, __half* staged, int chunks)
      : p_(p), first_row_(blockIdx.y * ROWS), first_image_(image_of(first_row_)), channels_(chunks * DEPTH), staged_(staged) {
#pragma unroll
    for (int j = 0; j < COUNT; ++j) {
      const int32_t row = first_row_ + row_of(j);
      affine_[j] = row < p.rows ? (image_of(row) - first_image_) * 2 * channels_ + column() : NONE;
    }
  }

  // Loads the affine of all of the block's tiles, the first of which begins at `channel`. By all of the warpgroup, whose
  // thread this is; the kernel before must have finished.
  __device__ void stage(int32_t channel, int thread) const {
    const Source<__half>& s = p_.source;
    const int32_t last_row = (first_row_ + ROWS < p_.rows ? first_row_ + ROWS : p_.rows) - 1;
    const int vectors = channels_ / 8, count = (image_of(last_row) - first_image_ + 1) * 2 * vectors;
#pragma unroll 2
    for (int i = thread; i < count; i += WARPGROUP) {
      const int array = i / vectors, c = channel + (i - array * vectors) * 8, image = first_image_ + array / 2;
      const __half* const from = array % 2 ? s.shift ? s.shift + image * s.shift_stride : nullptr
                                 : s.scale ? s.scale + image * s.scale_stride : nullptr;
      const uint32_t otherwise = array % 2 ? 0 : 0x3c003c00;  // ones
      uint4 value = make_uint4(otherwise, otherwise, otherwise, otherwise);
      if (from && c < s.channels) value = *reinterpret_cast<const uint4*>(from + c);
      *reinterpret_cast<uint4*>(staged_ + i * 8) = value;
    }
    some_sync<WARPGROUP>();
  }

  // Of the block's tile `chunk`, which begins at `channel`: rows of 128 bytes, swizzled by 128 bytes. Rows and channels
  // behind the last, whose weight is zero, stay zero. By a whole warp.
  __device__ void run(unsigned char* tile, int chunk, int channel) const {
    if (channel + column() >= p_.source.channels) return;
#pragma unroll
    for (int j = 0; j < COUNT; ++j) {
      if (affine_[j] == NONE) continue;
      const int row = row_of(j);
      Vector& at = *reinterpret_cast<Vector*>(tile + row * 128 + (column() / 8 ^ row % 8) * 16);
      const __half* const affine = staged_ + affine_[j] + chunk * DEPTH;
      const Vector scale = *reinterpret_cast<const Vector*>(affine), shift = *reinterpret_cast<const Vector*>(affine + channels_);
      Vector x = at;
      apply_affine(scale, shift, x);
      if (p_.source.activation == SIGE_SILU) apply_silu(x);
      at = x;
    }
  }

 private:
  static constexpr int COUNT = ROWS / 4, NONE = -1;  // COUNT: vectors of a lane in each tile

  __device__ static int row_of(int vector) { return vector * 4 + threadIdx.x % 32 / 8; }
  __device__ static int column() { return threadIdx.x % 8 * 8; }
  __device__ int32_t image_of(int32_t row) const {
    uint32_t image, target;
    p_.targets.divide(row, image, target);
    return image;
  }

  const ConvParameters& p_;
  const int32_t first_row_, first_image_;
  const int channels_;
  __half* const staged_;  // [image][scale, shift][channels]
  int affine_[COUNT];     // where that of each vector begins, but for the chunk
};

// Images that a tile of so many rows reaches into.
inline int64_t images_of(const sige_source& s, int64_t rows) {
  const int64_t targets = s.targets > 0 ? s.targets : 1, most = (rows + targets - 2) / targets + 1;
  return most < s.batch ? most : s.batch;
}

// Of the affine that a block stages.
inline int64_t affine_bytes(const sige_source& s, int64_t rows, int64_t chunks) {
  return images_of(s, rows) * 2 * chunks * DEPTH * 2;
}

// Activations that it knows; others would make the kernel much larger.
inline bool transform_knows(int32_t activation) { return activation == SIGE_IDENTITY || activation == SIGE_SILU; }

}  // namespace sige::cuda
