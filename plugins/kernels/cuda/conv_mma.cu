// Conv in float16 as one kernel (Hopper and later): an implicit GEMM whose left tile is gathered through the table.
//
// A block owns a tile of rows x outputs and a part of the depth; the blocks of a cluster share a tile and add up
// their parts through distributed shared memory. Tiles arrive by asynchronous copies, several stages ahead; affine and
// activation are applied to the gathered tile in shared memory, by the thread that copied it. Launched with
// programmatic stream serialisation: table and weights are read while the kernel before still runs.
#include "conv_mma.h"

#include "conv_finish.cuh"

namespace sige::cuda {

namespace {

constexpr int MAX_TAPS = 64;     // whose places are kept in shared memory
constexpr int FEW_ROWS = 16;
constexpr int64_t MAX_ROWS = 1 << 30;  // places are counted through all images

// Where a stage reads: the tap and its first channel, counted up.
struct Chunk {
  int tap, channel;

  __device__ Chunk(int index, int tap_chunks) : tap(index / tap_chunks), channel(index % tap_chunks * DEPTH) {}
  __device__ void next(int channels) {
    channel += DEPTH;
    if (channel >= channels) {
      channel = 0;
      ++tap;
    }
  }
};

template <typename S>
__global__ void __launch_bounds__(S::THREADS) conv_mma_kernel(const __grid_constant__ ConvParameters p) {
#ifdef SIGE_HOPPER
  extern __shared__ __align__(16) unsigned char shared[];
  const Inbox inbox(shared + S::GROUPS * S::GROUP_BYTES + S::RECEIVED_BYTES);
  Finish<S> finish(p);
  if (gridDim.z > 1) {
    if (threadIdx.x == 0) inbox.expect(finish.expected());
    cluster_arrive();
  }
  Group<S> group(p, shared);
  const int parts = gridDim.z * S::GROUPS, part = blockIdx.z * S::GROUPS + threadIdx.x / S::GROUP;
  const int first = int64_t{p.chunks} * part / parts, last = int64_t{p.chunks} * (part + 1) / parts;
  Chunk ahead(first, p.tap_chunks), now = ahead;
  {
    Chunk chunk = ahead;
#pragma unroll
    for (int stage = 0; stage < S::STAGES - 1; ++stage) {
      if (first + stage < last) group.load_right(stage, chunk.tap, chunk.channel);
      chunk.next(p.source.channels);
    }
  }
  resolve<S>(p, reinterpret_cast<int32_t*>(shared + S::FIXED_BYTES));
  release_successor();
  __syncthreads();
  wait_for_predecessor();
#pragma unroll
  for (int stage = 0; stage < S::STAGES - 1; ++stage) {
    if (first + stage < last) {
      group.load_left(stage, ahead.tap, ahead.channel);
    } else {
      group.skip_left();
    }
    copies_commit();
    ahead.next(p.source.channels);
  }
  if (p.transforms) group.load_affine(now.channel);
  finish.prepare();

  const bool norms = p.norm_epsilon > 0;
  float sums[S::M_TILES][S::N_TILES][4] = {};
  float2 moments[S::LEFT_VECTORS] = {};
  int stage = 0, stage_ahead = S::STAGES - 1;
  for (int i = first; i < last; ++i) {
    copies_wait<S::STAGES - 2>();
    if (p.transforms) {
      group.transform(stage);
      now.next(p.source.channels);
      if (i + 1 < last) group.load_affine(now.channel);
    }
    if (norms) group.add_moments(stage, moments);
    group.sync();  // the stage is complete, and the one before is free again
    if (i + S::STAGES - 1 < last) {
      group.load_right(stage_ahead, ahead.tap, ahead.channel);
      group.load_left(stage_ahead, ahead.tap, ahead.channel);
      ahead.next(p.source.channels);
    } else {
      group.skip_left();
    }
    copies_commit();
    group.multiply(stage, sums);
    stage = stage + 1 == S::STAGES ? 0 : stage + 1;
    stage_ahead = stage_ahead + 1 == S::STAGES ? 0 : stage_ahead + 1;
  }
  copies_wait<0>();
  if (last - first < (p.chunks + parts - 1) / parts) group.sync();  // as often as other groups: racecheck counts them
  group.sync();
  group.store_sums(sums);
  if (norms) group.store_moments(moments);
  finish.run(shared, reinterpret_cast<float*>(shared + S::GROUPS * S::GROUP_BYTES),
             reinterpret_cast<float*>(shared + S::FIXED_BYTES + sizeof(int32_t) * S::ROWS * p.taps.divisor), inbox);
#endif
}

template <typename S>
size_t shared_bytes(const sige_conv_args& a) {
  return S::FIXED_BYTES + sizeof(int32_t) * S::ROWS * a.source.taps + (a.norm_epsilon > 0 ? S::MOMENTS_BYTES : 0);
}

template <typename S>
sige_status launch(const sige_conv_args& a, cudaStream_t stream) {
  const sige_source& s = a.source;
  const int64_t columns = a.gated ? S::COLUMNS / 2 : S::COLUMNS;
  const int64_t tiles_m = (int64_t{s.batch} * s.targets + S::ROWS - 1) / S::ROWS;
  const int64_t tiles_n = (a.outputs + columns - 1) / columns;
  const int64_t tap_chunks = (s.channels + DEPTH - 1) / DEPTH, chunks = tap_chunks * s.taps;
  const int64_t tiles = tiles_m * tiles_n;
  if (tiles_m > 65535) return SIGE_UNSUPPORTED;
  const size_t shared = shared_bytes<S>(a);
  if (cudaFuncSetAttribute(conv_mma_kernel<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)))
    return failed();
  // As many parts as run at once, but no more than come to an end at the same time.
  int64_t splits = MAX_CLUSTER;
  const auto at_once = [&] {
    return clusters_at_once<conv_mma_kernel<S>>(S::THREADS, static_cast<unsigned>(splits), shared);
  };
  while (splits > 1 && tiles > at_once()) --splits;
  const int64_t each = (chunks + splits * S::GROUPS - 1) / (splits * S::GROUPS);
  splits = (chunks + each * S::GROUPS - 1) / (each * S::GROUPS);

  const ConvParameters parameters = parameters_of(a, tap_chunks, chunks, transforms(s));
  const Launch launch(static_cast<unsigned>(tiles_n), static_cast<unsigned>(tiles_m), static_cast<unsigned>(splits),
                      S::THREADS, shared, stream);
  return cudaLaunchKernelEx(&launch.config, conv_mma_kernel<S>, parameters) == cudaSuccess ? SIGE_OK : failed();
}

template <int VECTOR>
sige_status launch_shape(const sige_conv_args& a, cudaStream_t stream) {
  const int64_t rows = int64_t{a.source.batch} * a.source.targets;
  if (rows <= FEW_ROWS) return launch<ConvShape<16, 32, 1, 2, 4, 3, VECTOR>>(a, stream);
  return launch<ConvShape<32, 64, 2, 2, 4, 2, VECTOR>>(a, stream);
}

}  // namespace

bool runs_on_mma(const sige_conv_args& a) {
  const sige_source& s = a.source;
  const int64_t rows = int64_t{s.batch} * s.targets, read = int64_t{s.batch} * (s.pixels > s.fresh ? s.pixels : s.fresh);
  return s.dtype == SIGE_FLOAT16 && a.group == 1 && s.channels % 4 == 0 && a.outputs % 8 == 0 && s.taps <= MAX_TAPS &&
         (s.channels - s.channels_2) % DEPTH * s.channels_2 == 0 && aligned16(s) && rows <= MAX_ROWS && read <= MAX_ROWS;
}

int64_t mma_work(const sige_conv_args& a) {
  const sige_source& s = a.source;
  const int64_t rows = int64_t{s.batch} * s.targets, half_tiles = rows <= FEW_ROWS ? 1 : (rows + 31) / 32 * 2;
  return half_tiles * s.taps * ((s.channels + DEPTH - 1) / DEPTH) * ((columns_of(a) + 63) / 64);
}

sige_status launch_conv_mma(const sige_conv_args& a, cudaStream_t stream) {
  return a.source.channels % 8 ? launch_shape<4>(a, stream) : launch_shape<8>(a, stream);
}

}  // namespace sige::cuda
