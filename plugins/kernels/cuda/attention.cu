// Attention: row queries against base keys and values overlaid with fresh ones; scores never reach device memory.
// Here is the choice of kernel, and of the number of blocks that share the keys.
#include "attention.cuh"

namespace sige::cuda {

namespace {

enum class Kernel { MMA, WIDE, PLAIN };

constexpr int FEW_QUERIES = 16;
constexpr int FEW_KEYS = 512;
constexpr int MOST_BLOCKS = 512;        // beyond which keys are not split
constexpr int MAX_GRID = 65535;

// Estimates in nanoseconds. Through distributed shared memory an exchange costs two barriers of the cluster and a
// read; through device memory it costs a write, a read and the launch of a second kernel.
constexpr int64_t CLUSTER_EXCHANGE = 400;
constexpr int64_t PARTIAL_EXCHANGE = 3000;

// A kernel's shape for one call.
struct Choice {
  Kernel kernel;
  int32_t query_tile, key_tile;
  int32_t slices;  // blocks that share the channels of a head's values
  int32_t blocks;  // that a processor holds at once
  int64_t tile_time;
};

int64_t blocks_for(int64_t size, int64_t tile) { return (size + tile - 1) / tile; }

bool describe(Machine& machine) {
  int device, processors, shared, major, minor;
  cudaFuncAttributes compiled;
  if (cudaGetDevice(&device) || cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device) ||
      cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) ||
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) ||
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) ||
      attention_code(&compiled))
    return false;
  // The code's architecture, not the device's: older code may have been compiled for a newer device by the driver.
  machine = {processors, static_cast<size_t>(shared), compiled.ptxVersion >= 90 && processors >= 2 * MAX_CLUSTER,
             major * 10 + minor};
  return true;
}

// Wide heads share their queries among the warps of a block. So do few queries: where the other kernel would leave
// three warps of four idle, each warp has a quarter of the work. With many keys that no longer pays, because each
// tile costs three barriers instead of one.
bool choose(const sige_attention_args& a, const Machine& machine, Choice& choice) {
  const int32_t widest = a.dk > a.dv ? a.dk : a.dv, bytes = static_cast<int32_t>(element_size(a.dtype));
  // Latency of a tile, and its way from the L2 cache at about 100 bytes a nanosecond.
  const auto time = [&](int64_t keys, int64_t channels) { return 250 + keys * channels * bytes / 100; };
  if (a.dtype == SIGE_FLOAT16) {
    const bool few = a.fresh <= FEW_QUERIES && a.pixels <= FEW_KEYS;
    const int32_t queries = few || widest > MAX_MMA_HEAD ? wide_queries(machine, a.fresh, a.dk) : 0;
    if (queries) {
      const auto slices = static_cast<int32_t>(blocks_for(a.dv, WIDE_SLICE));
      choice = {Kernel::WIDE, queries, WIDE_KEYS, slices, 2, time(WIDE_KEYS, a.dk + a.dv / slices)};
      return int64_t{a.batch} * a.heads * slices <= MAX_GRID;
    }
    if (widest <= MAX_MMA_HEAD) {
      const MmaShape shape = mma_shape(a.fresh, widest);
      choice = {Kernel::MMA, shape.queries, shape.keys, 1, shape.blocks, time(shape.keys, a.dk + a.dv)};
      return int64_t{a.batch} * a.heads <= MAX_GRID;
    }
  }
  choice = {Kernel::PLAIN, PLAIN_QUERIES, PLAIN_KEYS, 1, 2, 500 + 10 * (int64_t{a.dk} + a.dv)};
  return widest <= MAX_PLAIN_HEAD && int64_t{a.batch} * a.heads <= MAX_GRID;
}

// The number of splits with the least predicted time: tiles one after the other, waves of blocks, exchange.
int32_t splits_of(const sige_attention_args& a, const Choice& choice, const Machine& machine, bool cluster) {
  const int64_t blocks = int64_t{a.batch} * a.heads * choice.slices * blocks_for(a.fresh, choice.query_tile);
  const int64_t tiles = blocks_for(a.pixels, choice.key_tile), resident = int64_t{choice.blocks} * machine.processors;
  const int64_t most = cluster ? MAX_CLUSTER : MAX_SPLITS;
  const int64_t exchange = cluster ? CLUSTER_EXCHANGE : PARTIAL_EXCHANGE;
  int32_t best = 1;
  int64_t least = tiles * blocks_for(blocks, resident) * choice.tile_time;
  for (int32_t splits = 2; splits <= most && splits <= tiles && blocks * splits <= MOST_BLOCKS; ++splits) {
    const int64_t waves = blocks_for(blocks * splits, resident);
    const int64_t time = blocks_for(tiles, splits) * waves * choice.tile_time + exchange;
    if (time < least) {
      least = time;
      best = splits;
    }
  }
  return best;
}

bool overlays(const sige_attention_args& a) {
  return a.dtype == SIGE_FLOAT16 && a.dk <= MAX_HOPPER_HEAD && pays_to_overlay(a);
}

// Where partial sums and their states lie: room for any kernel and machine, since neither is known here.
struct Workspace {
  size_t sums, states;

  explicit Workspace(const sige_attention_args& a) {
    const int64_t rows = int64_t{a.batch} * a.heads * a.fresh * MAX_SPLITS;
    const int64_t most_sums = int64_t{MOST_BLOCKS} * (a.dv <= MAX_MMA_HEAD ? MMA_WARPS * 16 * a.dv
                              : a.dv <= 256 ? 32 * WIDE_SLICE : PLAIN_QUERIES * a.dv);
    const int64_t most_rows = int64_t{MOST_BLOCKS} * MMA_WARPS * 16;
    sums = align((rows * a.dv < most_sums ? rows * a.dv : most_sums) * sizeof(float));
    states = align((rows < most_rows ? rows : most_rows) * sizeof(float2));
  }
};

}  // namespace

size_t attention_workspace(const sige_attention_args& a) {
  const Workspace workspace(a);
  const size_t partial = workspace.sums + workspace.states, overlay = overlays(a) ? overlay_bytes(a) : 0;
  return partial > overlay ? partial : overlay;
}

sige_status attention(const sige_attention_args& a, const sige_execution& execution) {
  constexpr float LOG2E = 1.44269504f;
  Machine machine;
  if (!describe(machine)) return failed();
  const int32_t q_stride = row_stride(a.q_stride, a.heads, a.dk), k_stride = row_stride(a.k_stride, a.heads, a.dk);
  const int32_t v_stride = row_stride(a.v_stride, a.heads, a.dv);
  const int32_t k_base_stride = row_stride(a.k_base_stride, a.heads, a.dk);
  const int32_t v_base_stride = row_stride(a.v_base_stride, a.heads, a.dv);
  const auto vectors = [](const void* array, int32_t stride) { return !array || (aligned(array, 16) && stride % 8 == 0); };
  AttentionParameters p{
      a.q,
      a.k,
      a.v,
      a.k_base,
      a.v_base,
      a.active,
      a.out,
      nullptr,
      nullptr,
      a.batch,
      a.fresh,
      a.pixels,
      a.heads,
      a.dk,
      a.dv,
      1,
      1,
      1,
      1,
      1,
      q_stride,
      k_stride,
      v_stride,
      k_base_stride,
      v_base_stride,
      a.dk % 8 == 0 && vectors(a.q, q_stride) && vectors(a.k, k_stride) && vectors(a.k_base, k_base_stride),
      a.dv % 8 == 0 && vectors(a.v, v_stride) && vectors(a.v_base, v_base_stride),
      a.dv % 4 == 0 && aligned(a.out, 8),
      LOG2E * (a.scale != 0 ? a.scale : 1.0f / sqrtf(static_cast<float>(a.dk)))};

  const cudaStream_t stream = stream_of(execution);
  if (a.dtype == SIGE_FLOAT16 && machine.clusters && runs_on_hopper(p, machine)) {
    if (overlays(a))
      if (const sige_status status = launch_attention_overlay(p, execution.workspace, stream)) return status;
    return launch_attention_hopper(p, stream);
  }

  Choice choice;
  if (!choose(a, machine, choice)) return SIGE_UNSUPPORTED;
  const bool cluster = machine.clusters && choice.kernel != Kernel::PLAIN;
  p.splits = splits_of(a, choice, machine, cluster);
  p.slices = choice.slices;
  p.slice = static_cast<int32_t>(blocks_for(blocks_for(a.dv, choice.slices), 16) * 16);
  const bool partial = p.splits > 1 && !cluster;
  if (partial) {
    char* const workspace = static_cast<char*>(execution.workspace);
    p.partial = reinterpret_cast<float*>(workspace);
    p.partial_state = reinterpret_cast<float2*>(workspace + Workspace(a).sums);
  }
  const sige_status status = choice.kernel == Kernel::MMA    ? launch_attention_mma(p, machine, stream)
                             : choice.kernel == Kernel::WIDE ? launch_attention_wide(p, machine, stream)
                                                             : launch_attention_plain(p, a.dtype, stream);
  return status || !partial ? status : launch_attention_combine(p, a.dtype, stream);
}

}  // namespace sige::cuda
