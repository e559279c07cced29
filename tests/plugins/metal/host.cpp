// Runs the kernels of plugins/kernels/metal, compiled as C++ over shim/, as SIGEMetal.swift dispatches them.
#include "attention.metal.h"
#include "conv.metal.h"
#include "gather.metal.h"
#include "scatter.metal.h"

namespace {

// Rows of a call: an image's texels, or a dense buffer.
struct Rows {
  half* data;
  uint slices, height, width;

  template <access A>
  operator texture2d_array<half, A>() const {
    return {data, slices, height, width};
  }
  operator half*() const { return data; }
};

struct Buffers {
  const half *base, *base_2;
  const int *halo, *table;
  const half *scale, *shift;
  const int* live;
};

int groups(int count, int size) { return (count + size - 1) / size; }

// Calls body(at) for every thread of a grid of threadgroups of 8 x 8 threads.
template <typename Body>
void for_threads(int x, int y, int z, const Body& body) {
  for (uint c = 0; c < static_cast<uint>(z); ++c)
    for (uint b = 0; b < 8u * groups(y, 8); ++b)
      for (uint a = 0; a < 8u * groups(x, 8); ++a) body(uint3{a, b, c});
}

// Calls body(group, memory, thread, simdgroup, lane) for every thread of a grid of threadgroups. Their memory is as long
// as asked for, on the heap, and every float and half of it is not a number.
template <typename Body>
void for_groups(int x, int y, int z, int count, size_t bytes, const Body& body) {
  float* memory = static_cast<float*>(malloc(bytes));
  for (uint c = 0; c < static_cast<uint>(z); ++c) {
    for (uint b = 0; b < static_cast<uint>(y); ++b) {
      for (uint a = 0; a < static_cast<uint>(x); ++a) {
        memset(memory, 0xff, bytes);
        threads::run_group(count, [&](int index) {
          body(uint3{a, b, c}, memory, index, index / threads::LANES, index % threads::LANES);
        });
      }
    }
  }
  free(memory);
}

}  // namespace

extern "C" {

void sige_gather(int images, int batch, const Rows* rows, const Rows* rows_2, const Rows* out, const Buffers* f,
                 const GatherParameters* p) {
  const int total = p->source.taps * (p->source.channels / p->phases);
  for_threads(p->source.targets, groups(total, 4), batch, [&](uint3 at) {
    const auto run = [&](auto gather) {
      gather(*rows, *rows_2, *out, f->base, f->base_2, f->halo, f->table, f->scale, f->shift, f->live, *p, at);
    };
    images ? run(gather_images) : run(gather_buffers);
  });
}

void sige_conv(int images, int plain, int batch, const Rows* rows, const Rows* rows_2, const Rows* embedding,
               const Rows* multiplier, const Rows* residual, const Rows* out, const half* weight, const half* bias,
               const Buffers* f, const ConvParameters* p) {
  const int columns = p->outputs / p->group;
  const auto run = [&](auto conv, auto... places) {
    conv(*rows, *rows_2, *embedding, *multiplier, *residual, *out, f->base, f->base_2, f->halo, f->table, f->scale,
         f->shift, weight, bias, f->live, *p, places...);
  };
  if (p->group > 1 && columns % 4) {
    for_threads(p->source.targets, groups(p->outputs, 4), batch,
                [&](uint3 at) { images ? run(conv_few_images, at) : run(conv_few_buffers, at); });
    return;
  }
  const size_t bytes = (TILE_ROWS * LEFT_STRIDE + TILE_DEPTH * RIGHT_STRIDE) * sizeof(half);
  for_groups(groups(p->source.targets, TILE_ROWS), groups(columns, TILE_COLUMNS), batch * p->group, CONV_THREADS, bytes,
             [&](uint3 tile, float* memory, uint thread_index, uint simdgroup, uint lane) {
               const auto any = [&](auto conv) { run(conv, memory, tile, thread_index, simdgroup, lane); };
               if (images) {
                 plain ? any(conv_plain_images) : any(conv_images);
               } else {
                 plain ? any(conv_plain_buffers) : any(conv_buffers);
               }
             });
}

void sige_scatter(int images, int batch, const Rows* rows, const Rows* out, const half* base, const int* active,
                  const int* live, const ScatterParameters* p) {
  for_threads(p->pixels, groups(p->channels, 4), batch, [&](uint3 at) {
    images ? scatter_images(*rows, *out, base, active, live, *p, at)
           : scatter_buffers(*rows, *out, base, active, live, *p, at);
  });
}

void sige_attention(int images, int batch, const Rows* q, const Rows* k, const Rows* v, const Rows* out,
                    const half* k_base, const half* v_base, const int* active, const int* live,
                    const AttentionParameters* p) {
  const int stride = groups(p->dk, CHUNK) * CHUNK + 4;
  const size_t bytes = sizeof(AttentionMemory) + QUERIES * stride * sizeof(half);
  for_groups(groups(p->fresh, QUERIES), p->heads, batch, ATTENTION_THREADS, bytes,
             [&](uint3 group, float* memory, uint thread_index, uint simdgroup, uint lane) {
               const auto run = [&](auto attention) {
                 attention(*q, *k, *v, *out, k_base, v_base, active, live, *p, memory, group, thread_index, simdgroup,
                           lane);
               };
               if (p->dv <= 64) {
                 images ? run(attention_64_images) : run(attention_64_buffers);
               } else if (p->dv <= 160) {
                 images ? run(attention_160_images) : run(attention_160_buffers);
               } else {
                 images ? run(attention_512_images) : run(attention_512_buffers);
               }
             });
}

}
