// Level masks, active pixels, halos and tables. Every launch works on all levels or geometries at once: a block looks
// up in the plan which part of which it has, while the kernel before still runs.
#include "../indices.h"

#include "../edit.h"
#include "launch.cuh"
#include "mma.cuh"

namespace sige::cuda {
namespace {

using namespace indices;

constexpr int WARPS = THREADS / 32;
static_assert(PIXELS == THREADS && WORDS == THREADS && TILE_COLUMNS == 64 && TILE_ROWS % WARPS == 0);
static_assert(SIGE_MAX_LEVELS <= THREADS && SIGE_MAX_INPUTS <= THREADS);

struct Masks {
  const uint8_t* at[SIGE_MAX_INPUTS];
};

struct Rows {
  int32_t at[SIGE_MAX_LEVELS];
};

// First block of each geometry's entries, then of each level's active pixels.
struct Starts {
  int32_t at[SIGE_MAX_GEOMETRIES + SIGE_MAX_LEVELS + 1];
};

__device__ void set(uint32_t* bits, int32_t pixel) {
  const uint32_t bit = 1u << (pixel & 31);
  if (!(__ldcg(bits + (pixel >> 5)) & bit)) atomicOr(bits + (pixel >> 5), bit);
}

// Sum over the block, for all threads.
__device__ int32_t block_sum(int32_t value) {
  __shared__ int32_t sums[WARPS];
  for (int offset = 16; offset; offset >>= 1) value += __shfl_xor_sync(~0u, value, offset);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
  __syncthreads();
  value = 0;
  for (int i = 0; i < WARPS; ++i) value += sums[i];
  __syncthreads();
  return value;
}

// Sum over the threads before this one; `total` is that over all.
__device__ int32_t block_scan(int32_t value, int32_t& total) {
  __shared__ int32_t sums[WARPS];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int32_t up_to = value;
  for (int offset = 1; offset < 32; offset <<= 1) {
    const int32_t other = __shfl_up_sync(~0u, up_to, offset);
    if (lane >= offset) up_to += other;
  }
  if (lane == 31) sums[warp] = up_to;
  __syncthreads();
  int32_t before = 0;
  total = 0;
  for (int i = 0; i < WARPS; ++i) {
    before += i < warp ? sums[i] : 0;
    total += sums[i];
  }
  __syncthreads();
  return before + up_to - value;
}

// A level's pixels that a tile has a share in, and how many there are of the levels before.
struct Extent {
  int32_t y, x, columns, first;
};

// Samples' sums of a turn. The turns are read past L1: they change between kernels that run side by side.
template <typename T>
__device__ T* in_turn(const Plan& plan, T* sums, uint32_t turn) {
  return sums + turn * (plan.cleared_bytes / sizeof *sums);
}

// Adds a tile's share in the means of all levels that are resampled from its input; clears the counts.
__global__ void __launch_bounds__(THREADS)
    cover_kernel(const __grid_constant__ Plan plan, const __grid_constant__ Masks masks) {
  release_successor();
  const bool has_tile = blockIdx.x < plan.cover.count;  // or there is none at all
  const Block block = has_tile ? plan.block(plan.cover.first + blockIdx.x) : Block{};
  const sige_index_input size = plan.input(block.job);
  const uint8_t* const mask = masks.at[block.job];
  const int32_t across = (size.width + TILE_COLUMNS - 1) / TILE_COLUMNS;
  const int32_t top = block.part / across * TILE_ROWS, left = block.part % across * TILE_COLUMNS;
  const int32_t bottom = least(top + TILE_ROWS, size.height), right = least(left + TILE_COLUMNS, size.width);

  __shared__ Sample samples[SIGE_MAX_LEVELS];
  __shared__ uint64_t tiles[2][TILE_ROWS];
  __shared__ Extent extents[SIGE_MAX_LEVELS];
  __shared__ uint32_t largest[SIGE_MAX_LEVELS];
  bool reads_grown = false, reads_plain = false;
  int32_t targets = 0, all_targets;
  Extent extent{};
  if (threadIdx.x < plan.levels) {
    const Sample s = samples[threadIdx.x] = plan.sample(block.job, threadIdx.x);
    reads_grown = s.covered && s.grown;
    reads_plain = s.covered && !s.grown;
    largest[threadIdx.x] = 0;
    if (s.covered) {
      extent.y = first_target(top, s.source_y, s.target_y), extent.x = first_target(left, s.source_x, s.target_x);
      extent.columns = last_target(right, s.source_x, s.target_x) - extent.x + 1;
      targets = (last_target(bottom, s.source_y, s.target_y) - extent.y + 1) * extent.columns;
    }
  }
  extent.first = block_scan(targets, all_targets);
  if (threadIdx.x < plan.levels) extents[threadIdx.x] = extent;
  const bool any_grown = __syncthreads_or(reads_grown), any_plain = __syncthreads_or(reads_plain);
  wait_for_predecessor();
  const uint32_t turn = __ldcg(plan.turns);
  if (blockIdx.x == 0) {
    if (threadIdx.x < plan.levels) plan.counts[threadIdx.x] = 0;
    if (threadIdx.x == 0) plan.turns[1] = turn;
  }
  if (!has_tile) return;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  bool any = false;
  for (int grown = 0; grown < 2; ++grown) {
    if (!(grown ? any_grown : any_plain)) continue;
    for (int row = warp; row < TILE_ROWS; row += WARPS) {
      const int32_t y = top + row;
      uint32_t half[2];
      for (int i = 0; i < 2; ++i) {
        const int32_t x = left + 32 * i + lane;
        const bool inside = y < size.height && x < size.width;
        half[i] = __ballot_sync(~0u, inside && (grown ? is_edited(plan, block.job, mask, y, x)
                                                      : mask[y * size.width + x] != 0));
      }
      if (lane == 0) tiles[grown][row] = half[0] | uint64_t{half[1]} << 32;
      any |= (half[0] | half[1]) != 0;
    }
  }
  if (!__syncthreads_or(any)) return;

  for (int32_t i = threadIdx.x, l = 0; i < all_targets; i += THREADS) {
    while (l + 1 < plan.levels && extents[l + 1].first <= i) ++l;
    const Sample& s = samples[l];
    const Extent& e = extents[l];
    const int32_t v = e.y + (i - e.first) / e.columns, u = e.x + (i - e.first) % e.columns;
    const uint32_t share = share_of(s, tiles[s.grown], top, left, v, u);
    // Shares only add up, so the largest sum that anyone saw is the largest of the final ones.
    if (share) atomicMax(largest + l, atomicAdd(in_turn(plan, s.covered, turn) + v * s.width + u, share) + share);
  }
  __syncthreads();
  if (threadIdx.x < plan.levels && largest[threadIdx.x]) {
    atomicMax(in_turn(plan, samples[threadIdx.x].largest, turn), largest[threadIdx.x]);
  }
}

// Writes one bit per thread, and counts them where the mask is final. Blocks hold whole words.
__device__ void write_bits(const Plan& plan, int32_t level, uint32_t* bits, int32_t pixel, bool active, bool final) {
  const uint32_t word = __ballot_sync(~0u, active);
  if (threadIdx.x % 32 == 0 && pixel < plan.level(level).pixels) bits[pixel >> 5] = word;
  if (!final) return;
  const int count = __syncthreads_count(active);
  if (threadIdx.x == 0 && count) atomicAdd(plan.counts + level, count);
}

// Zeroes this block's part of `bytes`, a multiple of 16.
__device__ void clear(void* array, size_t bytes) {
  uint4* const vectors = static_cast<uint4*>(array);
  for (size_t i = blockIdx.x * THREADS + threadIdx.x; i < bytes / sizeof *vectors; i += gridDim.x * THREADS) {
    vectors[i] = make_uint4(0, 0, 0, 0);
  }
}

// Masks of the levels that follow no geometry. Clears what the next edit's tiles are added to, and this one's reads.
__global__ void __launch_bounds__(THREADS)
    decide_kernel(const __grid_constant__ Plan plan, const __grid_constant__ Masks masks, void* state) {
  release_successor();
  const Block block = plan.block(plan.decide.first + blockIdx.x);
  const Level level = plan.level(block.job);
  const Sample sample = threadIdx.x < plan.inputs ? plan.sample(threadIdx.x, block.job) : Sample{};
  wait_for_predecessor();
  const uint32_t turn = __ldcg(plan.turns + 1);
  __shared__ uint32_t fewest[SIGE_MAX_INPUTS];
  if (threadIdx.x < plan.inputs) {
    fewest[threadIdx.x] =
        sample.covered ? fewest_units(sample, *in_turn(plan, sample.largest, turn), plan.threshold) : 0;
  }
  __syncthreads();
  const int32_t pixel = block.part * PIXELS + threadIdx.x;
  bool active = false;
  if (pixel < level.pixels) {
    const int32_t y = pixel / level.width, x = pixel - y * level.width;
    for (int32_t i = 0; i < plan.inputs && !active; ++i) {
      const uint32_t* const covered = plan.sample(i, block.job).covered;
      active = is_sampled(plan, i, masks.at[i], block.job, covered ? in_turn(plan, covered, turn) : nullptr, fewest[i],
                          y, x);
    }
  }
  write_bits(plan, block.job, level.raw, pixel, active, level.granularity == 1);
  if (blockIdx.x == 0 && threadIdx.x == 0) plan.turns[0] = 1 - turn;
  clear(static_cast<char*>(state) + (1 - turn) * plan.cleared_bytes, plan.cleared_bytes);
  clear(plan.reads, plan.read_bytes);
}

__global__ void __launch_bounds__(THREADS) step_kernel(const __grid_constant__ Plan plan, int32_t first) {
  release_successor();
  const Block block = plan.block(first + blockIdx.x);
  const int32_t job = block.job / 2;
  const Level level = plan.level(job);
  wait_for_predecessor();
  const bool granulate = block.job % 2;
  const int32_t pixel = block.part * PIXELS + threadIdx.x;
  bool active = false;
  if (pixel < level.pixels) {
    const int32_t y = pixel / level.width, x = pixel - y * level.width;
    if (granulate) {
      active = granule_active(level, y, x);
    } else {
      const Geometry& g = plan.geometry(level.geometry);
      active = reads_active(g, plan.level(g.source).bits, y, x);
    }
  }
  write_bits(plan, job, granulate ? level.bits : level.raw, pixel, active, granulate || level.granularity == 1);
}

// Set bits in all words before a block's own. `bits` is aligned to 16 bytes, WORDS a multiple of 4.
__device__ int32_t bits_before(const uint32_t* bits, int32_t part) {
  int32_t count = 0;
  const uint4* const words = reinterpret_cast<const uint4*>(bits);
  for (int32_t i = threadIdx.x; i < part * (WORDS / 4); i += THREADS) {
    const uint4 w = words[i];
    count += __popc(w.x) + __popc(w.y) + __popc(w.z) + __popc(w.w);
  }
  return block_sum(count);
}

// Writes the pixels of a warp's words one word after the other, each by all lanes.
__device__ void list_words(uint32_t bits, int32_t rank, int32_t word, int32_t* pixels) {
  const int lane = threadIdx.x % 32;
  for (uint32_t left = __ballot_sync(~0u, bits != 0); left; left &= left - 1) {
    const int from = __ffs(left) - 1;
    const uint32_t b = __shfl_sync(~0u, bits, from);
    const int32_t r = __shfl_sync(~0u, rank, from), w = __shfl_sync(~0u, word, from);
    if (b >> lane & 1) pixels[r + __popc(b & ((1u << lane) - 1))] = w * 32 + lane;
  }
}

// A level's ranks and list of active pixels.
__device__ void rank_level(const Plan& plan, int32_t index, int32_t part) {
  const Level level = plan.level(index);
  wait_for_predecessor();
  const int32_t word = part * WORDS + threadIdx.x;
  const uint32_t bits = word < level.words ? level.bits[word] : 0;
  if (!__syncthreads_or(bits != 0)) return;
  const int32_t before = bits_before(level.bits, part);
  int32_t own;
  const int32_t rank = before + block_scan(__popc(bits), own);
  if (word < level.words) level.rank[word] = rank;
  list_words(bits, rank, word, level.listed);
}

// Marks the inactive source pixels that active target pixels read.
__device__ void mark_reads(const Plan& plan, int32_t index, int32_t part) {
  const Geometry g = plan.geometry(index);
  const Level source = plan.level(g.source), target = plan.level(g.target);
  wait_for_predecessor();
  const int32_t pixel = part * PIXELS + threadIdx.x;
  if (pixel >= target.pixels || !lit(target.bits, pixel)) return;
  each_read(g, pixel, [&](int32_t read) {
    if (!lit(source.bits, read)) set(g.read, read);
  });
}

__global__ void __launch_bounds__(THREADS) rank_kernel(const __grid_constant__ Plan plan) {
  release_successor();
  const Block block = plan.block(plan.rank.first + blockIdx.x);
  if (block.job < plan.levels) {
    rank_level(plan, block.job, block.part);
  } else {
    mark_reads(plan, block.job - plan.levels, block.part);
  }
}

// Ranks and lists of the halos; the last block of each clears what a longer one before it has left.
__global__ void __launch_bounds__(THREADS) halo_kernel(const __grid_constant__ Plan plan) {
  release_successor();
  const Block block = plan.block(plan.halo.first + blockIdx.x);
  const Geometry g = plan.geometry(block.job);
  const int32_t words = plan.level(g.source).words;
  wait_for_predecessor();
  const int32_t word = block.part * WORDS + threadIdx.x;
  const uint32_t bits = word < words ? g.read[word] : 0;
  const bool is_last = (block.part + 1) * WORDS >= words;
  if (!__syncthreads_or(bits != 0) && !is_last) return;
  const int32_t before = bits_before(g.read, block.part);
  int32_t own;
  const int32_t rank = before + block_scan(__popc(bits), own);
  if (word < words) g.rank[word] = rank;
  list_words(bits, rank, word, g.halo);
  if (!is_last) return;
  const int32_t length = before + own, former = *g.length;
  __syncthreads();
  for (int32_t q = length + threadIdx.x; q < former; q += THREADS) g.halo[q] = 0;
  if (threadIdx.x == 0) *g.length = length;
}

// The geometries' tables, and the levels' padded lists. It does not release its successor: a gather reads tables
// before it waits.
__global__ void __launch_bounds__(THREADS)
    table_kernel(const __grid_constant__ Plan plan, const __grid_constant__ Rows rows,
                 const __grid_constant__ Starts starts) {
  const int32_t block = blockIdx.x;
  int32_t index = 0;
  for (int32_t end = plan.geometries + plan.levels; end - index > 1;) {
    const int32_t middle = (index + end) / 2;
    (starts.at[middle] <= block ? index : end) = middle;
  }
  const int32_t entry = (block - starts.at[index]) * THREADS + threadIdx.x;
  if (index < plan.geometries) {
    const Geometry g = plan.geometry(index);
    const Level source = plan.level(g.source), target = plan.level(g.target);
    wait_for_predecessor();
    if (entry >= rows.at[g.target] * g.taps) return;
    write_entry(g, source, target, rows.at[g.source], plan.counts[g.target], entry);
  } else {
    const int32_t level = index - plan.geometries;
    const int32_t* const listed = plan.level(level).listed;
    int32_t* const active = plan.level(level).active;
    wait_for_predecessor();
    if (entry < rows.at[level]) active[entry] = listed[least(entry, plan.counts[level] - 1)];
  }
}

}  // namespace

sige_status begin(const sige_indices& indices, const uint8_t* const* masks, const sige_execution& execution) {
  const Plan& plan = *static_cast<const Plan*>(indices.plan);
  const Plan copy = plan.in(indices.plan_copy);
  const cudaStream_t stream = stream_of(execution);
  Masks all{};
  for (int32_t i = 0; i < plan.inputs; ++i) all.at[i] = masks[i];
  sige_status status = launch_overlapping<cover_kernel>(most(plan.cover.count, 1), stream, copy, all);
  if (!status) status = launch_overlapping<decide_kernel>(plan.decide.count, stream, copy, all, indices.state);
  for (int32_t i = 0; i < plan.steps && !status; ++i) {
    const Span step = plan.step(i);
    status = launch_overlapping<step_kernel>(step.count, stream, copy, step.first);
  }
  return status;
}

sige_status list(const sige_indices& indices, const sige_execution& execution) {
  const Plan& plan = *static_cast<const Plan*>(indices.plan);
  const Plan copy = plan.in(indices.plan_copy);
  const cudaStream_t stream = stream_of(execution);
  const sige_status status = launch_overlapping<rank_kernel>(plan.rank.count, stream, copy);
  return status || !plan.halo.count ? status : launch_overlapping<halo_kernel>(plan.halo.count, stream, copy);
}

sige_status finish(const sige_indices& indices, const int32_t* rows, const sige_execution& execution) {
  const Plan& plan = *static_cast<const Plan*>(indices.plan);
  Rows padded{};
  Starts starts{};
  const auto add = [&](int32_t at, int64_t entries) {
    starts.at[at + 1] = starts.at[at] + static_cast<int32_t>((entries + THREADS - 1) / THREADS);
  };
  for (int32_t i = 0; i < plan.geometries; ++i) {
    const Geometry& g = plan.geometry(i);
    add(i, g.table || g.weights ? int64_t{rows[g.target]} * g.taps : 0);
  }
  for (int32_t l = 0; l < plan.levels; ++l) {
    padded.at[l] = rows[l];
    add(plan.geometries + l, rows[l]);
  }
  const int32_t blocks = starts.at[plan.geometries + plan.levels];
  if (!blocks) return SIGE_OK;
  return launch_overlapping<table_kernel>(blocks, stream_of(execution), plan.in(indices.plan_copy), padded, starts);
}

sige_status compare(const sige_compare_args*, int32_t, int32_t*, const sige_execution&);
sige_status take_rows(const sige_move_args*, int32_t, const sige_execution&);
sige_status put_rows(const sige_move_args*, int32_t, const sige_execution&);
sige_status copy(const sige_copy_args*, int32_t, const sige_execution&);

}  // namespace sige::cuda

namespace sige {

const EditBackend cuda_edit_backend{cuda::compare, cuda::take_rows, cuda::put_rows, cuda::copy,
                                    cuda::begin,   cuda::list,      cuda::finish};

}  // namespace sige
