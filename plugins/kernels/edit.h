// What indices_api.cpp calls after its checks, by backend.
#pragma once

#include "sige/indices.h"

namespace sige {

struct EditBackend {
  sige_status (*compare)(const sige_compare_args*, int32_t count, int32_t* status, const sige_execution&);
  sige_status (*take_rows)(const sige_move_args*, int32_t count, const sige_execution&);
  sige_status (*put_rows)(const sige_move_args*, int32_t count, const sige_execution&);
  sige_status (*copy)(const sige_copy_args*, int32_t count, const sige_execution&);
  sige_status (*begin)(const sige_indices&, const uint8_t* const* masks, const sige_execution&);
  sige_status (*list)(const sige_indices&, const sige_execution&);
  sige_status (*finish)(const sige_indices&, const int32_t* rows, const sige_execution&);
};

extern const EditBackend cpu_edit_backend;
extern const EditBackend cuda_edit_backend;

// Sizes of plan and state; with `plan`, the plan as well. False: circles among the levels.
bool plan_indices(const sige_indices& indices, size_t* plan_bytes, size_t* state_bytes, bool write);

}  // namespace sige
