// Each function of cublaslt.h calls the one of its name in libcublasLt.
#include "cublaslt.h"

#include <dlfcn.h>

namespace {

// By its soname the loader finds a library that the process has already (of torch or of ONNX Runtime, wherever pip put
// it), else the one on its own search path.
template <typename Function>
Function* find(const char* name) {
  static void* const library = dlopen("libcublasLt.so.13", RTLD_LAZY | RTLD_LOCAL);
  return library ? reinterpret_cast<Function*>(dlsym(library, name)) : nullptr;
}

}  // namespace

#define SIGE_FORWARD(name, parameters, arguments)                     \
  cublasStatus_t name parameters {                                    \
    static auto* const found = find<decltype(name)>(#name);           \
    return found ? found arguments : CUBLAS_STATUS_NOT_INITIALIZED;   \
  }

SIGE_FORWARD(cublasLtCreate, (cublasLtHandle_t * handle), (handle))
SIGE_FORWARD(cublasLtDestroy, (cublasLtHandle_t handle), (handle))
SIGE_FORWARD(cublasLtMatmul,
             (cublasLtHandle_t handle, cublasLtMatmulDesc_t operation, const void* alpha, const void* a,
              cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout, const void* beta,
              const void* c, cublasLtMatrixLayout_t c_layout, void* d, cublasLtMatrixLayout_t d_layout,
              const cublasLtMatmulAlgo_t* algorithm, void* workspace, size_t workspace_bytes, cudaStream_t stream),
             (handle, operation, alpha, a, a_layout, b, b_layout, beta, c, c_layout, d, d_layout, algorithm, workspace,
              workspace_bytes, stream))
SIGE_FORWARD(cublasLtMatmulAlgoGetHeuristic,
             (cublasLtHandle_t handle, cublasLtMatmulDesc_t operation, cublasLtMatrixLayout_t a,
              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
              cublasLtMatmulPreference_t preference, int requested, cublasLtMatmulHeuristicResult_t* results,
              int* count),
             (handle, operation, a, b, c, d, preference, requested, results, count))
SIGE_FORWARD(cublasLtMatmulDescCreate,
             (cublasLtMatmulDesc_t * created, cublasComputeType_t compute, cudaDataType scale),
             (created, compute, scale))
SIGE_FORWARD(cublasLtMatmulDescDestroy, (cublasLtMatmulDesc_t operation), (operation))
SIGE_FORWARD(cublasLtMatmulDescSetAttribute,
             (cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute, const void* value,
              size_t bytes),
             (operation, attribute, value, bytes))
SIGE_FORWARD(cublasLtMatrixLayoutCreate,
             (cublasLtMatrixLayout_t * created, cudaDataType type, uint64_t rows, uint64_t columns, int64_t leading),
             (created, type, rows, columns, leading))
SIGE_FORWARD(cublasLtMatrixLayoutDestroy, (cublasLtMatrixLayout_t layout), (layout))
SIGE_FORWARD(cublasLtMatrixLayoutSetAttribute,
             (cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t attribute, const void* value,
              size_t bytes),
             (layout, attribute, value, bytes))
SIGE_FORWARD(cublasLtMatmulPreferenceCreate, (cublasLtMatmulPreference_t * created), (created))
SIGE_FORWARD(cublasLtMatmulPreferenceDestroy, (cublasLtMatmulPreference_t preference), (preference))
SIGE_FORWARD(cublasLtMatmulPreferenceSetAttribute,
             (cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute,
              const void* value, size_t bytes),
             (preference, attribute, value, bytes))
