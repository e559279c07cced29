// A stand-in for the CUDA runtime on a machine without a GPU: device memory is host memory, work happens at once, or
// while a stream is captured goes into a graph that a launch runs.
#pragma once

#include <cstddef>
#include <functional>

namespace fake {

// Queues work of a kernel or an engine.
void queue(std::function<void()> work);

// Queues a host function that gives back what a launched graph would read again: a launch must not run it.
void queue_host_function();

}  // namespace fake
