#include "threads.h"

#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

#include <memory>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define ENTER(stack, size) void* fake; __sanitizer_start_switch_fiber(&fake, stack, size)
#define ENTERED() __sanitizer_finish_switch_fiber(fake, nullptr, nullptr)
#else
#define ENTER(stack, size)
#define ENTERED()
#endif

namespace threads {

namespace {

constexpr size_t STACK = 256 * 1024;

enum class Waits { NOT, FOR_LANES, FOR_GROUP, DONE };

struct Thread {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[STACK]};
  Waits waits;
};

std::vector<Thread> pool;
ucontext_t scheduler;
const void* scheduler_stack = nullptr;
size_t scheduler_size = 0;
const std::function<void(int)>* work;
int current;
float slots[1024 / LANES][LANES];

void start() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_size);
#endif
  (*work)(current);
  pool[current].waits = Waits::DONE;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(nullptr, scheduler_stack, scheduler_size);
#endif
  setcontext(&scheduler);
}

void resume(int index) {
  current = index;
  pool[index].waits = Waits::NOT;
  ENTER(pool[index].stack.get(), STACK);
  swapcontext(&scheduler, &pool[index].context);
  ENTERED();
}

void wait(Waits why) {
  const int index = current;
  pool[index].waits = why;
  ENTER(scheduler_stack, scheduler_size);
  swapcontext(&pool[index].context, &scheduler);
  ENTERED();
}

// Runs the threads [first, last) until all of them wait for the group or are done.
void run_lanes(int first, int last, bool backwards) {
  for (;;) {
    for (int i = first; i < last; ++i) {
      const int index = backwards ? last - 1 - (i - first) : i;
      if (pool[index].waits != Waits::DONE) resume(index);
    }
    for (int i = first + 1; i < last; ++i) {
      if (pool[i].waits == pool[first].waits) continue;
      fprintf(stderr, "threads %d and %d of a simdgroup wait for different things\n", first, i);
      abort();
    }
    if (pool[first].waits != Waits::FOR_LANES) return;
  }
}

}  // namespace

void run_group(int count, const std::function<void(int)>& body) {
  if (static_cast<int>(pool.size()) < count) pool.resize(count);
  work = &body;
  for (int i = 0; i < count; ++i) {
    pool[i].waits = Waits::NOT;
    getcontext(&pool[i].context);
    pool[i].context.uc_stack.ss_sp = pool[i].stack.get();
    pool[i].context.uc_stack.ss_size = STACK;
    pool[i].context.uc_link = nullptr;
    makecontext(&pool[i].context, start, 0);
  }
  bool backwards = false;
  do {
    for (int i = 0; i < count; i += LANES) {
      const int first = backwards ? (count - 1 - i) / LANES * LANES : i;
      run_lanes(first, first + LANES < count ? first + LANES : count, backwards);
    }
    for (int i = 1; i < count; ++i) {
      if (pool[i].waits == pool[0].waits) continue;
      fprintf(stderr, "threads 0 and %d of a threadgroup wait for different things\n", i);
      abort();
    }
    backwards = !backwards;
  } while (pool[0].waits != Waits::DONE);
}

void wait_for_group() { wait(Waits::FOR_GROUP); }

std::array<float, LANES> exchange(float value) {
  float(&slot)[LANES] = slots[current / LANES];
  slot[current % LANES] = value;
  wait(Waits::FOR_LANES);
  std::array<float, LANES> result;
  for (int i = 0; i < LANES; ++i) result[i] = slot[i];
  wait(Waits::FOR_LANES);
  return result;
}

bool first_lane() { return current % LANES == 0; }

}  // namespace threads
