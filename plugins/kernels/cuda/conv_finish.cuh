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

__device__ inline void unpack8(const uint4& from, float (&x)[8]) {
  const uint32_t pairs[] = {from.x, from.y, from.z, from.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = __half22float2(reinterpret_cast<const __half2&>(pairs[i]));
    x[2 * i] = pair.x, x[2 * i + 1] = pair.y;
  }
}

__device__ inline void add8(const uint4& from, float (&x)[8]) {
  float each[8];
  unpack8(from, each);
#pragma unroll
  for (int i = 0; i < 8; ++i) x[i] += each[i];
}

// Where vector `index` of a tile's outputs begins. A gate leaves half of the columns; both numbers are known when this is
// compiled, and so nothing is divided.
template <typename S>
__device__ void locate(int index, bool gated, int& row, int& column) {
  constexpr int WHOLE = S::COLUMNS / 8, HALF = WHOLE / 2;
  row = gated ? index / HALF : index / WHOLE;
  column = (gated ? index % HALF : index % WHOLE) * 8;
}

// Eight outputs of one row: what is done to their sum, loaded ahead of it.
class Epilogue {
  using Vector = uint4;  // of halves, which the compiler would take apart, and so wait for, where they are loaded

 public:
  // Vector `index` of the block's tile.
  template <typename S>
  __device__ void load(const ConvParameters& p, int index) {
    locate<S>(index, p.gated, row_, column_);
    const int32_t row = blockIdx.y * S::ROWS + row_;
    const int32_t channel = blockIdx.x * (p.gated ? S::COLUMNS / 2 : S::COLUMNS) + column_;
    valid_ = row_ < S::ROWS && row < p.rows && channel < p.outputs;
    if (!valid_) return;
    at_ = int64_t{row} * p.outputs + channel;
    const Addends<__half>& a = p.addends;
    if (a.bias) bias_ = *reinterpret_cast<const Vector*>(a.bias + channel);
    if (p.gated) {
      if (a.bias) gate_bias_ = *reinterpret_cast<const Vector*>(a.bias + p.outputs + channel);
    } else if (a.embedding) {
      uint32_t image, target;
      p.targets.divide(row, image, target);
      gate_bias_ = *reinterpret_cast<const Vector*>(a.embedding + image * a.embedding_stride + channel);
    }
    if (a.multiplier) multiplier_ = *reinterpret_cast<const Vector*>(a.multiplier + at_);
    if (a.residual) residual_ = *reinterpret_cast<const Vector*>(a.residual + at_);
  }

  __device__ bool valid() const { return valid_; }
  __device__ int row() const { return row_; }  // of the tile
  __device__ int column() const { return column_; }

  // Of a valid vector. x: the products; gates: those behind them, of a gated conv.
  __device__ void store(const ConvParameters& p, float (&x)[8], float (&gates)[8], float factor) const {
    const Addends<__half>& a = p.addends;
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] *= factor;
    if (a.bias) add8(bias_, x);
    float y[8];
    if (p.gated) {
#pragma unroll
      for (int i = 0; i < 8; ++i) y[i] = gates[i] * factor;
      if (a.bias) add8(gate_bias_, y);
    } else {
      if (a.embedding) add8(gate_bias_, x);
#pragma unroll
      for (int i = 0; i < 8; ++i) y[i] = x[i];
    }
#pragma unroll 1  // all activations in one place: they are most of the kernel
    for (bool last = !p.gated;; last = true) {
      if (last && a.multiplier) {
        float factors[8];
        unpack8(multiplier_, factors);
#pragma unroll
        for (int i = 0; i < 8; ++i) y[i] *= factors[i];
      }
      if (last && a.residual) add8(residual_, y);
      activate<8>(last ? p.activation : p.gate, last ? p.alpha : 0.0f, y);
      if (last) break;
#pragma unroll
      for (int i = 0; i < 8; ++i) y[i] *= x[i];
    }
    *reinterpret_cast<Vector*>(p.out + at_) =
        make_uint4(to_halves(y[0], y[1]), to_halves(y[2], y[3]), to_halves(y[4], y[5]), to_halves(y[6], y[7]));
  }

 private:
  bool valid_ = false;
  int row_ = 0, column_ = 0;
  int64_t at_;
  Vector bias_, gate_bias_, multiplier_, residual_;  // gate_bias_: or the embedding
};

// 1 / deviation of a row from its moments.
__device__ inline float inverse_deviation(float2 moments, const ConvParameters& p) {
  const float mean = moments.x / p.source.channels;
  return rsqrtf(fmaxf(moments.y / p.source.channels - mean * mean, 0.0f) + p.norm_epsilon);
}

// A block's part in the end of a tile: the parts of groups are added up, then those of blocks. Each block of a cluster
// sends every other one the sums that it finishes, and the moments of all rows.
template <typename S>
class Finish {
 public:
  __device__ explicit Finish(const ConvParameters& p)
      : p_(p), blocks_(gridDim.z), rank_(blockIdx.z), columns_(p.gated ? S::COLUMNS / 2 : S::COLUMNS),
        parts_(p.gated ? 2 : 1), vectors_(S::ROWS * columns_ / 8), share_((vectors_ + blocks_ - 1) / blocks_) {}

  // Bytes that the block's inbox gets.
  __device__ uint32_t expected() const {
    const int left = vectors_ - rank_ * share_, mine = left < 0 ? 0 : left < share_ ? left : share_;
    return blocks_ * (mine * parts_ * 8 * sizeof(float) + (norms() ? S::ROWS * sizeof(float2) : 0));
  }

  // Starts the way of the tile's bias into the L2 cache, where the addends that kernels before wrote already are.
  __device__ void prefetch_bias() const {
    if (!p_.addends.bias) return;
    const int32_t column = blockIdx.x * columns_;
    for (int part = 0; part < parts_; ++part)
      prefetch(p_.addends.bias + int64_t{part} * p_.outputs + column, min(columns_, p_.outputs - column));
  }

  // Loads ahead what the thread adds first. The kernel before must have finished. By whole warps, once: the cluster's
  // barrier also empties the L1 cache, and so is behind them before there is something to send.
  __device__ void prepare() {
    __syncwarp();
    if (blocks_ > 1) cluster_wait();  // all have started, and expect
    if (threadIdx.x < share_) epilogue_.template load<S>(p_, rank_ * share_ + threadIdx.x);
  }

  // shared: the groups' sums; received: RECEIVED_BYTES; moments: [block][row][2]. After `prepare`.
  __device__ void run(const unsigned char* shared, float* received, float* moments, const Inbox& inbox) {
    const float* const sums = reinterpret_cast<const float*>(shared);
    __syncthreads();
    if (blocks_ > 1) send(sums, received, moments, inbox);
#pragma unroll 1
    for (int i = threadIdx.x; i < share_; i += S::THREADS) {
      if (i >= S::THREADS) epilogue_.template load<S>(p_, rank_ * share_ + i);
      if (blocks_ > 1) inbox.wait();
      if (!epilogue_.valid()) continue;
      float x[8] = {}, gates[8] = {}, factor = 1.0f;
      if (blocks_ == 1) {
        add_groups(sums, epilogue_.row(), epilogue_.column(), x);
        if (p_.gated) add_groups(sums, epilogue_.row(), columns_ + epilogue_.column(), gates);
        if (norms()) factor = inverse_deviation(moments_of(sums, epilogue_.row()), p_);
      } else {
#pragma unroll 2
        for (int block = 0; block < blocks_; ++block) {
          const float* at = received + (block * share_ + i) * parts_ * 8;
          add8(at, x);
          if (p_.gated) add8(at + 8, gates);
        }
        if (norms()) {
          float2 sum{};
#pragma unroll 1
          for (int block = 0; block < blocks_; ++block) add(sum, moments + (block * S::ROWS + epilogue_.row()) * 2);
          factor = inverse_deviation(sum, p_);
        }
      }
      epilogue_.store(p_, x, gates, factor);
    }
  }

 private:
  __device__ bool norms() const { return p_.norm_epsilon > 0; }

  __device__ static void add(float2& sum, const float* at) {
    const float2 part = *reinterpret_cast<const float2*>(at);
    sum.x += part.x, sum.y += part.y;
  }
  __device__ static void add_groups(const float* sums, int row, int column, float (&x)[8]) {
#pragma unroll
    for (int group = 0; group < S::GROUPS; ++group)
      add8(sums + group * (S::GROUP_BYTES / 4) + row * S::SUM_STRIDE + column, x);
  }
  // Behind the row's sums.
  __device__ static float2 moments_of(const float* sums, int row) {
    float2 sum{};
#pragma unroll
    for (int group = 0; group < S::GROUPS; ++group)
      add(sum, sums + group * (S::GROUP_BYTES / 4) + row * S::SUM_STRIDE + S::COLUMNS);
    return sum;
  }

  __device__ void send(const float* sums, float* received, float* moments, const Inbox& inbox) const {
#pragma unroll 1
    for (int i = threadIdx.x; i < S::VECTORS; i += S::THREADS) {
      const int row = i / (S::COLUMNS / 8), column = i % (S::COLUMNS / 8) * 8;
      const int part = column >= columns_, vector = (row * columns_ + column - part * columns_) / 8;
      int block = 0;  // vector / share_, sooner than by a division
#pragma unroll
      for (int next = 1; next < MAX_CLUSTER; ++next) block += vector >= next * share_;
      float x[8] = {};
      add_groups(sums, row, column, x);
      inbox.send(received + ((rank_ * share_ + vector - block * share_) * parts_ + part) * 8, block, x);
    }
    if (!norms()) return;
#pragma unroll 1
    for (int i = threadIdx.x; i < S::ROWS / 4 * blocks_; i += S::THREADS) {
      const int row = i % (S::ROWS / 4) * 4;
      float x[8];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float2 sum = moments_of(sums, row + j);
        x[2 * j] = sum.x, x[2 * j + 1] = sum.y;
      }
      inbox.send(moments + (rank_ * S::ROWS + row) * 2, i / (S::ROWS / 4), x);
    }
  }

  const ConvParameters& p_;
  const int blocks_, rank_;
  const int columns_;  // outputs of a row
  const int parts_;    // sums of an output: 2 with a gate
  const int vectors_;  // of 8 outputs, in the tile
  const int share_;    // vectors that a block finishes, from rank * share on
  Epilogue epilogue_;
};

}  // namespace sige::cuda
