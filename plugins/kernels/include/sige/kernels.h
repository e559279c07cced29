/* The kernels of the op set in docs/ops.md, behind one C API for every backend.
 *
 * Every call takes plain structs, a workspace and, on a GPU, a stream; it allocates nothing, keeps nothing and never
 * synchronises, so it may run inside a CUDA graph capture. Arrays are dense and row-major with the shapes of
 * docs/ops.md: pointers to host memory on SIGE_CPU, to device memory on SIGE_CUDA. Outputs must not overlap inputs.
 * Shapes are checked here, once for all backends; index values are trusted.
 */
#ifndef SIGE_KERNELS_H
#define SIGE_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#define SIGE_API_VERSION 7
#define SIGE_WORKSPACE_ALIGNMENT 256

#if defined(_WIN32) && defined(SIGE_BUILDING)
#define SIGE_API __declspec(dllexport)
#elif defined(_WIN32)
#define SIGE_API __declspec(dllimport)
#else
#define SIGE_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum sige_status {
  SIGE_OK = 0,
  SIGE_INVALID_ARGUMENT = 1,
  SIGE_UNSUPPORTED = 2,
  SIGE_NO_BACKEND = 3,
  SIGE_WORKSPACE_TOO_SMALL = 4,
  SIGE_NOT_PREPARED = 5,
  SIGE_ENGINE_FAILURE = 6,
  SIGE_NO_CUBLAS = 7,
} sige_status;

typedef enum sige_backend { SIGE_CPU = 0, SIGE_CUDA = 1 } sige_backend;

typedef enum sige_dtype { SIGE_FLOAT32 = 0, SIGE_FLOAT16 = 1 } sige_dtype;

typedef enum sige_activation {
  SIGE_IDENTITY = 0,
  SIGE_RELU = 1,
  SIGE_LEAKY_RELU = 2,
  SIGE_SILU = 3,
  SIGE_GELU = 4,
  SIGE_GELU_TANH = 5,
  SIGE_SIGMOID = 6,
  SIGE_TANH = 7,
} sige_activation;

/* Runs body(argument, i) for every i in [0, count), in any order and on any threads, and returns when all are done. */
typedef void (*sige_parallel_for)(void* context, int64_t count, void (*body)(void* argument, int64_t index),
                                  void* argument);

/* Matrix-product plans of the CUDA backend, see sige_plans_create. */
typedef struct sige_plans sige_plans;

/* Where a call runs. `workspace` is at least as large as the op's workspace size, aligned to
 * SIGE_WORKSPACE_ALIGNMENT, of the backend's memory, and free to be overwritten until the call (on a GPU: the
 * stream's work) is done. */
typedef struct sige_execution {
  int32_t backend; /* sige_backend */
  void* workspace;
  size_t workspace_bytes;
  sige_parallel_for parallel_for; /* CPU: NULL runs on the calling thread */
  void* parallel_context;         /* CPU: first argument of parallel_for */
  void* stream;                   /* CUDA: a cudaStream_t */
  sige_plans* plans;              /* CUDA: needed by sige_conv unless depthwise */
} sige_execution;

/* What Gather and Conv read, and how (docs/ops.md, "Order of operations"). Without a table every target reads its own
 * row: taps is 1, targets is fresh, and base and halo may be NULL (pixels and halo_count 0). */
typedef struct sige_source {
  const void* rows;      /* [batch, fresh, channels] */
  const void* base;      /* [batch, pixels, channels] */
  const int32_t* halo;   /* [halo_count] */
  const int32_t* table;  /* [targets, taps] or NULL */
  const void* scale;     /* [scale_batch, channels] or NULL */
  const void* shift;     /* [shift_batch, channels] or NULL */
  int32_t dtype;         /* sige_dtype of every array that is not int32 */
  int32_t batch;
  int32_t fresh;         /* P */
  int32_t pixels;        /* N */
  int32_t halo_count;    /* Q */
  int32_t targets;       /* R */
  int32_t taps;          /* K */
  int32_t channels;      /* C */
  int32_t scale_batch;   /* 1 or batch */
  int32_t shift_batch;   /* 1 or batch */
  int32_t activation;    /* sige_activation, after the affine */
  float alpha;           /* slope of SIGE_LEAKY_RELU */
  const void* rows_2;    /* [batch, fresh, channels_2] or NULL: the last channels_2 of the channels come from here, */
  const void* base_2;    /* [batch, pixels, channels_2]: rows and base then have channels - channels_2 */
  int32_t channels_2;    /* 0 without rows_2 */
} sige_source;

typedef struct sige_gather_args {
  sige_source source;
  int32_t phases;  /* divides channels */
  float pad_value;
  void* out;       /* [batch, targets, taps * channels / phases] */
} sige_gather_args;

typedef struct sige_conv_args {
  sige_source source;
  const void* weight;      /* [taps, channels / group, outputs], gated [.., .., 2 * outputs], or what sige_conv_pack
                              made of it; CUDA, not depthwise: weight to residual and out are aligned to 16 bytes */
  const void* bias;        /* [outputs], gated [2 * outputs], or NULL */
  const void* embedding;   /* [embedding_batch, outputs] or NULL */
  const void* multiplier;  /* [batch, targets, outputs] or NULL: times the sum of product, bias and embedding */
  const void* residual;    /* [batch, targets, outputs] or NULL: added after the multiplier */
  int32_t outputs;         /* Cout */
  int32_t group;           /* divides channels and outputs */
  int32_t embedding_batch; /* 1 or batch */
  int32_t activation;      /* sige_activation of the result */
  float alpha;
  float norm_epsilon;      /* above 0: products are divided by the deviation of their row, sqrt(variance over the channels
                              of rows + norm_epsilon); no table, affine or activation of the source, group 1 */
  int32_t gated;           /* 1: what product and bias give has 2 * outputs columns, and the last `outputs` of them, after
                              `gate`, multiply the first; no embedding, group 1 */
  int32_t gate;            /* sige_activation, not SIGE_LEAKY_RELU */
  int32_t allow_tf32;      /* CUDA, float32: products of 10-bit mantissas; misses the tolerance of docs/ops.md */
  void* out;               /* [batch, targets, outputs] */
} sige_conv_args;

typedef struct sige_scatter_args {
  const void* base;      /* [batch, pixels, channels] */
  const void* rows;      /* [batch, fresh, channels] */
  const int32_t* active; /* [fresh] */
  int32_t dtype;
  int32_t batch;
  int32_t pixels;
  int32_t fresh;
  int32_t channels;
  void* out; /* [batch, pixels, channels]; `base` itself writes in place */
} sige_scatter_args;

typedef struct sige_attention_args {
  const void* q;         /* [batch, fresh, heads * dk] */
  const void* k;         /* [batch, fresh, heads * dk], or NULL with v and active: no key is fresh */
  const void* v;         /* [batch, fresh, heads * dv] */
  const void* k_base;    /* [batch, pixels, heads * dk] */
  const void* v_base;    /* [batch, pixels, heads * dv] */
  const int32_t* active; /* [fresh], ascending */
  int32_t dtype;
  int32_t batch;
  int32_t fresh;
  int32_t pixels;
  int32_t heads;
  int32_t dk;
  int32_t dv;
  /* Elements from row to row where an array is part of a wider one; 0: they lie one behind the other. */
  int32_t q_stride, k_stride, v_stride, k_base_stride, v_base_stride;
  float scale; /* 0 means 1 / sqrt(dk) */
  void* out;   /* [batch, fresh, heads * dv] */
} sige_attention_args;

/* SIGE_API_VERSION of the library; a caller built against another one must not go on. */
SIGE_API int32_t sige_version(void);

/* One sentence for a status, without a line break; never NULL. */
SIGE_API const char* sige_status_string(int32_t status);

/* SIGE_OK if this library has the backend, else SIGE_NO_BACKEND. Says nothing about the machine's devices. */
SIGE_API sige_status sige_has_backend(int32_t backend);

/* The ops. CPU: float32, and Scatter in float16 also. CUDA: float32 and float16. Anything else is SIGE_UNSUPPORTED.
 * On a GPU a sige_conv or sige_attention may start while the one before it on the stream still runs. Then a sige_conv reads
 * its base, halo, table, weight and bias, and a sige_attention its `active` and, with that, its k_base and v_base: none of
 * these may be what a sige_conv or sige_attention writes. */
SIGE_API sige_status sige_gather(const sige_gather_args* args, const sige_execution* execution);
SIGE_API sige_status sige_conv(const sige_conv_args* args, const sige_execution* execution);
SIGE_API sige_status sige_scatter(const sige_scatter_args* args, const sige_execution* execution);
SIGE_API sige_status sige_attention(const sige_attention_args* args, const sige_execution* execution);

/* Bytes of workspace that an op needs; of `args` only the sizes and which pointers are NULL are read. The sizes are
 * monotonic in fresh, halo_count and targets: sized for the largest edit, a workspace serves all. */
SIGE_API sige_status sige_gather_workspace_size(const sige_gather_args* args, int32_t backend, size_t* bytes);
SIGE_API sige_status sige_conv_workspace_size(const sige_conv_args* args, int32_t backend, size_t* bytes);
SIGE_API sige_status sige_attention_workspace_size(const sige_attention_args* args, int32_t backend, size_t* bytes);

/* Weights in the order in which the backend reads them. 0 bytes: sige_conv takes the weight as it is. Otherwise
 * sige_conv_pack turns args->weight into `packed` (that many bytes), which then is args->weight of sige_conv. Only the
 * weight's own sizes (taps, channels, outputs, group, gated) and the dtype matter, so one pack serves every edit. */
SIGE_API sige_status sige_conv_packed_size(const sige_conv_args* args, int32_t backend, size_t* bytes);
SIGE_API sige_status sige_conv_pack(const sige_conv_args* args, int32_t backend, void* packed);

/* CUDA: a cache of matrix-product plans for the current device. Created and filled outside of a capture (both may
 * allocate and synchronise); not to be filled while another thread reads or fills it. sige_conv returns
 * SIGE_NOT_PREPARED for sizes that were not prepared. `args` as for a workspace size. With `candidates` = 1 the first
 * choice of cuBLASLt's heuristic is taken; with more, up to that many are timed on the device and the fastest is kept. */
SIGE_API sige_status sige_plans_create(sige_plans** plans);
SIGE_API sige_status sige_plans_prepare(sige_plans* plans, const sige_conv_args* args, int32_t candidates);
SIGE_API void sige_plans_destroy(sige_plans* plans);

/* CUDA: whether sige_conv runs these arguments as one kernel without a workspace on the plans' device: 1 or 0. */
SIGE_API int32_t sige_plans_one_kernel(const sige_plans* plans, const sige_conv_args* args);

/* Ops of a captured run that may go on beside those in front of them: a second stream. An op that reads inputs of the run
 * alone, and whose result nothing else overwrites in it, asks `sige_branch_fork` for the stream to launch on and then says `sige_branch_add(stream, result)`; every op calls
 * `sige_branch_join` with what it reads before its launch. The first fork of a capture branches off behind all that is on
 * `stream` by then, and every result must be read by an op of the same capture. Outside a capture `beside` is `stream`. Not
 * to be called from two threads at once. */
typedef struct sige_branch sige_branch;
SIGE_API sige_status sige_branch_create(sige_branch** branch);
SIGE_API sige_status sige_branch_fork(sige_branch* branch, void* stream, void** beside);
SIGE_API sige_status sige_branch_add(sige_branch* branch, void* stream, const void* result);
SIGE_API sige_status sige_branch_join(sige_branch* branch, void* stream, const void* const* read, int32_t count);
SIGE_API void sige_branch_destroy(sige_branch* branch);

/* A parallel_for of one std::thread each for *(const int32_t*)context threads, started anew by every call. Off unless
 * passed; an engine passes its own thread pool instead. */
SIGE_API void sige_parallel_threads(void* context, int64_t count, void (*body)(void* argument, int64_t index),
                                    void* argument);

#ifdef __cplusplus
}
#endif

#endif
