// Loops whose steps depend on each other: every task of a step must be done before the next step begins.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>

#include "cpu/parallel.h"

namespace fastdl::cpu {

// The state shared by the threads of one parallel_steps. Task j of step s is claimed by moving claims[j] from
// s to s + 1. A thread claims its own tasks first (the same ones in every step, so that their operands stay
// in its cache), then what nobody has claimed. It waits only for tasks that running threads have claimed, so
// any number of threads may take part, come late or not at all.
class StepClaims {
 public:
  explicit StepClaims(int64_t tasks) : tasks_(tasks), claims_(new Claim[static_cast<size_t>(tasks)]) {}

  template <class Body>
  void take_part(int slot, int slots, int64_t steps, Body& body) {
    const int64_t first = tasks_ * slot / slots;
    for (int64_t step = 0; step < steps; ++step) {
      for (int64_t i = 0; i < tasks_; ++i) {
        const int64_t task = first + i < tasks_ ? first + i : first + i - tasks_;
        int64_t expected = step;
        if (claims_[task].steps.load(std::memory_order_relaxed) != step ||
            !claims_[task].steps.compare_exchange_strong(expected, step + 1, std::memory_order_relaxed)) {
          continue;
        }
        body(step, task);
        finished_.fetch_add(1, std::memory_order_acq_rel);
      }
      const int64_t all = (step + 1) * tasks_;
      for (int polls = 0; finished_.load(std::memory_order_acquire) < all; ++polls) {
        if (polls >= kPolls) std::this_thread::yield();
        else pause();
      }
    }
  }

 private:
  // Some 20 us: longer than a step takes, unless its thread has lost its core.
  static constexpr int kPolls = 1000;

  static void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
  }

  struct alignas(64) Claim {
    std::atomic<int64_t> steps{0};
  };
  const int64_t tasks_;
  std::unique_ptr<Claim[]> claims_;
  alignas(64) std::atomic<int64_t> finished_{0};
};

// Below this much work in a step the barrier and the exchange of its results between cores (0.3 to 1 us) cost
// more than a second thread saves.
constexpr double kStepCost = 4096;

// Calls body(step, task) for every step in [0, steps) and task in [0, tasks); all tasks of a step are done
// before any of the next begins. One dispatch for the whole loop and one barrier per step. body must not
// throw.
template <class Body>
void parallel_steps(const Context* context, int64_t steps, int64_t tasks, double cost_per_task, Body&& body) {
  const double step_cost = static_cast<double>(tasks) * cost_per_task;
  int threads = tasks > 1 && step_cost > kStepCost && step_cost * static_cast<double>(steps) > kSerialCost
                    ? num_threads(context)
                    : 1;
  if (threads > tasks) threads = static_cast<int>(tasks);
  if (threads <= 1) {
    for (int64_t step = 0; step < steps; ++step) {
      for (int64_t task = 0; task < tasks; ++task) body(step, task);
    }
    return;
  }
  StepClaims claims(tasks);
  parallel_for(context, threads, kSerialCost,
               [&](int64_t slot) { claims.take_part(static_cast<int>(slot), threads, steps, body); });
}

}  // namespace fastdl::cpu
