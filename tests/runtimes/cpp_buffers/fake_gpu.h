// The device of a GPU on the stand-in for CUDA: kernels and engine are queued as work of its stream.
#pragma once

#include "device.h"

std::unique_ptr<sige::Device> fake_gpu(const sige::Bundle& bundle, const sige::Options& options);
