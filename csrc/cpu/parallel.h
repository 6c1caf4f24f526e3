// A small thread pool. Tasks are numbered by shape alone, so results do not depend on how many threads there
// are.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cpu/context.h"

namespace fastdl::cpu {

int default_num_threads();
void set_default_num_threads(int n);

using TaskFunction = void (*)(void* argument, int64_t task);
// On the context's threads, or this library's.
void run_tasks(const Context* context, int threads, int64_t tasks, TaskFunction function, void* argument);

// Below this much work (elementary operations, some 10 us) waking another thread costs more than it saves.
constexpr double kSerialCost = 32768;

// Calls body(task) for every task in [0, tasks), in any order, on up to num_threads(context) threads; returns
// when all are done. cost_per_task: rough elementary operations of one task. Nested calls run on their
// caller, and so do concurrent ones but for a host's own threads.
template <class Body>
void parallel_for(const Context* context, int64_t tasks, double cost_per_task, Body&& body) {
  const int threads =
      tasks > 1 && static_cast<double>(tasks) * cost_per_task > kSerialCost ? num_threads(context) : 1;
  if (threads <= 1) {
    for (int64_t task = 0; task < tasks; ++task) body(task);
    return;
  }
  using B = std::remove_reference_t<Body>;
  run_tasks(
      context, threads, tasks, [](void* argument, int64_t task) { (*static_cast<B*>(argument))(task); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

// Splits [0, count) into ranges of `grain` (the last may be shorter) and calls body(begin, end) for each.
template <class Body>
void parallel_ranges(const Context* context, int64_t count, int64_t grain, double cost_per_item,
                     Body&& body) {
  const int64_t tasks = (count + grain - 1) / grain;
  parallel_for(context, tasks, cost_per_item * static_cast<double>(grain), [&](int64_t task) {
    const int64_t begin = task * grain;
    body(begin, begin + grain < count ? begin + grain : count);
  });
}

}  // namespace fastdl::cpu
