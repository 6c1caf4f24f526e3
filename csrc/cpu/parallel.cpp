#include "cpu/parallel.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif
#if !defined(_WIN32)
#include <pthread.h>
#endif

namespace fastdl::cpu {
namespace {

// How long an idle worker polls before it sleeps: longer than the gap between two parallel regions of a
// training step, in which one thread may do serial work of some 100 us (waking a sleeper takes as long again,
// on virtual machines), short enough that an idle pool is invisible to other programs.
constexpr auto kSpin = std::chrono::microseconds(300);

void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ __volatile__("yield");
#endif
}

int available_cpus() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  const unsigned n = std::thread::hardware_concurrency();
  return n ? static_cast<int>(n) : 1;
}

int initial_num_threads() {
  if (const char* text = std::getenv("FASTDL_NUM_THREADS")) {
    const int n = std::atoi(text);
    if (n >= 1 && n <= 1024) return n;
  }
  return available_cpus();
}

std::atomic<int>& thread_setting() {
  static std::atomic<int> n{initial_num_threads()};
  return n;
}

thread_local bool inside_task = false;

// One job at a time. A worker joins the open job by raising `joined_`; the caller closes the job when its
// tasks are handed out and waits only for those who joined, so a worker that wakes late delays nobody.
class Pool {
 public:
  // False if another thread's job is running: the caller then does the work itself.
  bool run(int threads, int64_t tasks, TaskFunction function, void* argument) {
    std::unique_lock<std::mutex> owner(owner_, std::try_to_lock);
    if (!owner.owns_lock() || stopping_) return false;
    try {
      while (static_cast<int>(workers_.size()) < threads - 1) {
        const int index = static_cast<int>(workers_.size());
        workers_.emplace_back([this, index] { work(index); });
      }
    } catch (const std::exception&) {
      // The system gives no more threads: those there are do the work, and the bits are the same.
    }
    function_ = function;
    argument_ = argument;
    tasks_ = tasks;
    // The counter's cache line travels between cores at every claim: take several small tasks at a time, but
    // leave each thread eight turns, so that one that is held up does not hold up all.
    claim_ = tasks / (int64_t{8} * threads) > 1 ? tasks / (int64_t{8} * threads) : 1;
    limit_ = threads - 1;
    spin_ = threads <= cpus_;  // polling on a shared core would only slow the one who has work
    error_ = nullptr;
    next_.store(0, std::memory_order_relaxed);
    joined_.store(kOpen, std::memory_order_release);
    {
      generation_.fetch_add(1, std::memory_order_seq_cst);
      if (sleepers_.load(std::memory_order_seq_cst) > 0) {
        std::lock_guard<std::mutex> lock(sleep_);
        wake_.notify_all();
      }
    }
    take_tasks();
    joined_.fetch_and(~kOpen, std::memory_order_acq_rel);
    for (int polls = 0; joined_.load(std::memory_order_acquire) != 0; ++polls) {
      if (spin_ && polls < 100000) relax();
      else std::this_thread::yield();
    }
    const std::exception_ptr error = error_;
    error_ = nullptr;
    owner.unlock();
    if (error) std::rethrow_exception(error);
    return true;
  }

  // Joins the workers; later jobs are refused.
  void shut_down() {
    std::unique_lock<std::mutex> owner(owner_, std::try_to_lock);
    if (!owner.owns_lock()) return;  // a thread still computes at exit: leave the workers to the system
    stopping_ = true;
    {
      std::lock_guard<std::mutex> lock(sleep_);
      generation_.fetch_add(1, std::memory_order_seq_cst);
    }
    wake_.notify_all();
    for (auto& w : workers_) w.join();
    workers_.clear();
  }

 private:
  static constexpr int kOpen = 1 << 30;

  void take_tasks() {
    inside_task = true;
    try {
      for (;;) {
        const int64_t begin = next_.fetch_add(claim_, std::memory_order_relaxed);
        if (begin >= tasks_) break;
        const int64_t end = begin + claim_ < tasks_ ? begin + claim_ : tasks_;
        for (int64_t task = begin; task < end; ++task) function_(argument_, task);
      }
    } catch (...) {
      next_.store(tasks_, std::memory_order_relaxed);  // hand out no more
      std::lock_guard<std::mutex> lock(error_mutex_);
      if (!error_) error_ = std::current_exception();
    }
    inside_task = false;
  }

  void work(int index) {
    uint64_t seen = 0;
    for (;;) {
      wait_for_job(seen);
      if (stopping_) return;
      int joined = joined_.load(std::memory_order_acquire);
      while ((joined & kOpen) &&
             !joined_.compare_exchange_weak(joined, joined + 1, std::memory_order_acq_rel)) {
      }
      if (!(joined & kOpen)) continue;
      if (index < limit_) take_tasks();
      joined_.fetch_sub(1, std::memory_order_acq_rel);
    }
  }

  void wait_for_job(uint64_t& seen) {
    const auto deadline = std::chrono::steady_clock::now() + kSpin;
    while (spin_) {
      for (int i = 0; i < 64; ++i) {
        const uint64_t now = generation_.load(std::memory_order_acquire);
        if (now != seen) {
          seen = now;
          return;
        }
        relax();
      }
      if (std::chrono::steady_clock::now() > deadline) break;
    }
    std::unique_lock<std::mutex> lock(sleep_);
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    wake_.wait(lock, [&] { return generation_.load(std::memory_order_seq_cst) != seen; });
    sleepers_.fetch_sub(1, std::memory_order_seq_cst);
    seen = generation_.load(std::memory_order_acquire);
  }

  std::mutex owner_, sleep_, error_mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> workers_;
  const int cpus_ = available_cpus();
  TaskFunction function_ = nullptr;
  void* argument_ = nullptr;
  int64_t tasks_ = 0;
  int64_t claim_ = 1;
  int limit_ = 0;
  std::exception_ptr error_;
  alignas(64) std::atomic<int64_t> next_{0};
  alignas(64) std::atomic<int> joined_{0};
  alignas(64) std::atomic<uint64_t> generation_{0};
  std::atomic<int> sleepers_{0};
  std::atomic<bool> spin_{true};
  std::atomic<bool> stopping_{false};
};

// Threads do not survive a fork: the child abandons the parent's pool and makes its own at first use.
std::atomic<Pool*> pool_pointer{nullptr};
std::mutex* pool_mutex = new std::mutex;

// Stops the workers at exit, but leaves the pool where it is: a thread that still computes may come back to
// it.
struct PoolOwner {
  ~PoolOwner() {
    if (Pool* p = pool_pointer.load()) p->shut_down();
  }
};

Pool& pool() {
  Pool* p = pool_pointer.load(std::memory_order_acquire);
  if (p) return *p;
  std::lock_guard<std::mutex> lock(*pool_mutex);
  p = pool_pointer.load(std::memory_order_acquire);
  if (!p) {
#if !defined(_WIN32)
    static const int registered = pthread_atfork(nullptr, nullptr, [] {
      pool_mutex = new std::mutex;
      pool_pointer.store(nullptr);
    });
    (void)registered;
#endif
    static PoolOwner owner;
    p = new Pool;
    pool_pointer.store(p, std::memory_order_release);
  }
  return *p;
}

}  // namespace

int default_num_threads() { return thread_setting().load(std::memory_order_relaxed); }
void set_default_num_threads(int n) { thread_setting().store(n, std::memory_order_relaxed); }

void run_tasks(int threads, int64_t tasks, TaskFunction function, void* argument) {
  if (tasks < threads) threads = static_cast<int>(tasks);
  if (!inside_task && threads > 1 && pool().run(threads, tasks, function, argument)) return;
  for (int64_t task = 0; task < tasks; ++task) function(argument, task);
}

}  // namespace fastdl::cpu
