// Attention in float16 by Hopper's own instructions: a warpgroup has 64 queries; keys and values come by the tensor memory
// accelerator, several tiles ahead of their use.
//
// Products of queries and keys read both from shared memory; the weights stay in registers as the left operand of the
// products with the values. The order of the two is FlashAttention-3's (Shah et al., arXiv 2407.08608). Fresh rows do not
// replace the base's one by one: those are masked, and tiles of fresh rows follow those of the base. Blocks of a cluster
// share the keys. Launched with programmatic stream serialisation: a base is read while the kernel before still runs.
#include "attention_finish.cuh"
#include "launch.cuh"
#include "tensor_map.h"
#include "wgmma.cuh"

namespace sige::cuda {

namespace {

constexpr int KEYS = 64;         // of a tile
constexpr int WORDS = KEYS / 32; // of its mask
constexpr int MAX_TILES = 512;   // of a block
constexpr int BOX_BYTES = 64 * BOX * 2;
constexpr float SLACK = 8;       // powers of two
constexpr int MAX_ROWS = 65535;  // of fresh rows and the base together; MAX_TILES hold a part in two of them
constexpr size_t APART = 116 << 10;  // bytes of shared memory that no two blocks of a processor can have

// Heads padded to D_ channels; GROUPS_ warpgroups of 64 queries.
template <int D_, int GROUPS_>
struct HopperShape {
  static constexpr int D = D_, GROUPS = GROUPS_, ROWS = GROUPS * 64;
  static constexpr int BOXES = (D + BOX - 1) / BOX, LAST = D - (BOXES - 1) * BOX;  // LAST: columns of the last box
  static constexpr int SUMS = ((BOXES - 1) * BOX + LAST) / 2;  // of a thread
  static constexpr int TILE_BYTES = BOXES * BOX_BYTES, STAGE_BYTES = 2 * TILE_BYTES;  // keys, then values
  static constexpr int STAGES = BOXES == 1 ? 5 : 4;  // two are in use at once
  static constexpr int LEADING = D % 32 == 8 ? D : D + PAD;  // of the sums, which end in the tiles
  static constexpr int QUERIES = STAGES * STAGE_BYTES, STATES = QUERIES + GROUPS * TILE_BYTES;  // where they begin
  static constexpr int BARRIERS = STATES + ROWS * 8, MASK = BARRIERS + (2 * STAGES + 1) * 8;
  static constexpr int READERS = GROUPS * WARPGROUP, THREADS = READERS + 32;
  static constexpr size_t SHARED = MASK + MAX_TILES * WORDS * 4;
  static constexpr size_t ALONE = SHARED < APART ? APART : SHARED;  // of a block that has its processor to itself
  static_assert(ROWS * LEADING * 4 <= QUERIES && LEADING % 4 == 0 && D % 8 == 0 && BARRIERS % 8 == 0);
};

struct Maps {
  CUtensorMap q, k, v, k_base, v_base;  // [batch][rows][heads][channels]
};

// Tiles of the base, then of fresh rows; a block has [first, first + count).
struct Tiles {
  int32_t base, first, count;

  __device__ explicit Tiles(const AttentionParameters& p) : base((p.pixels + KEYS - 1) / KEYS) {
    const uint32_t all = base + (p.active ? (p.fresh + KEYS - 1) / KEYS : 0), splits = p.splits;
    first = static_cast<int32_t>(all * blockIdx.z / splits);
    count = static_cast<int32_t>(all * (blockIdx.z + 1) / splits) - first;
  }
};

// A bit for every key of the block's tiles: whether it does not count. These are what lies behind the last row, pixels of
// the base that have fresh rows, and fresh rows that repeat the one before. By all readers, in step afterwards.
template <typename S>
__device__ void fill_mask(const AttentionParameters& p, const Tiles& tiles, uint32_t* mask) {
  const int32_t words = tiles.count * WORDS;
#pragma unroll 1
  for (int32_t i = threadIdx.x; i < words; i += S::READERS) {
    const int32_t tile = tiles.first + i / WORDS, rows = tile < tiles.base ? p.pixels : p.fresh;
    const int32_t left = rows - (tile < tiles.base ? tile : tile - tiles.base) * KEYS - i % WORDS * 32;
    mask[i] = left >= 32 ? 0 : left <= 0 ? ~0u : ~0u << left;
  }
  some_sync<S::READERS>();
  if (!p.active) return;
#pragma unroll 4
  for (int32_t i = threadIdx.x; i < p.fresh; i += S::READERS) {
    const int32_t pixel = __ldg(p.active + i), before = i > 0 ? __ldg(p.active + i - 1) : -1;
    const int32_t key = pixel == before ? tiles.base * KEYS + i : pixel;
    const auto bit = static_cast<uint32_t>(key - tiles.first * KEYS);
    if (key >= 0 && bit < words * 32u) atomicOr(mask + bit / 32, 1u << bit % 32);
  }
  some_sync<S::READERS>();
}

// A stage of the ring: its tile of keys, and the barrier that tells when it and the values are there.
struct Place {
  uint64_t keys;
  uint32_t full, parity;
};

// Keeps what is done with registers in its place beside the asynchronous products.
template <int N>
__device__ void hold(float (&x)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+f"(x[i])::"memory");
}
template <int N>
__device__ void hold(uint32_t (&x)[N][4]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+r"(x[i][0]), "+r"(x[i][1]), "+r"(x[i][2]), "+r"(x[i][3])::"memory");
}

// The largest score of a row, of those that the thread has: begins at score `FIRST`.
template <int FIRST>
__device__ float largest(const float (&scores)[KEYS / 2]) {
  float most[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) most[i] = fmaxf(scores[FIRST + i * 4], scores[FIRST + i * 4 + 1]);
#pragma unroll
  for (int n = 16; n < KEYS / 2; n += 4)
    most[n / 4 % 4] = fmaxf(most[n / 4 % 4], fmaxf(scores[FIRST + n], scores[FIRST + n + 1]));
  return fmaxf(fmaxf(most[0], most[1]), fmaxf(most[2], most[3]));
}

template <typename S>
__global__ void __launch_bounds__(S::THREADS)
    attention_hopper_kernel(const __grid_constant__ AttentionParameters p, const __grid_constant__ Maps maps) {
#ifdef SIGE_SM90A
  extern __shared__ __align__(1024) unsigned char shared[];
  const uint32_t ring = shared_address(shared), queries = ring + S::QUERIES;
  const uint32_t full = ring + S::BARRIERS, empty = full + S::STAGES * 8, query_full = empty + S::STAGES * 8;
  uint32_t* const mask = reinterpret_cast<uint32_t*>(shared + S::MASK);
  float2* const states = reinterpret_cast<float2*>(shared + S::STATES);
  float* const block_sums = reinterpret_cast<float*>(shared);  // [query][LEADING], once the tiles are done
  const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
  const int32_t first_query = blockIdx.x * S::ROWS;
  const Tiles tiles(p);
  if (threadIdx.x == 0) {
#pragma unroll
    for (int i = 0; i < S::STAGES; ++i) {
      barrier_init(full + i * 8, 1);
      barrier_init(empty + i * 8, S::GROUPS * WARPGROUP_WARPS);
    }
    barrier_init(query_full, 1);
    barriers_publish();
  }
  __syncthreads();
  release_successor();
  Turn turn;

  if (warp == S::GROUPS * WARPGROUP_WARPS) {
    if (elected()) {
      const int32_t image = blockIdx.y / p.heads, head = blockIdx.y % p.heads;
      const auto load = [&](int32_t tile, int stage) {
        const bool fresh = tile >= tiles.base;
        const int32_t row = (fresh ? tile - tiles.base : tile) * KEYS;
        const uint32_t to = ring + stage * S::STAGE_BYTES, barrier = full + stage * 8;
        barrier_expect(barrier, S::STAGE_BYTES);
#pragma unroll
        for (int i = 0; i < S::BOXES; ++i)
          load_box(fresh ? maps.k : maps.k_base, i * BOX, head, row, image, to + i * BOX_BYTES, barrier);
#pragma unroll
        for (int i = 0; i < S::BOXES; ++i)
          load_box(fresh ? maps.v : maps.v_base, i * BOX, head, row, image, to + S::TILE_BYTES + i * BOX_BYTES, barrier);
      };
      prefetch_map(maps.k_base);
      prefetch_map(maps.v_base);
      prefetch_map(maps.q);
      const int soon = tiles.count < S::STAGES ? tiles.count : S::STAGES;
      int early = 0;
      if (p.active) {
#pragma unroll 1
        for (; early < soon && tiles.first + early < tiles.base; ++early) load(tiles.first + early, early);
        prefetch_map(maps.k);
        prefetch_map(maps.v);
      } else {  // keys of a text or an overlay: the kernel before may write them
#pragma unroll 1
        for (int i = 0; i < soon; ++i) {
#pragma unroll
          for (int j = 0; j < S::BOXES; ++j) {
            prefetch_box(maps.k_base, j * BOX, head, (tiles.first + i) * KEYS, image);
            prefetch_box(maps.v_base, j * BOX, head, (tiles.first + i) * KEYS, image);
          }
        }
      }
      wait_for_predecessor();
      barrier_expect(query_full, S::GROUPS * S::BOXES * BOX_BYTES);
#pragma unroll 1
      for (int i = 0; i < S::GROUPS * S::BOXES; ++i)
        load_box(maps.q, i % S::BOXES * BOX, head, first_query + i / S::BOXES * 64, image, queries + i * BOX_BYTES,
                 query_full);
#pragma unroll 1
      for (int i = early; i < soon; ++i) load(tiles.first + i, i);
#pragma unroll 1
      for (int i = soon; i < tiles.count; ++i) {
        barrier_wait(empty + turn.stage * 8, turn.parity);
        load(tiles.first + i, turn.stage);
        turn.next(S::STAGES);
      }
    }
    __syncwarp();
    wait_for_predecessor();
    __syncthreads();
  } else {
    const int group = warp / WARPGROUP_WARPS;
    int busy = first_query + warp * 16 < p.fresh;  // some of the warp's queries exist
    int leads = lane == 0, lane_column = lane % 4 * 2;
    asm volatile("" : "+r"(busy), "+r"(leads), "+r"(lane_column));  // the loop is not to look them up for every tile
    const float scale = fabsf(p.scale);  // its sign goes to the scores, so that the largest has the largest weight
    fill_mask<S>(p, tiles, mask);
    wait_for_predecessor();

    float scores[KEYS / 2], sums[S::SUMS];  // [8 columns][2 rows][2 columns]
    float origin[2] = {-INFINITY, -INFINITY}, total[2] = {};  // the weight of a score is 2^(score * scale - origin)
    uint32_t weights[KEYS / 16][4] = {};
#pragma unroll
    for (int i = 0; i < S::SUMS; ++i) sums[i] = 0;
#pragma unroll
    for (int i = 0; i < KEYS / 2; ++i) scores[i] = 0;
    const uint64_t own = tile_descriptor(queries + group * S::TILE_BYTES);
    const auto multiply = [&](uint64_t keys) {
#pragma unroll
      for (int j = 0; j < (S::D + 15) / 16; ++j) {
        const int at = j / 4 * BOX_BYTES + j % 4 * 32;
        add_scores(scores, advanced(own, at), advanced(keys, at), j);
      }
    };
    const auto weigh = [&](uint64_t keys) {  // by the values behind these
#pragma unroll
      for (int j = 0; j < KEYS / 16; ++j) {
        const int at = S::TILE_BYTES + j * 16 * 128;
#pragma unroll
        for (int box = 0; box < S::BOXES - 1; ++box)
          add_weighted<BOX>(sums + box * (BOX / 2), weights[j], advanced(keys, at + box * BOX_BYTES));
        add_weighted<S::LAST>(sums + (S::BOXES - 1) * (BOX / 2), weights[j], advanced(keys, at + (S::BOXES - 1) * BOX_BYTES));
      }
    };
    barrier_wait(query_full, 0);

    const Place first{tile_descriptor(ring), full, 0};
    Place now = first, before = first;  // the first time, the tile before is weighed with zeros
    bool there = false;                 // the tile's keys and values
#pragma unroll 1
    for (int i = 0; i < tiles.count; ++i) {
      if (!there) barrier_wait(now.full, now.parity);
      hold(scores);
      hold(sums);
      hold(weights);
      products_begin();
      multiply(now.keys);
      products_commit();
      weigh(before.keys);
      products_commit();
      const uint32_t done = before.full + S::STAGES * 8;
      before = now;
      now.full += 8;
      now.keys = advanced(now.keys, S::STAGE_BYTES);
      if (now.full == empty) now = {first.keys, first.full, now.parity ^ 1};
      there = barrier_passed(now.full, now.parity);  // of the next tile: it is asked for ahead of its use
      uint32_t masked[WORDS], any = 0, all = ~0u;
#pragma unroll
      for (int w = 0; w < WORDS; ++w) masked[w] = mask[i * WORDS + w], any |= masked[w], all &= masked[w];
      products_wait<1>();  // the scores are there; while they become weights, the values of the tile before are weighed
      hold(scores);
      float shrink[2];
      bool shrinks = false;
      if (busy && all != ~0u) {
        if (p.scale < 0) {
#pragma unroll
          for (int n = 0; n < KEYS / 2; ++n) scores[n] = -scores[n];
        }
        if (any) {
#pragma unroll
          for (int w = 0; w < WORDS; ++w) masked[w] >>= lane_column;
#pragma unroll
          for (int n = 0; n < KEYS / 2; ++n)
            if (masked[n / 16] >> (n / 4 % 4 * 8 + n % 2) & 1) scores[n] = -INFINITY;
        }
        float top[2] = {largest<0>(scores) * scale, largest<2>(scores) * scale};
        // Weights may grow to 2^SLACK before sums are taken from another origin (as in FlashAttention-4).
        shrinks = __any_sync(~0u, top[0] > origin[0] + SLACK || top[1] > origin[1] + SLACK);
        if (shrinks) {
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            top[r] = fmaxf(top[r], __shfl_xor_sync(~0u, top[r], 1));
            top[r] = fmaxf(top[r], __shfl_xor_sync(~0u, top[r], 2));
            top[r] = fmaxf(top[r], origin[r]);
            shrink[r] = power2(origin[r] - top[r]);
            origin[r] = top[r];
            total[r] *= shrink[r];
          }
        }
        float parts[2][2] = {};
#pragma unroll
        for (int n = 0; n < KEYS / 2; ++n) {
          scores[n] = power2(fmaf(scores[n], scale, -origin[n / 2 % 2]));
          parts[n / 2 % 2][n % 2] += scores[n];
        }
#pragma unroll
        for (int r = 0; r < 2; ++r) total[r] += parts[r][0] + parts[r][1];
      } else if (busy) {
#pragma unroll
        for (int n = 0; n < KEYS / 2; ++n) scores[n] = 0;
        hold(scores);
      }
      products_wait<0>();
      hold(weights);
      hold(sums);
      if (leads && i > 0) barrier_arrive(done);
      if (shrinks) {
#pragma unroll
        for (int n = 0; n < S::SUMS; ++n) sums[n] *= shrink[n / 2 % 2];
      }
#pragma unroll
      for (int j = 0; j < KEYS / 16; ++j)
#pragma unroll
        for (int n = 0; n < 4; ++n) weights[j][n] = to_halves(scores[j * 8 + n * 2], scores[j * 8 + n * 2 + 1]);
    }
    hold(sums);
    hold(weights);
    products_begin();
    weigh(before.keys);
    products_commit();
    products_wait<0>();
    hold(weights);
    hold(sums);
    __syncthreads();  // the memory of the tiles takes the sums
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      total[r] += __shfl_xor_sync(0xffffffff, total[r], 1);
      total[r] += __shfl_xor_sync(0xffffffff, total[r], 2);
      const int row = warp * 16 + lane / 4 + r * 8;
      if (lane % 4 == 0) states[row] = make_float2(origin[r], total[r]);
#pragma unroll
      for (int n = 0; n < S::D / 8; ++n)
        *reinterpret_cast<float2*>(block_sums + row * S::LEADING + n * 8 + lane_column) =
            make_float2(sums[n * 4 + r * 2], sums[n * 4 + r * 2 + 1]);
    }
  }
  const int32_t rows = p.fresh - first_query < S::ROWS ? p.fresh - first_query : S::ROWS;
  finish(p, Head<__half>(p, blockIdx.y), blockIdx.y, first_query, rows, 0, p.dv, block_sums, S::LEADING, states);
#endif
}

// Blocks in x, blocks that share the keys, the shared memory that each asks for, and the time.
struct Plan {
  int32_t columns, splits;
  size_t shared;
  int64_t time;
};

// The splits of least time, in nanoseconds: tiles one after the other, waves of clusters, exchange. Blocks that share a
// processor slow each other down, by their arithmetic or, with few queries each, by their loads. Read off an H200.
template <typename S>
Plan plan(const AttentionParameters& p) {
  constexpr int64_t LATENCY = 250, GROUP = 5 * S::D, LOADS = 12 * S::D, EXCHANGE = 200, EXCHANGE_SPLIT = 50;
  const int32_t columns = (p.fresh + S::ROWS - 1) / S::ROWS;
  const int64_t clusters = int64_t{columns} * p.batch * p.heads;
  const int32_t tiles = (p.pixels + KEYS - 1) / KEYS + (p.active ? (p.fresh + KEYS - 1) / KEYS : 0);
  Plan best{columns, 0, 0, INT64_MAX};
  for (int32_t splits = 1; splits <= MAX_CLUSTER && splits <= tiles; ++splits) {
    const int64_t each = (tiles + splits - 1) / splits;
    // Blocks that start while the kernel before still runs would go two by two to the processors that it leaves idle.
    const bool apart = clusters * splits <= PROCESSORS;
    const size_t memory = apart ? S::ALONE : S::SHARED;
    const int64_t at_once =
        apart ? clusters_at_once<attention_hopper_kernel<S>, APART>(S::THREADS, static_cast<unsigned>(splits), memory)
              : clusters_at_once<attention_hopper_kernel<S>>(S::THREADS, static_cast<unsigned>(splits), memory);
    if (!at_once || each > MAX_TILES) continue;
    const int64_t waves = (clusters + at_once - 1) / at_once, together = clusters < at_once ? clusters : at_once;
    const int64_t shared = (together * splits + PROCESSORS - 1) / PROCESSORS;  // blocks of a processor
    const int64_t busy = (LATENCY + shared * GROUP * S::GROUPS) * (shared > 1 ? 12 : 10) / 10;
    const int64_t step = busy > shared * LOADS ? busy : shared * LOADS;
    const int64_t time = waves * each * step +
                         (splits > 1 ? EXCHANGE + EXCHANGE_SPLIT * splits : 0);
    if (time < best.time) best.splits = splits, best.shared = memory, best.time = time;
  }
  return best;
}

// Boxes of 64 channels of some rows of one head.
bool map_rows(const void* data, const AttentionParameters& p, int32_t rows, int32_t stride, int box_rows, CUtensorMap& map) {
  return map_array<4>(data, {p.dk, p.heads, rows, p.batch}, {p.dk, stride, int64_t{rows} * stride}, {BOX, 1, box_rows, 1}, map);
}

template <typename S>
sige_status launch(AttentionParameters p, const Plan& plan, cudaStream_t stream) {
  Maps maps;
  if (!map_rows(p.q, p, p.fresh, p.q_stride, 64, maps.q) ||
      !map_rows(p.k_base, p, p.pixels, p.k_base_stride, KEYS, maps.k_base) ||
      !map_rows(p.v_base, p, p.pixels, p.v_base_stride, KEYS, maps.v_base))
    return SIGE_ENGINE_FAILURE;
  maps.k = maps.k_base, maps.v = maps.v_base;
  if (p.active && (!map_rows(p.k, p, p.fresh, p.k_stride, KEYS, maps.k) ||
                   !map_rows(p.v, p, p.fresh, p.v_stride, KEYS, maps.v)))
    return SIGE_ENGINE_FAILURE;
  p.splits = plan.splits;
  const Launch launch(static_cast<unsigned>(plan.columns), static_cast<unsigned>(p.batch * p.heads),
                      static_cast<unsigned>(plan.splits), S::THREADS, plan.shared, stream);
  return cudaLaunchKernelEx(&launch.config, attention_hopper_kernel<S>, p, maps) == cudaSuccess ? SIGE_OK : failed();
}

template <typename... Shapes>
sige_status launch_best(const AttentionParameters& p, cudaStream_t stream) {
  Plan best{0, 0, 0, INT64_MAX};
  sige_status (*chosen)(AttentionParameters, const Plan&, cudaStream_t) = nullptr;
  const auto consider = [&](auto shape) {
    using S = decltype(shape);
    if (cudaFuncSetAttribute(attention_hopper_kernel<S>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(S::ALONE)))
      return false;
    const Plan found = plan<S>(p);
    if (found.time < best.time) best = found, chosen = launch<S>;
    return true;
  };
  if (!(consider(Shapes{}) && ...)) return failed();
  return chosen ? chosen(p, best, stream) : SIGE_ENGINE_FAILURE;
}

}  // namespace

bool runs_on_hopper(const AttentionParameters& p, const Machine& machine) {
#ifdef SIGE_HAS_SM90A
  constexpr int CAPABILITY = 90;
#else
  constexpr int CAPABILITY = -1;
#endif
  const int64_t rows = int64_t{p.pixels} + (p.active ? p.fresh : 0);
  return machine.capability == CAPABILITY && p.dk == p.dv && p.dk <= MAX_HOPPER_HEAD && p.wide_k && p.wide_v &&
         rows <= MAX_ROWS && p.fresh <= MAX_ROWS && int64_t{p.batch} * p.heads <= MAX_ROWS;
}

sige_status launch_attention_hopper(const AttentionParameters& p, cudaStream_t stream) {
  // More groups than these have too few registers or too little shared memory.
  if (p.dk <= 40)
    return launch_best<HopperShape<40, 1>, HopperShape<40, 2>, HopperShape<40, 3>>(p, stream);
  if (p.dk <= 64)
    return launch_best<HopperShape<64, 1>, HopperShape<64, 2>, HopperShape<64, 3>>(p, stream);
  if (p.dk <= 80) return launch_best<HopperShape<80, 1>, HopperShape<80, 2>, HopperShape<80, 3>>(p, stream);
  if (p.dk <= 128) return launch_best<HopperShape<128, 1>, HopperShape<128, 2>>(p, stream);
  return launch_best<HopperShape<MAX_HOPPER_HEAD, 1>>(p, stream);
}

}  // namespace sige::cuda
