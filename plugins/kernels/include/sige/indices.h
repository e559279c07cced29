/* What an edit does beside its graph: compares inputs with the recorded ones, turns edited pixels into index feeds, and
 * moves rows out of dense arrays and into them. Definitions: docs/masks.md.
 *
 * The rules of kernels.h hold: nothing is allocated, kept or waited for, so every call may be captured into a CUDA
 * graph; arrays are of the backend's memory unless "host" is said; sizes are checked, index values are trusted.
 */
#ifndef SIGE_INDICES_H
#define SIGE_INDICES_H

#include "sige/kernels.h"

#define SIGE_MAX_LEVELS 128
#define SIGE_MAX_GEOMETRIES 512
#define SIGE_MAX_INPUTS 16 /* spatial ones */
#define SIGE_MAX_SIDE 32768 /* pixels of a level or input along an axis */

#ifdef __cplusplus
extern "C" {
#endif

/* Whether the CUDA backend can run on a device: SIGE_OK, SIGE_NO_BACKEND without one in the library, else
 * SIGE_ENGINE_FAILURE: no driver, no such device, or an architecture that the library was not built for. Unless it is
 * SIGE_OK, `sentence` (host, `bytes` long) gets one sentence that says which. Not to be called in a capture. */
SIGE_API sige_status sige_check_device(int32_t device, char* sentence, size_t bytes);

/* Elements of an input. Bool is SIGE_UINT8. */
typedef enum sige_element {
  SIGE_ELEMENT_FLOAT16 = 0,
  SIGE_ELEMENT_FLOAT32 = 1,
  SIGE_ELEMENT_FLOAT64 = 2,
  SIGE_ELEMENT_INT8 = 3,
  SIGE_ELEMENT_INT16 = 4,
  SIGE_ELEMENT_INT32 = 5,
  SIGE_ELEMENT_INT64 = 6,
  SIGE_ELEMENT_UINT8 = 7,
  SIGE_ELEMENT_UINT16 = 8,
  SIGE_ELEMENT_UINT32 = 9,
  SIGE_ELEMENT_UINT64 = 10,
} sige_element;

/* An input [n, c, y, x] of an edit beside the recorded one of the same layout. */
typedef struct sige_compare_args {
  const void* given;
  const void* recorded; /* NULL: only looks for NaN and infinity; then no mask */
  uint8_t* mask;        /* [y, x]: 1 where |given - recorded| > eps anywhere along n and c, else 0; or NULL */
  int32_t element;      /* sige_element */
  int32_t size[4];      /* of n, c, y, x; each at least 1, except x: 0 is an empty input */
  int64_t stride[4];    /* in elements */
  double eps;           /* floats of up to 32 bits are subtracted in float32, all else in float64; 0 compares exactly */
} sige_compare_args;

/* Compares `count` inputs. args: host. status: [count, 2], nonzero where the given input holds NaN or infinity, and
 * where it differs from the recorded one in some bit. */
SIGE_API sige_status sige_compare(const sige_compare_args* args, int32_t count, int32_t* status,
                                  const sige_execution* execution);

/* A dense array beside rows [batch, fresh, channels] of it: entry (b, p, c) is at n[b] + y[active[p] / width] +
 * x[active[p] % width] + c[c] of the dense array, in elements. */
typedef struct sige_move_args {
  void* dense;
  void* rows;
  const int32_t* active; /* [fresh] */
  const int64_t* n;      /* [batch] */
  const int64_t* y;
  const int64_t* x;      /* [width] */
  const int64_t* c;      /* [channels]; -1: the array lacks this channel of the rows, which sige_put_rows leaves out and
                            sige_take_rows leaves as it is */
  int32_t batch;
  int32_t fresh;
  int32_t width;
  int32_t channels;
  int32_t bytes; /* of an element: 1, 2, 4 or 8 */
} sige_move_args;

/* Copies entries out of `count` dense arrays into their rows, and back. args: host. Where neighbours in `active` are
 * equal, as in a bucket's tail, sige_put_rows writes one of them. */
SIGE_API sige_status sige_take_rows(const sige_move_args* args, int32_t count, const sige_execution* execution);
SIGE_API sige_status sige_put_rows(const sige_move_args* args, int32_t count, const sige_execution* execution);

/* An array beside the one it is copied to; they do not overlap. CUDA: either may be pinned host memory. */
typedef struct sige_copy_args {
  const void* from;
  void* to;
  size_t bytes;
} sige_copy_args;

/* Copies `count` arrays. args: host. CUDA: 16 arrays a launch. */
SIGE_API sige_status sige_copy(const sige_copy_args* args, int32_t count, const sige_execution* execution);

/* One axis of a geometry (AxisTaps of sige_deploy/geometry.py). */
typedef struct sige_axis {
  const int32_t* index; /* [outputs, taps], -1: padding */
  const float* weight;  /* [outputs, taps] or NULL: 1 */
  const int32_t* phase; /* [outputs] or NULL: 0 */
  int32_t outputs;
  int32_t taps;
  int32_t source; /* coordinates of the source */
  int32_t phases;
} sige_axis;

/* A spatial input. */
typedef struct sige_index_input {
  int32_t height;
  int32_t width;
} sige_index_input;

/* A level: its mask is resampled from the inputs' masks, or follows from a geometry. */
typedef struct sige_index_level {
  int32_t height;
  int32_t width;
  int32_t geometry;    /* which it follows, or -1 */
  int32_t dilation;    /* after resampling */
  int32_t granularity; /* at least 1 */
  int32_t* active;     /* [P], P of sige_indices_finish: the active pixels, padded by repeating the last */
} sige_index_level;

/* A geometry and the feeds wanted of it, each NULL where not. */
typedef struct sige_index_geometry {
  int32_t source; /* level that it reads */
  int32_t target; /* level whose pixels read */
  sige_axis y;
  sige_axis x;
  int32_t* halo;  /* [source pixels]: inactive pixels read, ascending, then zeros; zero before the first call;
                     needed for a table */
  int32_t* table; /* [P of target, taps of y * taps of x]: row of an active pixel, P of source + position in halo of
                     another, -1 for padding; times phases plus phase where phases > 1 */
  float* weights; /* the same shape: product of the axes' weights */
} sige_index_geometry;

/* Everything that does not change from edit to edit. Filled twice: for sige_indices_sizes without counts, state and
 * plan, then with them. */
typedef struct sige_indices {
  const sige_index_input* input;       /* host */
  const sige_index_level* level;       /* host */
  const sige_index_geometry* geometry; /* host; a level follows a geometry that leads to it, without circles */
  int32_t inputs;
  int32_t levels;
  int32_t geometries;
  int32_t dilate;   /* at an input's own size */
  double threshold; /* of resampled means */
  int32_t* counts;  /* [levels]: active pixels, written by sige_indices_begin */
  void* state;      /* state_bytes, aligned to SIGE_WORKSPACE_ALIGNMENT, zero before the first call; between calls left
                       as it is */
  size_t state_bytes;
  void* plan;       /* host, plan_bytes, aligned to SIGE_WORKSPACE_ALIGNMENT; sige_indices_plan fills it */
  void* plan_copy;  /* the same bytes in the backend's memory, uploaded by the caller (CPU: `plan` itself will do) */
  size_t plan_bytes;
} sige_indices;

/* Bytes of plan and of state. */
SIGE_API sige_status sige_indices_sizes(const sige_indices* indices, size_t* plan_bytes, size_t* state_bytes);

/* Fills `plan`, for use by the two calls below as long as nothing in `indices` changes. */
SIGE_API sige_status sige_indices_plan(const sige_indices* indices);

/* Masks and counts of all levels. masks: host array [inputs] of pointers to uint8 [height, width], nonzero where an
 * input was edited. CUDA: two launches, and one launch more for each step from a level to the next (granularity, a
 * geometry that a level follows) in the longest chain of them. */
SIGE_API sige_status sige_indices_begin(const sige_indices* indices, const uint8_t* const* masks,
                                        const sige_execution* execution);

/* The active pixels and the halos of the edit that sige_indices_begin was last called for. They do not depend on padded
 * counts, so that a GPU makes them while the host looks at the counts; of the feeds only the halos change. CUDA: two
 * launches. */
SIGE_API sige_status sige_indices_list(const sige_indices* indices, const sige_execution* execution);

/* All feeds of the edit that sige_indices_list was last called for, again if called again. rows: host [levels], the
 * padded counts P, each at least the level's count, and 0 where that is 0. CUDA: one launch. */
SIGE_API sige_status sige_indices_finish(const sige_indices* indices, const int32_t* rows,
                                         const sige_execution* execution);

#ifdef __cplusplus
}
#endif

#endif
