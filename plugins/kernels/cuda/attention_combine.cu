// Adds up attention's partial splits: one thread per output value.
#include "attention.cuh"

namespace sige::cuda {

template <typename T>
static __global__ void __launch_bounds__(THREADS)
    combine_kernel(const __grid_constant__ AttentionParameters p, int64_t rows) {
  const int64_t index = int64_t{blockIdx.x} * THREADS + threadIdx.x;
  if (index >= rows * p.dv) return;
  const int64_t row = index / p.dv, column = index % p.dv;  // row of [batch * heads][fresh]
  float maximum = -INFINITY, total = 0, sum = 0;
  for (int32_t s = 0; s < p.splits; ++s) maximum = fmaxf(maximum, p.partial_state[s * rows + row].x);
  for (int32_t s = 0; s < p.splits; ++s) {
    const float2 state = p.partial_state[s * rows + row];
    const float shrink = exp2f(state.x - maximum);
    total += state.y * shrink;
    sum += p.partial[(s * rows + row) * p.dv + column] * shrink;
  }
  const Head<T> head(p, row / p.fresh);
  head.out[row % p.fresh * head.channels + column] = from_float<T>(sum / total);
}

cudaError_t attention_code(cudaFuncAttributes* attributes) {
  return cudaFuncGetAttributes(attributes, combine_kernel<__half>);
}

sige_status launch_attention_combine(const AttentionParameters& p, int32_t dtype, cudaStream_t stream) {
  const int64_t rows = int64_t{p.batch} * p.heads * p.fresh;
  const auto blocks = static_cast<unsigned>((rows * p.dv + THREADS - 1) / THREADS);
  if (dtype == SIGE_FLOAT16) {
    combine_kernel<__half><<<blocks, THREADS, 0, stream>>>(p, rows);
  } else {
    combine_kernel<float><<<blocks, THREADS, 0, stream>>>(p, rows);
  }
  return launched();
}

}  // namespace sige::cuda
