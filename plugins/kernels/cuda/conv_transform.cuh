// Affine and activation of the rows of conv_product.cu, in the tiles that the tensor memory accelerator brought.
#pragma once

#include "conv_tile.cuh"

namespace sige::cuda {

// What a thread does to its part of each tile: COUNT vectors of 8 channels, side by side in one row.
template <int COUNT>
class Transform {
  using Vector = Pack<__half2, 4>;

 public:
  // row: of the tile; index: of its first vector in the row. The kernel before must have finished.
  __device__ Transform(const ConvParameters& p, int32_t first_row, int row, int index)
      : source_(p.source), row_(row), index_(index), valid_(first_row + row < p.rows) {
    uint32_t image, target;
    p.targets.divide(valid_ ? first_row + row : 0, image, target);
    scale_ = source_.scale ? source_.scale + image * source_.scale_stride : nullptr;
    shift_ = source_.shift ? source_.shift + image * source_.shift_stride : nullptr;
  }

  // What the channels of one tile are multiplied by and what is added to them.
  struct Affine {
    uint4 scale[COUNT], shift[COUNT];  // of halves
  };

  // Starts to load that of the tile that begins at `channel`.
  __device__ void load(int channel, Affine& to) const {
#pragma unroll
    for (int j = 0; j < COUNT; ++j) {
      const int c = channel + (index_ + j) * 8;
      constexpr uint32_t ONES = 0x3c003c00;
      to.scale[j] = make_uint4(ONES, ONES, ONES, ONES), to.shift[j] = make_uint4(0, 0, 0, 0);
      if (c >= source_.channels) continue;
      if (scale_) to.scale[j] = *reinterpret_cast<const uint4*>(scale_ + c);
      if (shift_) to.shift[j] = *reinterpret_cast<const uint4*>(shift_ + c);
    }
  }

  // Of the tile that begins at `channel`: rows of 128 bytes, swizzled by 128 bytes. Rows behind the last and channels
  // behind the last, whose weight is zero, stay zero.
  __device__ void run(unsigned char* tile, int channel, const Affine& affine) const {
    if (!valid_) return;
#pragma unroll
    for (int j = 0; j < COUNT; ++j) {
      if (channel + (index_ + j) * 8 >= source_.channels) continue;
      Vector& at = *reinterpret_cast<Vector*>(tile + row_ * 128 + ((index_ + j) ^ row_ % 8) * 16);
      const Vector& scale = reinterpret_cast<const Vector&>(affine.scale[j]);
      const Vector& shift = reinterpret_cast<const Vector&>(affine.shift[j]);
      Vector x = at;
#pragma unroll
      for (int i = 0; i < 4; ++i) x.at[i] = __hfma2(x.at[i], scale.at[i], shift.at[i]);
      if (source_.activation == SIGE_SILU) {
#pragma unroll
        for (int i = 0; i < 4; ++i) x.at[i] = silu(x.at[i]);
      }
      at = x;
    }
  }

  // Activations that it knows; others would make the kernel much larger.
  static bool knows(int32_t activation) { return activation == SIGE_IDENTITY || activation == SIGE_SILU; }

 private:
  const Source<__half>& source_;
  const __half *scale_, *shift_;  // of the row's image
  int row_, index_;
  bool valid_;
};

}  // namespace sige::cuda
