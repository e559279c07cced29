#include "fake_gpu.h"

#include <cstdlib>

#include "cuda_captures.h"
#include "device_native.h"
#include "fake_cuda.h"
#include "ort_cuda.h"

// The calls of the kernels, which the linker wraps: the arguments as they are now, whatever the caller's arrays hold
// later.
extern "C" {

sige_status __real_sige_compare(const sige_compare_args*, int32_t, int32_t*, const sige_execution*);
sige_status __real_sige_take_rows(const sige_move_args*, int32_t, const sige_execution*);
sige_status __real_sige_put_rows(const sige_move_args*, int32_t, const sige_execution*);
sige_status __real_sige_indices_begin(const sige_indices*, const uint8_t* const*, const sige_execution*);
sige_status __real_sige_indices_list(const sige_indices*, const sige_execution*);
sige_status __real_sige_indices_finish(const sige_indices*, const int32_t*, const sige_execution*);

sige_status __wrap_sige_compare(const sige_compare_args* args, int32_t count, int32_t* status,
                                const sige_execution* execution) {
  fake::queue([kept = std::vector<sige_compare_args>(args, args + count), status, execution] {
    sige::check(__real_sige_compare(kept.data(), static_cast<int32_t>(kept.size()), status, execution));
  });
  return SIGE_OK;
}

sige_status __wrap_sige_take_rows(const sige_move_args* args, int32_t count, const sige_execution* execution) {
  fake::queue([kept = std::vector<sige_move_args>(args, args + count), execution] {
    sige::check(__real_sige_take_rows(kept.data(), static_cast<int32_t>(kept.size()), execution));
  });
  return SIGE_OK;
}

sige_status __wrap_sige_put_rows(const sige_move_args* args, int32_t count, const sige_execution* execution) {
  fake::queue([kept = std::vector<sige_move_args>(args, args + count), execution] {
    sige::check(__real_sige_put_rows(kept.data(), static_cast<int32_t>(kept.size()), execution));
  });
  return SIGE_OK;
}

sige_status __wrap_sige_indices_begin(const sige_indices* indices, const uint8_t* const* masks,
                                      const sige_execution* execution) {
  fake::queue([indices, kept = std::vector<const uint8_t*>(masks, masks + indices->inputs), execution] {
    sige::check(__real_sige_indices_begin(indices, kept.data(), execution));
  });
  return SIGE_OK;
}

sige_status __wrap_sige_indices_list(const sige_indices* indices, const sige_execution* execution) {
  fake::queue([indices, execution] { sige::check(__real_sige_indices_list(indices, execution)); });
  return SIGE_OK;
}

sige_status __wrap_sige_indices_finish(const sige_indices* indices, const int32_t* rows,
                                       const sige_execution* execution) {
  fake::queue([indices, kept = std::vector<int32_t>(rows, rows + indices->levels), execution] {
    sige::check(__real_sige_indices_finish(indices, kept.data(), execution));
  });
  return SIGE_OK;
}

}  // extern "C"

// Memory of the stand-in, which the kernels' CPU backend works on.
class FakeMemory : public sige::CudaMemory {
 public:
  using CudaMemory::CudaMemory;
  int32_t backend() const override { return SIGE_CPU; }
};

// Like ONNX Runtime on a GPU: a host function comes after an edit, and the original network copies from passing memory.
class FakeEngine : public sige::BufferEngine {
 public:
  FakeEngine(std::unique_ptr<BufferEngine> real, const sige::Memory& memory)
      : real_(std::move(real)), memory_(memory) {}

  std::string name() const override { return real_->name(); }
  Run bind_record(const sige::Buffers& inputs, const sige::Buffers& outputs) override {
    return queued(real_->bind_record(inputs, outputs));
  }
  Run bind_dense(const sige::Buffers& inputs, const sige::Buffers& outputs) override {
    return [run = queued(real_->bind_dense(inputs, outputs)), place = inputs.begin()->second, this] {
      const std::vector<char> passing(place.as<char>(), place.as<char>() + place.bytes());
      cudaMemcpyAsync(place.pointer, passing.data(), passing.size(), cudaMemcpyHostToDevice,
                      static_cast<cudaStream_t>(memory_.stream()));
      run();
    };
  }
  Run bind_edit(const sige::Buffers& inputs, const sige::Buffers& outputs) override {
    return [run = queued(real_->bind_edit(inputs, outputs))] {
      run();
      fake::queue_host_function();
    };
  }
  std::set<std::string> edit_inputs() override { return real_->edit_inputs(); }

 private:
  static Run queued(Run run) {
    return [run = std::move(run)] { fake::queue(run); };
  }

  std::unique_ptr<BufferEngine> real_;
  const sige::Memory& memory_;
};

std::unique_ptr<sige::Device> fake_gpu(const sige::Bundle& bundle, const sige::Options& options) {
  const auto memory = std::make_shared<FakeMemory>(0, options.stream);
  auto engine = std::make_unique<FakeEngine>(sige::ort_on_buffers(bundle, memory, 0, options.threads), *memory);
  const char* budget = std::getenv("BUDGET");  // bytes
  auto captures = std::make_unique<sige::CudaCaptures>(
      memory, budget ? std::strtoull(budget, nullptr, 10) : sige::CudaCaptures::BUDGET);
  return std::make_unique<sige::NativeDevice>(bundle, memory, std::move(engine), std::move(captures), options.outputs);
}
