// A threadgroup on one CPU thread: every Metal thread is a context of its own, which runs until a barrier.
//
// Between two barriers the threads run in one order, and in the opposite one after the next: what a missing barrier
// would let through then differs. Threads of a simdgroup that wait for different things stop the program.
#pragma once

#include <stddef.h>

#include <array>
#include <functional>

namespace threads {

constexpr int LANES = 32;

// Runs body(thread) for threads [0, count); a multiple of LANES, or fewer than LANES.
void run_group(int count, const std::function<void(int)>& body);

void wait_for_group();

// Gives every lane what all lanes of its simdgroup hand over.
std::array<float, LANES> exchange(float value);

bool first_lane();

}  // namespace threads
