// The C API of indices.h: checks that all backends share, then a call of the backend.
#include <string.h>

#include "edit.h"
#include "indices.h"

namespace {

using sige::EditBackend;

const EditBackend* find(int32_t backend) {
  if (backend == SIGE_CPU) return &sige::cpu_edit_backend;
#ifdef SIGE_WITH_CUDA
  if (backend == SIGE_CUDA) return &sige::cuda_edit_backend;
#endif
  return nullptr;
}

bool side(int32_t value) { return value >= 1 && value <= SIGE_MAX_SIDE; }

bool fits(const sige_compare_args& a) {
  int64_t count = 1;
  for (int32_t i = 0; i < 4; ++i) {
    if (a.size[i] < (i < 3 ? 1 : 0) || a.stride[i] < 0) return false;
    count *= a.size[i];
    if (count > INT32_MAX) return false;
  }
  return a.element >= SIGE_ELEMENT_FLOAT16 && a.element <= SIGE_ELEMENT_UINT64 && a.eps >= 0 && (a.given || !count) &&
         (a.recorded || !a.mask || !count);
}

bool fits(const sige_move_args& a) {
  const bool bytes = a.bytes == 1 || a.bytes == 2 || a.bytes == 4 || a.bytes == 8;
  return bytes && a.batch >= 1 && a.fresh >= 0 && a.width >= 1 && a.channels >= 1 &&
         int64_t{a.batch} * a.fresh <= INT32_MAX / a.channels &&
         (!a.fresh || (a.dense && a.rows && a.active && a.n && a.y && a.x && a.c));
}

bool fits(const sige_copy_args& a) { return !a.bytes || (a.from && a.to); }

bool fits(const sige_axis& a, int32_t outputs, int32_t source) {
  return a.index && a.outputs == outputs && a.source == source && a.taps >= 1 && a.phases >= 1;
}

bool fits(const sige_indices& a) {
  if (a.inputs < 1 || a.inputs > SIGE_MAX_INPUTS || a.levels < 1 || a.levels > SIGE_MAX_LEVELS || a.geometries < 0 ||
      a.geometries > SIGE_MAX_GEOMETRIES || a.dilate < 0 || !a.input || !a.level || (a.geometries && !a.geometry))
    return false;
  for (int32_t i = 0; i < a.inputs; ++i) {
    if (!side(a.input[i].height) || !side(a.input[i].width)) return false;
  }
  for (int32_t i = 0; i < a.levels; ++i) {
    const sige_index_level& l = a.level[i];
    if (!side(l.height) || !side(l.width) || l.geometry < -1 || l.geometry >= a.geometries || l.dilation < 0 ||
        l.granularity < 1 || (l.geometry >= 0 && a.geometry[l.geometry].target != i))
      return false;
  }
  for (int32_t i = 0; i < a.geometries; ++i) {
    const sige_index_geometry& g = a.geometry[i];
    if (g.source < 0 || g.source >= a.levels || g.target < 0 || g.target >= a.levels || (g.table && !g.halo))
      return false;
    const sige_index_level &source = a.level[g.source], &target = a.level[g.target];
    if (!fits(g.y, target.height, source.height) || !fits(g.x, target.width, source.width)) return false;
  }
  return true;
}

sige_status check(const sige_indices* indices, const sige_execution* execution, const EditBackend** backend) {
  if (!indices || !execution) return SIGE_INVALID_ARGUMENT;
  *backend = find(execution->backend);
  if (!*backend) return SIGE_NO_BACKEND;
  const bool memory = indices->counts && indices->state && indices->plan && indices->plan_copy;
  return memory ? SIGE_OK : SIGE_INVALID_ARGUMENT;
}

template <typename Args>
sige_status check(const Args* args, int32_t count, const sige_execution* execution, const EditBackend** backend) {
  if (!execution || count < 0 || (count && !args)) return SIGE_INVALID_ARGUMENT;
  *backend = find(execution->backend);
  if (!*backend) return SIGE_NO_BACKEND;
  for (int32_t i = 0; i < count; ++i) {
    if (!fits(args[i])) return SIGE_INVALID_ARGUMENT;
  }
  return SIGE_OK;
}

}  // namespace

extern "C" {

#ifndef SIGE_WITH_CUDA
sige_status sige_check_device(int32_t, char* sentence, size_t bytes) {
  if (sentence && bytes) {
    strncpy(sentence, "the native kernels were built without CUDA; build them anew with it.", bytes - 1);
    sentence[bytes - 1] = 0;
  }
  return SIGE_NO_BACKEND;
}
#endif

sige_status sige_compare(const sige_compare_args* args, int32_t count, int32_t* status,
                         const sige_execution* execution) {
  const EditBackend* backend;
  if (sige_status wrong = check(args, count, execution, &backend)) return wrong;
  if (!count) return SIGE_OK;
  return status ? backend->compare(args, count, status, *execution) : SIGE_INVALID_ARGUMENT;
}

sige_status sige_take_rows(const sige_move_args* args, int32_t count, const sige_execution* execution) {
  const EditBackend* backend;
  if (sige_status wrong = check(args, count, execution, &backend)) return wrong;
  return count ? backend->take_rows(args, count, *execution) : SIGE_OK;
}

sige_status sige_put_rows(const sige_move_args* args, int32_t count, const sige_execution* execution) {
  const EditBackend* backend;
  if (sige_status wrong = check(args, count, execution, &backend)) return wrong;
  return count ? backend->put_rows(args, count, *execution) : SIGE_OK;
}

sige_status sige_copy(const sige_copy_args* args, int32_t count, const sige_execution* execution) {
  const EditBackend* backend;
  if (sige_status wrong = check(args, count, execution, &backend)) return wrong;
  return count ? backend->copy(args, count, *execution) : SIGE_OK;
}

sige_status sige_indices_sizes(const sige_indices* indices, size_t* plan_bytes, size_t* state_bytes) {
  if (!indices || !plan_bytes || !state_bytes || !fits(*indices)) return SIGE_INVALID_ARGUMENT;
  return sige::plan_indices(*indices, plan_bytes, state_bytes, false) ? SIGE_OK : SIGE_INVALID_ARGUMENT;
}

sige_status sige_indices_plan(const sige_indices* indices) {
  if (!indices || !fits(*indices)) return SIGE_INVALID_ARGUMENT;
  if (!indices->counts || !indices->state || !indices->plan) return SIGE_INVALID_ARGUMENT;
  for (int32_t i = 0; i < indices->levels; ++i) {
    if (!indices->level[i].active) return SIGE_INVALID_ARGUMENT;
  }
  size_t plan_bytes, state_bytes;
  if (!sige::plan_indices(*indices, &plan_bytes, &state_bytes, true)) return SIGE_INVALID_ARGUMENT;
  const bool enough = plan_bytes <= indices->plan_bytes && state_bytes <= indices->state_bytes;
  return enough ? SIGE_OK : SIGE_WORKSPACE_TOO_SMALL;
}

sige_status sige_indices_begin(const sige_indices* indices, const uint8_t* const* masks,
                               const sige_execution* execution) {
  const EditBackend* backend;
  if (sige_status wrong = check(indices, execution, &backend)) return wrong;
  for (int32_t i = 0; i < indices->inputs; ++i) {
    if (!masks || !masks[i]) return SIGE_INVALID_ARGUMENT;
  }
  return backend->begin(*indices, masks, *execution);
}

sige_status sige_indices_list(const sige_indices* indices, const sige_execution* execution) {
  const EditBackend* backend;
  if (sige_status wrong = check(indices, execution, &backend)) return wrong;
  return backend->list(*indices, *execution);
}

sige_status sige_indices_finish(const sige_indices* indices, const int32_t* rows, const sige_execution* execution) {
  const EditBackend* backend;
  if (sige_status wrong = check(indices, execution, &backend)) return wrong;
  if (!rows) return SIGE_INVALID_ARGUMENT;
  const sige::indices::Plan& plan = *static_cast<const sige::indices::Plan*>(indices->plan);
  for (int32_t i = 0; i < indices->levels; ++i) {
    if (rows[i] < 0) return SIGE_INVALID_ARGUMENT;
  }
  for (int32_t i = 0; i < indices->geometries; ++i) {
    const sige::indices::Geometry& g = plan.geometry(i);
    const int64_t codes = (int64_t{rows[g.source]} + plan.level(g.source).pixels) * g.phases;
    if (int64_t{rows[g.target]} * g.taps > INT32_MAX - 1024 || codes > INT32_MAX) return SIGE_UNSUPPORTED;
  }
  return backend->finish(*indices, rows, *execution);
}

}  // extern "C"
