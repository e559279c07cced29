// Hopper's asynchronous instructions: products of whole warpgroups out of shared memory, tiles brought by the tensor
// memory accelerator, barriers in shared memory. They exist on sm_90a alone.
#pragma once

#include <cuda.h>

#include "mma.cuh"

namespace sige::cuda {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define SIGE_SM90A 1
#endif

constexpr int WARPGROUP = 128, WARPGROUP_WARPS = 4;

// Which stage a step uses, and the parity of its barriers.
struct Turn {
  int stage = 0;
  uint32_t parity = 0;

  __device__ void next(int stages) {
    if (++stage == stages) stage = 0, parity ^= 1;
  }
};

__device__ inline uint32_t shared_address(const void* at) { return static_cast<uint32_t>(__cvta_generic_to_shared(at)); }

// Of a tile of rows of 128 bytes, swizzled by 128 bytes, that begins at a multiple of 1024.
__device__ inline uint64_t tile_descriptor(uint32_t address) {
  return uint64_t{(address & 0x3ffff) >> 4} | uint64_t{1} << 16 | uint64_t{1024 >> 4} << 32 | uint64_t{1} << 62;
}

// The same tile from so many bytes behind its beginning on.
__device__ inline uint64_t advanced(uint64_t tile, uint32_t bytes) { return tile + (bytes >> 4); }

// sums [64 x N] += left right for left 64 x 16 with 64 contiguous, right 16 x N with 16 contiguous.
template <int N>
struct Product;

template <>
struct Product<16> {
  __device__ static void add(float (&d)[8], uint64_t left, uint64_t right) {
#ifdef SIGE_SM90A
    asm volatile(
        "{\n.reg .pred add;\nsetp.eq.b32 add, 0, 0;\nwgmma.mma_async.sync.aligned.m64n16k16.f32.f16.f16 {%0,%1,%2,%3,%4,%5,%6,%7}, %8, %9, add, 1, 1, 1, 0;\n}"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
        : "l"(left), "l"(right));
#endif
  }
};

#define SIGE_SUMS_8(d, i) \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])

template <>
struct Product<32> {
  __device__ static void add(float (&d)[16], uint64_t left, uint64_t right) {
#ifdef SIGE_SM90A
    asm volatile(
        "{\n.reg .pred add;\nsetp.eq.b32 add, 0, 0;\nwgmma.mma_async.sync.aligned.m64n32k16.f32.f16.f16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}, "
        "%16, %17, add, 1, 1, 1, 0;\n}"
        : SIGE_SUMS_8(d, 0), SIGE_SUMS_8(d, 8)
        : "l"(left), "l"(right));
#endif
  }
};

template <>
struct Product<64> {
  __device__ static void add(float (&d)[32], uint64_t left, uint64_t right) {
#ifdef SIGE_SM90A
    asm volatile(
        "{\n.reg .pred add;\nsetp.eq.b32 add, 0, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 "
        "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,"
        "%31}, %32, %33, add, 1, 1, 1, 0;\n}"
        : SIGE_SUMS_8(d, 0), SIGE_SUMS_8(d, 8), SIGE_SUMS_8(d, 16), SIGE_SUMS_8(d, 24)
        : "l"(left), "l"(right));
#endif
  }
};

template <>
struct Product<128> {
  __device__ static void add(float (&d)[64], uint64_t left, uint64_t right) {
#ifdef SIGE_SM90A
    asm volatile(
        "{\n.reg .pred add;\nsetp.eq.b32 add, 0, 0;\nwgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 "
        "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,"
        "%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,"
        "%60,%61,%62,%63}, %64, %65, add, 1, 1, 1, 0;\n}"
        : SIGE_SUMS_8(d, 0), SIGE_SUMS_8(d, 8), SIGE_SUMS_8(d, 16), SIGE_SUMS_8(d, 24), SIGE_SUMS_8(d, 32),
          SIGE_SUMS_8(d, 40), SIGE_SUMS_8(d, 48), SIGE_SUMS_8(d, 56)
        : "l"(left), "l"(right));
#endif
  }
};

#define SIGE_SUMS_4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])

// scores [64 x 64] (+)= queries keys for queries 64 x 16 and keys 64 x 16, both with 16 contiguous. With `add` 0 they
// are overwritten.
__device__ inline void add_scores(float (&d)[32], uint64_t queries, uint64_t keys, int add) {
#ifdef SIGE_SM90A
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %34, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, %32, %33, add, 1, 1, 0, 0;\n}"
      : SIGE_SUMS_8(d, 0), SIGE_SUMS_8(d, 8), SIGE_SUMS_8(d, 16), SIGE_SUMS_8(d, 24)
      : "l"(queries), "l"(keys), "r"(add));
#endif
}

// sums [64 x N] += left right for left 64 x 16 in registers, as PTX lays out mma.m16n8k16, and right 16 x N with N
// contiguous.
template <int N>
__device__ void add_weighted(float* d, const uint32_t (&left)[4], uint64_t right);

template <>
__device__ inline void add_weighted<16>(float* d, const uint32_t (&left)[4], uint64_t right) {
#ifdef SIGE_SM90A
  asm volatile(
      "{\n.reg .pred add;\nsetp.eq.b32 add, 0, 0;\nwgmma.mma_async.sync.aligned.m64n16k16.f32.f16.f16 "
      "{%0,%1,%2,%3,%4,%5,%6,%7}, {%8,%9,%10,%11}, %12, add, 1, 1, 1;\n}"
      : SIGE_SUMS_8(d, 0)
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "l"(right));
#endif
}

template <>
__device__ inline void add_weighted<32>(float* d, const uint32_t (&left)[4], uint64_t right) {
#ifdef SIGE_SM90A
  asm volatile(
      "{\n.reg .pred add;\nsetp.eq.b32 add, 0, 0;\nwgmma.mma_async.sync.aligned.m64n32k16.f32.f16.f16 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}, {%16,%17,%18,%19}, %20, add, 1, 1, 1;\n}"
      : SIGE_SUMS_8(d, 0), SIGE_SUMS_8(d, 8)
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "l"(right));
#endif
}

template <>
__device__ inline void add_weighted<40>(float* d, const uint32_t (&left)[4], uint64_t right) {
#ifdef SIGE_SM90A
  asm volatile(
      "{\n.reg .pred add;\nsetp.eq.b32 add, 0, 0;\nwgmma.mma_async.sync.aligned.m64n40k16.f32.f16.f16 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19}, {%20,%21,%22,%23}, %24, add, 1, 1, 1;\n}"
      : SIGE_SUMS_8(d, 0), SIGE_SUMS_8(d, 8), SIGE_SUMS_4(d, 16)
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "l"(right));
#endif
}

template <>
__device__ inline void add_weighted<64>(float* d, const uint32_t (&left)[4], uint64_t right) {
#ifdef SIGE_SM90A
  asm volatile(
      "{\n.reg .pred add;\nsetp.eq.b32 add, 0, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, {%32,%33,%34,%35}, %36, add, 1, 1, 1;\n}"
      : SIGE_SUMS_8(d, 0), SIGE_SUMS_8(d, 8), SIGE_SUMS_8(d, 16), SIGE_SUMS_8(d, 24)
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "l"(right));
#endif
}

#undef SIGE_SUMS_4
#undef SIGE_SUMS_8

__device__ inline void products_begin() {
#ifdef SIGE_SM90A
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
__device__ inline void products_commit() {
#ifdef SIGE_SM90A
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
// Until all but the latest N groups are done.
template <int N>
__device__ void products_wait() {
#ifdef SIGE_SM90A
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
#endif
}

// True in one thread of a whole warp. The compiler knows that it is one, and so keeps what only this thread needs in uniform
// registers: asynchronous loads are issued in a quarter of the instructions.
__device__ inline bool elected() {
  uint32_t one = 0;
#ifdef SIGE_SM90A
  asm volatile("{\n.reg .pred one;\nelect.sync _|one, 0xffffffff;\nselp.u32 %0, 1, 0, one;\n}" : "=r"(one));
#endif
  return one;
}

// A barrier in shared memory, by its address.
__device__ inline void barrier_init(uint32_t barrier, uint32_t count) {
#ifdef SIGE_SM90A
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
#endif
}
// The barriers that this thread made are there for the whole cluster and for asynchronous copies.
__device__ inline void barriers_publish() {
#ifdef SIGE_SM90A
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}
__device__ inline void barrier_arrive(uint32_t barrier) {
#ifdef SIGE_SM90A
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
#endif
}
__device__ inline void barrier_expect(uint32_t barrier, uint32_t bytes) {
#ifdef SIGE_SM90A
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
#endif
}
// Until the phase of this parity is complete. Who waits has seen the one before: a parity tells no more than two phases apart.
__device__ inline void barrier_wait(uint32_t barrier, uint32_t parity) {
#ifdef SIGE_SM90A
  asm volatile(
      "{\n.reg .pred complete;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 complete, [%0], %1;\n"
      "@complete bra done;\n"
      "bra again;\n"
      "done:\n}" ::"r"(barrier),
      "r"(parity)
      : "memory");
#endif
}

// Whether barrier_wait would return at once.
__device__ inline bool barrier_passed(uint32_t barrier, uint32_t parity) {
  uint32_t complete = 0;
#ifdef SIGE_SM90A
  asm volatile(
      "{\n.reg .pred complete;\n"
      "mbarrier.test_wait.parity.shared::cta.b64 complete, [%1], %2;\n"
      "selp.u32 %0, 1, 0, complete;\n}"
      : "=r"(complete)
      : "r"(barrier), "r"(parity)
      : "memory");
#endif
  return complete;
}

// THREADS threads of the block, always the same whole warps, have come this far.
template <int THREADS>
__device__ void some_sync() {
  asm volatile("barrier.cta.sync 1, %0;" ::"n"(THREADS) : "memory");
}

__device__ inline void prefetch_map(const CUtensorMap& map) {
#ifdef SIGE_SM90A
  asm volatile("prefetch.tensormap [%0];" ::"l"(reinterpret_cast<uint64_t>(&map)) : "memory");
#endif
}

// The box of a map that begins at (column, row), to `to`; its bytes count for `barrier`.
__device__ inline void load_box(const CUtensorMap& map, int32_t column, int32_t row, uint32_t to, uint32_t barrier) {
#ifdef SIGE_SM90A
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(to),
      "l"(reinterpret_cast<uint64_t>(&map)), "r"(column), "r"(row), "r"(barrier)
      : "memory");
#endif
}

// The same for arrays of four axes. What comes before a box's load may still write it where it is prefetched into the L2
// cache alone.
__device__ inline void load_box(const CUtensorMap& map, int32_t x, int32_t y, int32_t z, int32_t w, uint32_t to,
                                uint32_t barrier) {
#ifdef SIGE_SM90A
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], [%6];" ::"r"(
          to),
      "l"(reinterpret_cast<uint64_t>(&map)), "r"(x), "r"(y), "r"(z), "r"(w), "r"(barrier)
      : "memory");
#endif
}
__device__ inline void prefetch_box(const CUtensorMap& map, int32_t x, int32_t y, int32_t z, int32_t w) {
#ifdef SIGE_SM90A
  asm volatile("cp.async.bulk.prefetch.tensor.4d.L2.global.tile [%0, {%1, %2, %3, %4}];" ::"l"(
                   reinterpret_cast<uint64_t>(&map)),
               "r"(x), "r"(y), "r"(z), "r"(w)
               : "memory");
#endif
}

// What this thread wrote to shared memory is there for asynchronous instructions, and what it read there may be overwritten
// by them, once others know of it.
__device__ inline void shared_publish() {
#ifdef SIGE_SM90A
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

}  // namespace sige::cuda
