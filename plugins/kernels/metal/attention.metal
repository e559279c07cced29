// Attention: 16 queries of one head share the keys, which pass by in tiles of 32 (Milakov and Gimelshein 2018, online
// softmax). 32 threads, a simdgroup where these are that wide, own four queries: they are keys for the scores and channels for
// the sums.
#include "parameters.h"
#include "rows.h"

constant constexpr int QUERIES = 16;          // of a threadgroup: some hundreds of rows still make tens of groups a head
constant constexpr int ATTENTION_THREADS = 128;
constant constexpr int OWN = QUERIES / (ATTENTION_THREADS / 32);  // queries of 32 threads
constant constexpr int KEYS = 32;             // a lane for each
constant constexpr int SEGMENT = 128;         // keys whose rows are looked up at once, a thread for each
constant constexpr int CHUNK = 32;            // channels of keys or values in threadgroup memory at once, a lane for each
constant constexpr int CHUNK_STRIDE = CHUNK + 4;  // halves: lanes that walk down a column start in different banks
constant constexpr int KEY_LINES = ATTENTION_THREADS / (CHUNK / 4);  // of a tile, that threads load at once
static_assert(KEY_LINES == QUERIES && SEGMENT == ATTENTION_THREADS, "a thread for each key, and vector of queries");
constant constexpr float LOWEST = -1e30f;     // not infinity, which fast math does not know

struct AttentionMemory {
  int rows[SEGMENT];               // of the segment's keys: fresh row, or -1
  float weights[QUERIES * KEYS];   // then the sums of one chunk
  half tile[KEYS * CHUNK_STRIDE];  // keys, then values
  // Behind it: QUERIES lines of dk, rounded up to chunks, plus 4 halves.
};
static_assert(KEYS == CHUNK, "the sums fit into the place of the weights");

// Maximum and sum of what the lanes of each 32 threads have, for each query that they own. `scratch` is theirs.
struct SimdReduction {
  static void maximum(thread float* x, threadgroup float* scratch, int lane) {
    for (int m = 0; m < OWN; ++m) x[m] = simd_max(x[m]);
  }

  static void sum(thread float* x, threadgroup float* scratch, int lane) {
    for (int m = 0; m < OWN; ++m) x[m] = simd_sum(x[m]);
  }
};

struct PlainReduction {
  static void share(thread float* x, threadgroup float* scratch, int lane) {
    threadgroup_barrier(mem_flags::mem_threadgroup);  // the scratch is free
    for (int m = 0; m < OWN; ++m) scratch[m * KEYS + lane] = x[m];
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }

  static void maximum(thread float* x, threadgroup float* scratch, int lane) {
    share(x, scratch, lane);
    for (int m = 0; m < OWN; ++m) {
      for (int i = 0; i < KEYS; ++i) x[m] = max(x[m], scratch[m * KEYS + i]);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }

  static void sum(thread float* x, threadgroup float* scratch, int lane) {
    share(x, scratch, lane);
    for (int m = 0; m < OWN; ++m) {
      x[m] = 0;
      for (int i = 0; i < KEYS; ++i) x[m] += scratch[m * KEYS + i];
    }
  }
};

// Channels [channel, channel + 4) of a head of `width`; zeros past its end.
template <typename In>
half4 load_head(In rows, PartParameters part, int b, int count, int row, int head, int width, int channel) {
  if (channel >= width) return half4(0);
  half4 x = load(rows, b, count, row, part.offset + head * width + channel, part.channels);
  for (int i = 1; i < 4; ++i) {
    if (channel + i >= width) x[i] = 0;
  }
  return x;
}

// COLUMNS * 32 channels of the values at most. group: of the queries, head, image. Rows that are not live become zeros.
template <int COLUMNS, typename Reduction, typename In, typename Out>
void attention(In q, In k, In v, Out out, device const half* k_base, device const half* v_base, device const int* active,
               device const int* live, constant AttentionParameters& p, threadgroup float* memory, uint3 group,
               int thread_index, int simd_group, int lane) {
  threadgroup AttentionMemory& shared = *(threadgroup AttentionMemory*)memory;
  threadgroup half* queries = (threadgroup half*)(&shared + 1);
  threadgroup float* weights = shared.weights + simd_group * OWN * KEYS;
  const int query_stride = (p.dk + CHUNK - 1) / CHUNK * CHUNK + 4;
  const int first_query = group.x * QUERIES, head = group.y, b = group.z;
  const int fresh = min(p.fresh, live[0]), pixels = first_query < fresh ? p.pixels : 0;
  const int line = thread_index / (CHUNK / 4), vector = thread_index % (CHUNK / 4);

  for (int d = 0; d < p.dk; d += CHUNK) {
    half4 x = half4(0);
    if (first_query + line < fresh) {
      x = load_head(q, p.q, b, p.fresh, first_query + line, head, p.dk, d + vector * 4);
    }
    *(threadgroup half4*)(queries + line * query_stride + d + vector * 4) = x;
  }
  float sums[OWN][COLUMNS], maximum[OWN], total[OWN];
  for (int m = 0; m < OWN; ++m) {
    maximum[m] = LOWEST;
    total[m] = 0;
    for (int c = 0; c < COLUMNS; ++c) sums[m][c] = 0;
  }

  for (int first = 0; first < pixels; first += KEYS) {
    if (first % SEGMENT == 0) {  // all threads are past the tiles of the segment before: barriers follow their loads
      shared.rows[thread_index] = p.overlaid ? row_of(active, fresh, first + thread_index) : -1;
    }
    threadgroup const int* rows = shared.rows + first % SEGMENT;
    const int valid = min(KEYS, pixels - first);

    float scores[OWN];
    for (int m = 0; m < OWN; ++m) scores[m] = 0;
    for (int d = 0; d < p.dk; d += CHUNK) {
      threadgroup_barrier(mem_flags::mem_threadgroup);  // the tile before is done; queries and rows are there
      for (int n = line; n < KEYS; n += KEY_LINES) {
        half4 x = half4(0);
        if (n < valid) {
          x = rows[n] < 0 ? load_head(k_base, p.k_base, b, p.pixels, first + n, head, p.dk, d + vector * 4)
                          : load_head(k, p.k, b, p.fresh, rows[n], head, p.dk, d + vector * 4);
        }
        *(threadgroup half4*)(shared.tile + n * CHUNK_STRIDE + vector * 4) = x;
      }
      threadgroup_barrier(mem_flags::mem_threadgroup);
      for (int c = 0; c < CHUNK; c += 4) {
        const float4 key = float4(*(threadgroup const half4*)(shared.tile + lane * CHUNK_STRIDE + c));
        for (int m = 0; m < OWN; ++m) {
          threadgroup const half* query = queries + (simd_group * OWN + m) * query_stride + d + c;
          scores[m] += dot(float4(*(threadgroup const half4*)query), key);
        }
      }
    }

    float tops[OWN];
    for (int m = 0; m < OWN; ++m) tops[m] = scores[m] = lane < valid ? scores[m] * p.scale : LOWEST;
    Reduction::maximum(tops, weights, lane);
    for (int m = 0; m < OWN; ++m) {
      const float top = max(maximum[m], tops[m]);
      const float shrink = exp(maximum[m] - top), weight = lane < valid ? exp(scores[m] - top) : 0.0f;
      maximum[m] = top;
      total[m] = total[m] * shrink + weight;
      for (int c = 0; c < COLUMNS; ++c) sums[m][c] *= shrink;
      weights[m * KEYS + lane] = weight;
    }

    for (int c = 0; c < COLUMNS; ++c) {
      if (c * CHUNK >= p.dv) break;
      threadgroup_barrier(mem_flags::mem_threadgroup);  // the tile before is done, the weights are there
      for (int n = line; n < KEYS; n += KEY_LINES) {
        half4 x = half4(0);
        if (n < valid) {
          x = rows[n] < 0 ? load_head(v_base, p.v_base, b, p.pixels, first + n, head, p.dv, c * CHUNK + vector * 4)
                          : load_head(v, p.v, b, p.fresh, rows[n], head, p.dv, c * CHUNK + vector * 4);
        }
        *(threadgroup half4*)(shared.tile + n * CHUNK_STRIDE + vector * 4) = x;
      }
      threadgroup_barrier(mem_flags::mem_threadgroup);
      for (int n = 0; n < KEYS; ++n) {
        const float value = shared.tile[n * CHUNK_STRIDE + lane];
        for (int m = 0; m < OWN; ++m) sums[m][c] += weights[m * KEYS + n] * value;
      }
    }
  }

  // A lane has one channel; whole vectors are put together in threadgroup memory.
  Reduction::sum(total, weights, lane);
  for (int c = 0; c < COLUMNS; ++c) {
    if (c * CHUNK >= p.dv) break;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (int m = 0; m < OWN; ++m) weights[m * KEYS + lane] = pixels ? sums[m][c] / total[m] : 0.0f;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    const int query = first_query + line, channel = c * CHUNK + vector * 4;
    if (query >= p.fresh || channel >= p.dv) continue;
    float4 y = float4(0);
    if (query < fresh) y = *(threadgroup float4*)(shared.weights + line * KEYS + vector * 4);
    store(out, b, p.fresh, query, head * p.dv + channel, (head + 1) * p.dv, p.heads * p.dv, half4(y));
  }
}

#define ATTENTION_IMAGES                                                                                 \
  ImageIn q [[texture(0)]], ImageIn k [[texture(1)]], ImageIn v [[texture(2)]], ImageOut out [[texture(3)]]

#define ATTENTION_BUFFERS                                                                                \
  device const half *q [[buffer(5)]], device const half *k [[buffer(6)]],                                \
      device const half *v [[buffer(7)]], device half *out [[buffer(8)]]

#define ATTENTION_ARGUMENTS                                                                              \
  device const half *k_base [[buffer(0)]], device const half *v_base [[buffer(1)]],                      \
      device const int *active [[buffer(2)]], device const int *live [[buffer(3)]],                      \
      constant AttentionParameters &p [[buffer(4)]], threadgroup float *memory [[threadgroup(0)]],       \
      uint3 group [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]],   \
      uint simd_group [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]

#define ATTENTION(COLUMNS, REDUCTION, SIMD_GROUP, LANE)                                                  \
  attention<COLUMNS, REDUCTION>(q, k, v, out, k_base, v_base, active, live, p, memory, group, thread_index, \
                                SIMD_GROUP, LANE)
#define ATTENTION_SIMD(COLUMNS) ATTENTION(COLUMNS, SimdReduction, simd_group, lane)
#define ATTENTION_PLAIN(COLUMNS) ATTENTION(COLUMNS, PlainReduction, thread_index / 32, thread_index % 32)

// Named by the widest values of a head that they take. Where heads share an image's texels, there must be one head.
// With reductions over simdgroups of 32 lanes, from GPU family Apple 7 on (A14, M1).
kernel void attention_64_images(ATTENTION_IMAGES, ATTENTION_ARGUMENTS) { ATTENTION_SIMD(2); }
kernel void attention_160_images(ATTENTION_IMAGES, ATTENTION_ARGUMENTS) { ATTENTION_SIMD(5); }
kernel void attention_512_images(ATTENTION_IMAGES, ATTENTION_ARGUMENTS) { ATTENTION_SIMD(16); }
kernel void attention_64_buffers(ATTENTION_BUFFERS, ATTENTION_ARGUMENTS) { ATTENTION_SIMD(2); }
kernel void attention_160_buffers(ATTENTION_BUFFERS, ATTENTION_ARGUMENTS) { ATTENTION_SIMD(5); }
kernel void attention_512_buffers(ATTENTION_BUFFERS, ATTENTION_ARGUMENTS) { ATTENTION_SIMD(16); }

// For all other GPUs.
kernel void attention_plain_64_images(ATTENTION_IMAGES, ATTENTION_ARGUMENTS) { ATTENTION_PLAIN(2); }
kernel void attention_plain_160_images(ATTENTION_IMAGES, ATTENTION_ARGUMENTS) { ATTENTION_PLAIN(5); }
kernel void attention_plain_512_images(ATTENTION_IMAGES, ATTENTION_ARGUMENTS) { ATTENTION_PLAIN(16); }
kernel void attention_plain_64_buffers(ATTENTION_BUFFERS, ATTENTION_ARGUMENTS) { ATTENTION_PLAIN(2); }
kernel void attention_plain_160_buffers(ATTENTION_BUFFERS, ATTENTION_ARGUMENTS) { ATTENTION_PLAIN(5); }
kernel void attention_plain_512_buffers(ATTENTION_BUFFERS, ATTENTION_ARGUMENTS) { ATTENTION_PLAIN(16); }
