// The product of a Conv in float16 as one kernel (Hopper): rows, gathered or as they lie, times the weight, and the
// epilogue.
//
// A block owns a tile of rows x outputs and a part of the depth; the blocks of a cluster share a tile and add up their
// parts through distributed shared memory. One thread has tiles of both matrices brought by the tensor memory
// accelerator, several stages ahead, and a warpgroup multiplies them. Another one sums up the moments of rows that are
// normalised, or applies affine and activation before tiles are multiplied. Launched with programmatic stream
// serialisation: while the kernel before still runs, the first tiles of the weight are read into shared memory.
#include "conv_product.h"

#include "conv_finish.cuh"
#include "conv_transform.cuh"
#include "tensor_map.h"
#include "wgmma.cuh"

namespace sige::cuda {

namespace {

constexpr int BOX_BYTES = DEPTH * BOX * 2;
constexpr int MOST_ROWS = 64;  // of a tile
constexpr int64_t MOST_AFFINE_BYTES = 64 << 10;  // of shared memory, beside the tiles

// ROWS x COLUMNS outputs, STAGES pairs of tiles in flight. One kernel serves rows as they are, normalised and transformed: a
// step runs many kernels in turn, and each comes without its instructions in the cache.
template <int ROWS_, int COLUMNS_, int STAGES_>
struct ProductShape {
  static constexpr int ROWS = ROWS_, COLUMNS = COLUMNS_, STAGES = STAGES_, GROUPS = 1;
  static constexpr int THREADS = 2 * WARPGROUP + 32;
  static constexpr int BOXES = COLUMNS / BOX;  // of a stage of the weight
  static constexpr int RIGHT_BYTES = BOXES * BOX_BYTES, LEFT_BYTES = ROWS * DEPTH * 2;
  static constexpr int GROUP_BYTES = STAGES * (RIGHT_BYTES + LEFT_BYTES);
  static constexpr int BARRIERS = (3 * STAGES + 2) / 2 * 2;  // with the inbox's, whole vectors
  static constexpr int SUM_STRIDE = COLUMNS + PAD;
  static constexpr int VECTORS = ROWS * COLUMNS / 8;
  static constexpr int FIXED_BYTES = GROUP_BYTES + BARRIERS * 8;
  static constexpr int RECEIVED_BYTES = (VECTORS + 2 * MAX_CLUSTER) * 32;  // sums from the other blocks of a cluster
  static constexpr int MOMENTS_BYTES = MAX_CLUSTER * ROWS * 8;
  static_assert(ROWS * SUM_STRIDE * 4 <= GROUP_BYTES && ROWS <= MOST_ROWS && GROUP_BYTES % 1024 == 0);

  __host__ __device__ static constexpr size_t shared(int64_t splits) {
    return FIXED_BYTES + (splits > 1 ? RECEIVED_BYTES + MOMENTS_BYTES : 0);
  }
};

// A thread's part in the moments of a tile's rows: COUNT vectors of one row, from `index` on.
template <int ROWS>
struct Part {
  static constexpr int LANES = WARPGROUP / ROWS, COUNT = DEPTH / 8 / LANES;
  const int row = (threadIdx.x - WARPGROUP) / LANES, index = threadIdx.x % LANES * COUNT;
};

template <typename S>
__global__ void __launch_bounds__(S::THREADS)
    product_kernel(const __grid_constant__ ConvParameters p, const __grid_constant__ CUtensorMap rows,
                   const __grid_constant__ CUtensorMap rows_2, const __grid_constant__ CUtensorMap weight) {
#ifdef SIGE_SM90A
  extern __shared__ __align__(1024) unsigned char shared[];
  const uint32_t right = shared_address(shared), left = right + S::STAGES * S::RIGHT_BYTES;
  const uint32_t full = right + S::GROUP_BYTES, empty = full + S::STAGES * 8;
  const bool norms = p.norm_epsilon > 0;
  const uint32_t ready = p.transforms ? empty + S::STAGES * 8 : full;  // to be multiplied
  const Inbox inbox(shared + S::GROUP_BYTES + 3 * S::STAGES * 8);
  Finish<S> finish(p);
  float* const sums = reinterpret_cast<float*>(shared);
  float* const received = reinterpret_cast<float*>(shared + S::FIXED_BYTES);
  float* const moments = received + S::RECEIVED_BYTES / 4;
  const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
  if (threadIdx.x == 0) {
#pragma unroll
    for (int i = 0; i < S::STAGES; ++i) {
      barrier_init(full + i * 8, 1);
      barrier_init(empty + i * 8, norms ? 2 * WARPGROUP_WARPS : WARPGROUP_WARPS);
      barrier_init(empty + (S::STAGES + i) * 8, 1);
    }
    barriers_publish();
    if (gridDim.z > 1) inbox.expect(finish.expected());
  }
  __syncthreads();
  if (gridDim.z > 1) cluster_arrive();
  release_successor();
  const int first = int64_t{p.chunks} * blockIdx.z / gridDim.z, last = int64_t{p.chunks} * (blockIdx.z + 1) / gridDim.z;
  const int soon = last - first < S::STAGES ? last : first + S::STAGES;  // where the first round of the stages ends
  const int32_t first_column = blockIdx.x * (p.gated ? S::COLUMNS / 2 : S::COLUMNS);
  const auto column_of = [&](int box) {
    const bool gates = p.gated && box >= S::BOXES / 2;  // their columns lie behind those that they gate
    return first_column + (gates ? p.outputs + (box - S::BOXES / 2) * BOX : box * BOX);
  };
  const auto load_right = [&](int chunk, int stage) {
    barrier_expect(full + stage * 8, S::RIGHT_BYTES + S::LEFT_BYTES);
#pragma unroll
    for (int i = 0; i < S::BOXES; ++i)
      load_box(weight, column_of(i), chunk * DEPTH, right + stage * S::RIGHT_BYTES + i * BOX_BYTES, full + stage * 8);
  };
  const int whole = (p.source.split + DEPTH - 1) / DEPTH;  // chunks of the first source
  const auto load_left = [&](int chunk, int stage) {
    load_box(chunk < whole ? rows : rows_2, (chunk < whole ? chunk : chunk - whole) * DEPTH, blockIdx.y * S::ROWS,
             left + stage * S::LEFT_BYTES, full + stage * 8);
  };
  const bool multiplies = warp < WARPGROUP_WARPS, loads = warp == 2 * WARPGROUP_WARPS;
  const bool transforms = p.transforms && !multiplies && !loads;
  Turn turn;

  // Loops are not unrolled: a kernel that runs for a few microseconds waits for its instructions.
  if (loads && elected()) {
    prefetch_map(rows);
    prefetch_map(rows_2);
#pragma unroll 1
    for (int i = first; i < soon; ++i) load_right(i, i - first);
    wait_for_predecessor();
#pragma unroll 1
    for (int i = first; i < soon; ++i) load_left(i, i - first);
  }
  if (warp == 1 && lane == 0 && blockIdx.y == 0) finish.prefetch_bias();  // blocks of other rows have the same
  if (!transforms) {
    __syncwarp();
    wait_for_predecessor();
    finish.prepare();
  }

  if (loads) {
    if (elected()) {
#pragma unroll 1
      for (int i = soon; i < last; ++i) {
        barrier_wait(empty + turn.stage * 8, turn.parity);
        load_right(i, turn.stage);
        load_left(i, turn.stage);
        turn.next(S::STAGES);
      }
    }
    __syncwarp();
    __syncthreads();
  } else if (multiplies) {
    float products[S::BOXES][S::ROWS / 2] = {};
    int before = 0;  // stage of the products before
#pragma unroll 1
    for (int i = first; i < last; ++i) {
      const uint64_t weights = tile_descriptor(right + turn.stage * S::RIGHT_BYTES);
      const uint64_t inputs = tile_descriptor(left + turn.stage * S::LEFT_BYTES);
      barrier_wait(ready + turn.stage * 8, turn.parity);
      products_begin();
#pragma unroll
      for (int k = 0; k < DEPTH / 16; ++k)
#pragma unroll
        for (int box = 0; box < S::BOXES; ++box)
          Product<S::ROWS>::add(products[box], advanced(weights, box * BOX_BYTES + k * 16 * 128), advanced(inputs, k * 32));
      products_commit();
      products_wait<1>();
      if (lane == 0 && i > first) barrier_arrive(empty + before * 8);
      before = turn.stage;
      turn.next(S::STAGES);
    }
    products_wait<0>();
    __syncthreads();
    const int column = warp * 16 + lane / 4, row = lane % 4 * 2;
#pragma unroll
    for (int box = 0; box < S::BOXES; ++box)
#pragma unroll
      for (int i = 0; i < S::ROWS / 2; ++i)
        sums[(row + i / 4 * 8 + i % 2) * S::SUM_STRIDE + box * BOX + column + i / 2 % 2 * 8] = products[box][i];
  } else if (transforms) {
    const Transform<S::ROWS> transform(p, reinterpret_cast<__half*>(shared + S::shared(gridDim.z)), last - first);
    wait_for_predecessor();
    transform.stage(first * DEPTH, threadIdx.x - WARPGROUP);
    finish.prepare();
#pragma unroll 1
    for (int i = first + warp - WARPGROUP_WARPS; i < last; i += WARPGROUP_WARPS) {
      const int stage = (i - first) % S::STAGES, round = (i - first) / S::STAGES;
      // The stage's tile before may be another warp's, and not there yet: its barrier would seem to have been passed.
      if (round > 0) barrier_wait(empty + stage * 8, (round - 1) % 2);
      barrier_wait(full + stage * 8, round % 2);
      transform.run(shared + (left - right) + stage * S::LEFT_BYTES, i - first, i * DEPTH);
      shared_publish();
      __syncwarp();
      if (lane == 0) barrier_arrive(ready + stage * 8);
    }
    __syncthreads();
  } else {
    const Part<S::ROWS> part;
    float2 sum{};
#pragma unroll 1
    for (int i = norms ? first : last; i < last; ++i) {
      barrier_wait(full + turn.stage * 8, turn.parity);
      const unsigned char* at = shared + (left - right) + turn.stage * S::LEFT_BYTES + part.row * 128;
#pragma unroll
      for (int j = 0; j < part.COUNT; ++j) {
        const Pack<__half2, 4> x = *reinterpret_cast<const Pack<__half2, 4>*>(at + ((part.index + j) ^ part.row % 8) * 16);
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          const float2 pair = __half22float2(x.at[n]);
          sum.x += pair.x + pair.y;
          sum.y = fmaf(pair.x, pair.x, fmaf(pair.y, pair.y, sum.y));
        }
      }
      shared_publish();  // an arrival alone does not wait for the loads, and the next tile would overtake them
      __syncwarp();
      if (lane == 0) barrier_arrive(empty + turn.stage * 8);
      turn.next(S::STAGES);
    }
    __syncthreads();
#pragma unroll
    for (int distance = part.LANES / 2; distance; distance /= 2) {
      sum.x += __shfl_xor_sync(0xffffffff, sum.x, distance);
      sum.y += __shfl_xor_sync(0xffffffff, sum.y, distance);
    }
    if (norms && part.index == 0) *reinterpret_cast<float2*>(sums + part.row * S::SUM_STRIDE + S::COLUMNS) = sum;
  }
  finish.run(shared, received, moments, inbox);
#endif
}

// A row-major matrix: boxes of box_rows x 64.
bool map_matrix(const void* data, int64_t rows, int64_t columns, int box_rows, CUtensorMap& map) {
  return map_array<2>(data, {columns, rows}, {columns}, {BOX, box_rows}, map);
}

// A tile's shape and the blocks that share it.
struct Choice {
  int64_t splits, time;
};

// The splits of least time, in nanoseconds: fitted to 36 products in all shapes and splits on an H200, and then to the steps of
// a UNet as a whole.
template <typename S>
Choice choose(int64_t rows, int64_t depth, int64_t outputs, bool gated, bool transformed) {
  constexpr int64_t CHUNK = 100, KILOBYTE = 6, VECTORS = 250, EXCHANGE = 400, EXCHANGE_SPLIT = 400;
  constexpr int64_t TRANSFORM = 300, TRANSFORM_ROW = 8;
  constexpr int64_t TWICE = 350;  // where two tiles read a weight and one could: the next kernel reads its own meanwhile
  const int64_t columns = gated ? S::COLUMNS / 2 : S::COLUMNS;
  const int64_t tiles = ((rows + S::ROWS - 1) / S::ROWS) * ((outputs + columns - 1) / columns);
  const int64_t chunks = (depth + DEPTH - 1) / DEPTH;
  Choice best{1, INT64_MAX};
  for (int64_t splits = 1; splits <= MAX_CLUSTER && splits <= chunks; ++splits) {
    const int64_t at_once =
        clusters_at_once<product_kernel<S>>(S::THREADS, static_cast<unsigned>(splits), S::shared(splits));
    if (splits > 1 && tiles > at_once) break;
    const int64_t each = (chunks + splits - 1) / splits, share = S::ROWS * columns / 8 / splits;
    const int64_t waves = at_once ? (tiles + at_once - 1) / at_once : tiles;
    const bool crowded = tiles * splits > PROCESSORS;  // two blocks on a processor
    const int64_t stage = CHUNK + (S::RIGHT_BYTES + S::LEFT_BYTES) / 1024 * KILOBYTE * (crowded ? 14 : 10) / 10;
    const int64_t transform = transformed ? TRANSFORM + each * S::ROWS * TRANSFORM_ROW : 0;
    const int64_t time = waves * (each * stage + transform) + (share + S::THREADS - 1) / S::THREADS * VECTORS +
                         (splits > 1 ? EXCHANGE + EXCHANGE_SPLIT * splits : 0) + (S::ROWS < rows && rows <= 32 ? TWICE : 0);
    if (time < best.time) best = {splits, time};
  }
  return best;
}

// Whether the kernel applies affine and activation; `left` is that of launch_product.
bool transforms_left(const sige_conv_args& a, const void* left) { return left == a.source.rows && transforms(a.source); }

template <typename S>
sige_status launch(const sige_conv_args& a, const void* left, int64_t splits, cudaStream_t stream) {
  const sige_source& s = a.source;
  const int64_t rows = int64_t{s.batch} * s.targets, depth = int64_t{s.taps} * s.channels;
  const int64_t columns = a.gated ? S::COLUMNS / 2 : S::COLUMNS;
  const int64_t tiles_m = (rows + S::ROWS - 1) / S::ROWS, tiles_n = (a.outputs + columns - 1) / columns;
  const int64_t chunks = (depth + DEPTH - 1) / DEPTH, each = (chunks + splits - 1) / splits;
  if (tiles_m > 65535) return SIGE_UNSUPPORTED;
  const bool two = left == s.rows && s.rows_2;
  const int64_t first = two ? depth - s.channels_2 : depth;
  CUtensorMap left_map, second_map, weight_map;
  if (!map_matrix(left, rows, first, S::ROWS, left_map) || !map_matrix(a.weight, depth, columns_of(a), DEPTH, weight_map) ||
      (two && !map_matrix(s.rows_2, rows, s.channels_2, S::ROWS, second_map)))
    return SIGE_ENGINE_FAILURE;
  if (!two) second_map = left_map;

  ConvParameters parameters = parameters_of(a, 0, chunks, transforms_left(a, left));
  parameters.source.split = static_cast<int32_t>(first);  // of the depth
  splits = (chunks + each - 1) / each;
  const size_t shared = S::shared(splits) + (parameters.transforms ? affine_bytes(s, S::ROWS, each) : 0);
  const Launch launch(static_cast<unsigned>(tiles_n), static_cast<unsigned>(tiles_m), static_cast<unsigned>(splits),
                      S::THREADS, shared, stream);
  return cudaLaunchKernelEx(&launch.config, product_kernel<S>, parameters, left_map, second_map, weight_map) == cudaSuccess
             ? SIGE_OK
             : failed();
}

// The fastest of several shapes.
template <typename... Shapes>
sige_status launch_best(const sige_conv_args& a, const void* left, cudaStream_t stream) {
  const int64_t rows = int64_t{a.source.batch} * a.source.targets, depth = int64_t{a.source.taps} * a.source.channels;
  const bool ready = ((cudaFuncSetAttribute(product_kernel<Shapes>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                            static_cast<int>(Shapes::shared(MAX_CLUSTER) + MOST_AFFINE_BYTES)) == cudaSuccess) && ...);
  if (!ready) return failed();
  const bool transformed = transforms_left(a, left);
  int64_t best = INT64_MAX;
  sige_status (*chosen)(const sige_conv_args&, const void*, int64_t, cudaStream_t) = nullptr;
  int64_t splits = 1;
  const auto consider = [&](const Choice& choice, auto function) {
    if (choice.time < best) best = choice.time, chosen = function, splits = choice.splits;
  };
  (consider(choose<Shapes>(rows, depth, a.outputs, a.gated, transformed), launch<Shapes>), ...);
  return chosen(a, left, splits, stream);
}

}  // namespace

bool has_conv_product(int capability) {
#ifdef SIGE_HAS_SM90A
  return capability == 90;
#else
  return capability < 0;
#endif
}

bool runs_as_product(const sige_conv_args& a) {
  const sige_source& s = a.source;
  return s.dtype == SIGE_FLOAT16 && a.group == 1 && int64_t{s.taps} * s.channels % 8 == 0 && a.outputs % 8 == 0;
}

bool product_reads_rows(const sige_conv_args& a) {
  const sige_source& s = a.source;
  const bool whole = !s.rows_2 || ((s.channels - s.channels_2) % DEPTH == 0 && s.channels_2 % 8 == 0);
  const int64_t chunks = (s.channels + DEPTH - 1) / DEPTH;
  const bool transformed = transform_knows(s.activation) && aligned(s.scale, 16) && aligned(s.shift, 16) &&
                           affine_bytes(s, MOST_ROWS, chunks) <= MOST_AFFINE_BYTES;
  return !s.table && whole && transformed && aligned(s.rows, 16) && aligned(s.rows_2, 16);
}

sige_status launch_product(const sige_conv_args& a, const void* left, cudaStream_t stream) {
  using Low = ProductShape<16, 128, 6>;
  using Middle = ProductShape<32, 128, 5>;
  using High = ProductShape<64, 128, 4>;
  if (a.gated) return launch_best<Low, Middle, High>(a, left, stream);
  return launch_best<ProductShape<16, 64, 10>, ProductShape<32, 64, 8>, ProductShape<64, 64, 6>, Low, Middle>(a, left, stream);
}

}  // namespace sige::cuda
