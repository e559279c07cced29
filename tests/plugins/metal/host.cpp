// Dispatches a kernel of plugins/kernels/metal, compiled as C++ over shim/, with what a compute encoder binds to it.
#include "attention.metal.h"
#include "conv.metal.h"
#include "gather.metal.h"
#include "scatter.metal.h"

struct Texture {
  half* texels;
  uint slices, height, width;

  template <access A>
  operator texture2d_array<half, A>() const {
    return {texels, slices, height, width};
  }
};

namespace {

// Bindings by their indices, and the thread that runs.
struct Call {
  const Texture* const* textures;
  void* const* buffers;
  float* memory;
  uint3 group, position;
  uint index;
};

// For each kernel a function `void run_<kernel>(const Call&)`, and KERNELS, the table of all of them: build.py makes
// them of the kernels' attributes.
#include "dispatch.inc"

}  // namespace

// Runs `groups` threadgroups of `size` threads. Threadgroup memory has `bytes` bytes, which start as values that are
// not numbers; a kernel without any must have no barrier. Returns 0, or 1 where there is no such kernel.
extern "C" int sige_dispatch(const char* name, const Texture* const* textures, void* const* buffers, const uint* groups,
                             const uint* size, size_t bytes) {
  for (const auto& [known, run] : KERNELS) {
    if (strcmp(known, name)) continue;
    float* memory = bytes ? static_cast<float*>(malloc(bytes)) : nullptr;
    const uint count = size[0] * size[1] * size[2];
    for (uint z = 0; z < groups[2]; ++z) {
      for (uint y = 0; y < groups[1]; ++y) {
        for (uint x = 0; x < groups[0]; ++x) {
          const auto body = [&, run = run](int i) {
            const uint place = i, row = place / size[0];
            const uint3 position{x * size[0] + place % size[0], y * size[1] + row % size[1],
                                 z * size[2] + row / size[1]};
            run(Call{textures, buffers, memory, {x, y, z}, position, place});
          };
          if (bytes) {
            memset(memory, 0xff, bytes);
            threads::run_group(count, body);
          } else {
            for (uint i = 0; i < count; ++i) body(i);
          }
        }
      }
    }
    free(memory);
    return 0;
  }
  return 1;
}
