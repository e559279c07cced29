// The library's entry points: registration with ONNX Runtime, and the version that sige_deploy compares with its own.
#include "attention.h"
#include "conv.h"
#include "gather.h"
#include "scatter.h"

#include <deque>

#if defined(_WIN32)
#define SIGE_EXPORT __declspec(dllexport)
#else
#define SIGE_EXPORT __attribute__((visibility("default")))
#endif

namespace sige::ort {

constexpr Target TARGETS[] = {
    {"CPUExecutionProvider", SIGE_CPU, SIGE_FLOAT32},
    {"CUDAExecutionProvider", SIGE_CUDA, SIGE_FLOAT32},
    {"CUDAExecutionProvider", SIGE_CUDA, SIGE_FLOAT16},
};

struct Ops {
  Op<Gather> gather;
  Op<Conv> conv;
  Op<Scatter> scatter;
  Op<Attention> attention;

  explicit Ops(const Target& target) : gather(target), conv(target), scatter(target), attention(target) {}
};

// All that the kernels' library can run. ONNX Runtime keeps pointers to ops and domain for as long as a session lives.
struct Registry {
  std::deque<Ops> ops;
  Ort::CustomOpDomain domain{"sige"};

  Registry() {
    for (const Target& target : TARGETS) {
      if (sige_has_backend(target.backend)) continue;
      const Ops& added = ops.emplace_back(target);
      for (const OrtCustomOp* op :
           std::initializer_list<const OrtCustomOp*>{&added.gather, &added.conv, &added.scatter, &added.attention})
        domain.Add(op);
    }
  }
};

}  // namespace sige::ort

extern "C" {

SIGE_EXPORT const char* sige_onnxruntime_version(void) { return SIGE_DEPLOY_VERSION; }

SIGE_EXPORT OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(ORT_API_VERSION);
  if (!api) {
    const std::string sentence = "libsige_onnxruntime was built for ONNX Runtime 1." +
                                 std::to_string(ORT_API_VERSION) + " or later, this is " + base->GetVersionString() + ".";
    return base->GetApi(1)->CreateStatus(ORT_FAIL, sentence.c_str());
  }
  Ort::InitApi(api);
  if (sige_version() != SIGE_API_VERSION)
    return api->CreateStatus(ORT_FAIL, "libsige_onnxruntime and libsige_kernels are of different versions.");
  return sige::ort::guarded("RegisterCustomOps", [&] {
    static sige::ort::Registry registry;
    Ort::ThrowOnError(Ort::GetApi().AddCustomOpDomain(options, registry.domain));
  });
}

}  // extern "C"
