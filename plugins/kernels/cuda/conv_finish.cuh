// The end of conv_mma.cu: the sums of groups and blocks, and what is done to them.
#pragma once

#include "conv_tile.cuh"

namespace sige::cuda {

// The two halves of a barrier of the cluster's threads. What is to be seen behind it needs a fence of its own: a release
// here would wait for device memory.
__device__ inline void cluster_arrive() {
#ifdef SIGE_HOPPER
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
#endif
}
__device__ inline void cluster_wait() {
#ifdef SIGE_HOPPER
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// Counts bytes that other blocks of the cluster send into this one's shared memory. Used once.
class Inbox {
 public:
  __device__ explicit Inbox(void* barrier) : barrier_(static_cast<uint32_t>(__cvta_generic_to_shared(barrier))) {}

  // By one thread, before the cluster's barrier.
  __device__ void expect(uint32_t bytes) const {
#ifdef SIGE_HOPPER
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barrier_) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier_), "r"(bytes) : "memory");
#endif
  }

  // Eight floats to where `to` is, in block `rank` of the cluster.
  __device__ void send(const float* to, uint32_t rank, const float (&x)[8]) const {
#ifdef SIGE_HOPPER
    const uint32_t local = static_cast<uint32_t>(__cvta_generic_to_shared(to));
    uint32_t address, barrier;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(local), "r"(rank));
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(barrier) : "r"(barrier_), "r"(rank));
#pragma unroll
    for (int i = 0; i < 8; i += 4)
      asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(
                       address + i * 4),
                   "f"(x[i]), "f"(x[i + 1]), "f"(x[i + 2]), "f"(x[i + 3]), "r"(barrier)
                   : "memory");
#endif
  }

  // All that was expected is there.
  __device__ void wait() const {
#ifdef SIGE_HOPPER
    uint32_t done = 0;
    while (!done)
      asm volatile(
          "{\n.reg .pred complete;\n"
          "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 complete, [%1], 0;\n"
          "selp.u32 %0, 1, 0, complete;\n}"
          : "=r"(done)
          : "r"(barrier_)
          : "memory");
#endif
  }

 private:
  uint32_t barrier_;
};

__device__ inline void add8(const float* from, float (&x)[8]) {
  const float4 low = *reinterpret_cast<const float4*>(from), high = *reinterpret_cast<const float4*>(from + 4);
  x[0] += low.x, x[1] += low.y, x[2] += low.z, x[3] += low.w;
  x[4] += high.x, x[5] += high.y, x[6] += high.z, x[7] += high.w;
}

__device__ inline void add8(const Pack<__half, 8>& from, float (&x)[8]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) x[i] += __half2float(from.at[i]);
}

// Eight outputs of one row: what is done to their sum, loaded ahead of it.
class Epilogue {
  using Vector = Pack<__half, 8>;

 public:
  // Vector `index` of the block's tile, of COLUMNS outputs a row.
  template <typename S>
  __device__ void load(const ConvParameters& p, int index) {
    const int32_t row = blockIdx.y % p.tiles_m * S::ROWS + index / (S::COLUMNS / 8);
    const int32_t channel = blockIdx.x * S::COLUMNS + index % (S::COLUMNS / 8) * 8;
    const int image = blockIdx.y / p.tiles_m;
    valid_ = index < S::VECTORS && row < p.targets && channel < p.outputs;
    if (!valid_) return;
    at_ = (int64_t{image} * p.targets + row) * p.outputs + channel;
    const Addends<__half>& a = p.addends;
    if (a.bias) bias_ = *reinterpret_cast<const Vector*>(a.bias + channel);
    if (a.embedding) embedding_ = *reinterpret_cast<const Vector*>(a.embedding + image * a.embedding_stride + channel);
    if (a.multiplier) multiplier_ = *reinterpret_cast<const Vector*>(a.multiplier + at_);
    if (a.residual) residual_ = *reinterpret_cast<const Vector*>(a.residual + at_);
  }

  __device__ void store(const ConvParameters& p, float (&x)[8]) const {
    if (!valid_) return;
    const Addends<__half>& a = p.addends;
    if (a.bias) add8(bias_, x);
    if (a.embedding) add8(embedding_, x);
    if (a.multiplier) {
#pragma unroll
      for (int i = 0; i < 8; ++i) x[i] *= __half2float(multiplier_.at[i]);
    }
    if (a.residual) add8(residual_, x);
    activate<8>(p.activation, p.alpha, x);
    Vector result;
#pragma unroll
    for (int i = 0; i < 8; ++i) result.at[i] = __float2half_rn(x[i]);
    *reinterpret_cast<Vector*>(p.out + at_) = result;
  }

 private:
  bool valid_;
  int64_t at_;
  Vector bias_, embedding_, multiplier_, residual_;
};

// Which of a tile's vectors a block of the cluster finishes: `share` from rank * share on.
template <typename S>
__device__ int share_of(int blocks) {
  return (S::VECTORS + blocks - 1) / blocks;
}

// Adds up the parts of groups, then of blocks: each block of a cluster sends every other one the sums that it finishes.
template <typename S>
__device__ void finish(const ConvParameters& p, unsigned char* shared, const Inbox& inbox) {
  const int blocks = gridDim.z, rank = blockIdx.z, share = share_of<S>(blocks);
  float* const received = reinterpret_cast<float*>(shared + S::GROUPS * S::GROUP_BYTES);
  Epilogue epilogue;
  if (blocks > 1 && threadIdx.x < share) epilogue.load<S>(p, rank * share + threadIdx.x);
  __syncthreads();
  if (blocks > 1) cluster_wait();  // all have started, and expect
  for (int i = threadIdx.x; i < S::VECTORS; i += S::THREADS) {
    if (blocks == 1) epilogue.load<S>(p, i);
    const float* tile = reinterpret_cast<const float*>(shared) + i / (S::COLUMNS / 8) * S::SUM_STRIDE +
                        i % (S::COLUMNS / 8) * 8;
    float x[8] = {};
#pragma unroll
    for (int group = 0; group < S::GROUPS; ++group) add8(tile + group * (S::GROUP_BYTES / 4), x);
    if (blocks == 1) {
      epilogue.store(p, x);
    } else {
      inbox.send(received + (rank * share + i % share) * 8, i / share, x);
    }
  }
  if (blocks == 1) return;
  for (int i = threadIdx.x; i < share; i += S::THREADS) {
    if (i >= S::THREADS) epilogue.load<S>(p, rank * share + i);
    inbox.wait();
    float x[8] = {};
#pragma unroll 4
    for (int part = 0; part < blocks; ++part) add8(received + (part * share + i) * 8, x);
    epilogue.store(p, x);
  }
}

}  // namespace sige::cuda
