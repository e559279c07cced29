// The CUDA backend's ops, by name.
#include "../backend.h"

namespace sige::cuda {

sige_status gather(const sige_gather_args&, const sige_execution&);
sige_status conv(const sige_conv_args&, const sige_execution&);
sige_status scatter(const sige_scatter_args&, const sige_execution&);
sige_status attention(const sige_attention_args&, const sige_execution&);
size_t gather_workspace(const sige_gather_args&);
size_t conv_workspace(const sige_conv_args&);
size_t attention_workspace(const sige_attention_args&);

static size_t packed_size(const sige_conv_args&) { return 0; }
static void pack(const sige_conv_args&, void*) {}

}  // namespace sige::cuda

namespace sige {

const Backend& cuda_backend() {
  static constexpr Backend backend{cuda::gather,           cuda::conv,           cuda::scatter,
                                   cuda::attention,        cuda::gather_workspace, cuda::conv_workspace,
                                   cuda::attention_workspace, cuda::packed_size, cuda::pack};
  return backend;
}

}  // namespace sige
