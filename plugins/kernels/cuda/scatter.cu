// Scatter: a copy of the base (none in place), then one thread per vector of the rows.
#include "device.cuh"

namespace sige::cuda {

template <typename T, int N>
__global__ void __launch_bounds__(THREADS)
    scatter_kernel(const T* rows, const int32_t* active, T* out, uint32_t count, Divider vectors, Divider fresh,
                   int64_t image_stride) {
  const uint32_t index = blockIdx.x * THREADS + threadIdx.x;
  if (index >= count) return;
  uint32_t row, vector, b, p;
  vectors.divide(index, row, vector);
  fresh.divide(row, b, p);
  // The padded tail of a bucket names one pixel over and over; one write is enough.
  if (p > 0 && active[p] == active[p - 1]) return;
  const int64_t to = b * image_stride + (int64_t{active[p]} * vectors.divisor + vector) * N;
  *reinterpret_cast<Pack<T, N>*>(out + to) = *reinterpret_cast<const Pack<T, N>*>(rows + int64_t{index} * N);
}

sige_status scatter(const sige_scatter_args& a, const sige_execution& execution) {
  const cudaStream_t stream = stream_of(execution);
  const int64_t image = int64_t{a.pixels} * a.channels;
  if (a.out != a.base) {
    const size_t bytes = a.batch * image * element_size(a.dtype);
    if (cudaMemcpyAsync(a.out, a.base, bytes, cudaMemcpyDeviceToDevice, stream) != cudaSuccess) return failed();
  }
  if (!a.fresh) return SIGE_OK;
  return with_vector(a.dtype, a.channels, aligned(a.rows, 16) && aligned(a.out, 16), [&](auto type, auto size) {
    using T = decltype(type);
    constexpr int N = decltype(size)::value;
    const int64_t count = int64_t{a.batch} * a.fresh * (a.channels / N);
    if (count > MAX_VECTORS) return SIGE_UNSUPPORTED;
    scatter_kernel<T, N><<<(count + THREADS - 1) / THREADS, THREADS, 0, stream>>>(
        static_cast<const T*>(a.rows), a.active, static_cast<T*>(a.out), static_cast<uint32_t>(count),
        Divider(a.channels / N), Divider(a.fresh), image);
    return launched();
  });
}

}  // namespace sige::cuda
