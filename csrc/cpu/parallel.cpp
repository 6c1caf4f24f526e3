#include "cpu/parallel.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <utility>
#include <vector>

#if !defined(_WIN32)
#include <pthread.h>
#endif

#include "common/error.h"
#include "cpu/affinity.h"

namespace fastdl::cpu {
namespace {

// How long an idle worker polls before it sleeps: longer than the gap between two parallel regions of a
// training step, in which one thread may do serial work of some 100 us (waking a sleeper takes as long again,
// on virtual machines), short enough that an idle pool is invisible to other programs. From kAlone on it
// offers its core to others between polls: another library's threads get it at once.
constexpr auto kSpin = std::chrono::microseconds(300);
constexpr auto kAlone = std::chrono::microseconds(10);
constexpr int kPolls = 64;  // between two looks at the clock: some 1 us

void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ __volatile__("yield");
#endif
}

int available_cpus() {
  if (const int allowed = allowed_cpus()) return allowed;
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

// The tasks of one parallel loop, dealt out to threads.
class Job {
 public:
  // Thread i has the i-th part of the tasks, in all calls alike, so that what one op leaves in its cache the
  // next finds there.
  void deal(int threads, int64_t tasks, TaskFunction function, void* argument) {
    if (threads > capacity_) {
      shares_.reset(new Share[static_cast<size_t>(threads)]);
      capacity_ = threads;
    }
    function_ = function;
    argument_ = argument;
    error_ = nullptr;
    slots_ = threads;
    const int64_t each = tasks / threads, more = tasks % threads;
    int64_t begin = 0;
    for (int i = 0; i < threads; ++i) {
      shares_[i].next.store(begin, std::memory_order_relaxed);
      begin += each + (i < more ? 1 : 0);
      shares_[i].end = begin;
    }
    // Several small tasks at a time, but a share in eight turns at least, so that a thread that is held up
    // does not hold up all.
    claim_ = each > 8 ? each / 8 : 1;
  }

  int slots() const { return slots_; }

  void release() {
    shares_.reset();
    slots_ = capacity_ = 0;
  }

  // Runs a thread's own tasks, then what others have not begun.
  void take_part(int slot) noexcept {
    const bool before = inside_task;
    inside_task = true;
    try {
      for (int i = 0; i < slots_; ++i) {
        Share& share = shares_[(slot + i) % slots_];
        while (share.next.load(std::memory_order_relaxed) < share.end) {
          const int64_t begin = share.next.fetch_add(claim_, std::memory_order_relaxed);
          const int64_t end = begin + claim_ < share.end ? begin + claim_ : share.end;
          for (int64_t task = begin; task < end; ++task) function_(argument_, task);
        }
      }
    } catch (...) {
      for (int i = 0; i < slots_; ++i) {  // hand out no more
        shares_[i].next.store(shares_[i].end, std::memory_order_relaxed);
      }
      std::lock_guard<std::mutex> lock(error_mutex_);
      if (!error_) error_ = std::current_exception();
    }
    inside_task = before;
  }

  // What a task has thrown, once. To be called when all have returned.
  std::exception_ptr take_error() { return std::exchange(error_, nullptr); }

 private:
  // Tasks [next, end) that nobody has claimed yet.
  struct alignas(64) Share {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };

  TaskFunction function_ = nullptr;
  void* argument_ = nullptr;
  int64_t claim_ = 1;
  int slots_ = 0, capacity_ = 0;  // shares of this job, shares there is room for
  std::unique_ptr<Share[]> shares_;
  std::mutex error_mutex_;
  std::exception_ptr error_;
};

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
        workers_.push_back(std::make_unique<Worker>());
        Worker& worker = *workers_.back();
        worker.thread = std::thread([this, index, &worker] { work(index, worker.place); });
      }
    } catch (const std::exception&) {
      // The system gives no more threads: those there are do the work, and the bits are the same.
      if (!workers_.empty() && !workers_.back()->thread.joinable()) workers_.pop_back();
    }
    job_.deal(threads, tasks, function, argument);
    spin_ = threads <= cpus_;  // polling on a shared core would only slow the one who has work
    joined_.store(kOpen, std::memory_order_release);
    {
      generation_.fetch_add(1, std::memory_order_seq_cst);
      if (sleepers_.load(std::memory_order_seq_cst) > 0) {
        std::lock_guard<std::mutex> lock(sleep_);
        for (auto& w : workers_) {
          if (spin_) w->place.wake_elsewhere(w->thread.native_handle());
        }
        wake_.notify_all();
      }
    }
    job_.take_part(0);
    joined_.fetch_and(~kOpen, std::memory_order_acq_rel);
    for (int polls = 0; joined_.load(std::memory_order_acquire) != 0; ++polls) {
      if (spin_ && polls < kPatience) relax();
      else std::this_thread::yield();
    }
    const std::exception_ptr error = job_.take_error();
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
    for (auto& w : workers_) w->thread.join();
    std::vector<std::unique_ptr<Worker>>().swap(workers_);
    job_.release();
  }

 private:
  static constexpr int kOpen = 1 << 30;

  struct Worker {
    std::thread thread;
    SleepingPlace place;
  };

  // Some 20 us: longer than a task mostly takes, unless its thread has lost its core.
  static constexpr int kPatience = 1000;

  void work(int index, SleepingPlace& place) {
    uint64_t seen = 0;
    for (;;) {
      wait_for_job(seen, place);
      if (stopping_) return;
      int joined = joined_.load(std::memory_order_acquire);
      while ((joined & kOpen) &&
             !joined_.compare_exchange_weak(joined, joined + 1, std::memory_order_acq_rel)) {
      }
      if (!(joined & kOpen)) continue;
      if (index + 1 < job_.slots()) job_.take_part(index + 1);
      joined_.fetch_sub(1, std::memory_order_acq_rel);
    }
  }

  void wait_for_job(uint64_t& seen, SleepingPlace& place) {
    const auto begin = std::chrono::steady_clock::now();
    while (spin_) {
      for (int i = 0; i < kPolls; ++i) {
        const uint64_t now = generation_.load(std::memory_order_acquire);
        if (now != seen) {
          seen = now;
          return;
        }
        relax();
      }
      const auto waited = std::chrono::steady_clock::now() - begin;
      if (waited > kSpin) break;
      if (waited > kAlone) std::this_thread::yield();
    }
    std::unique_lock<std::mutex> lock(sleep_);
    place.before_sleep();
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    wake_.wait(lock, [&] { return generation_.load(std::memory_order_seq_cst) != seen; });
    sleepers_.fetch_sub(1, std::memory_order_seq_cst);
    place.after_sleep();
    seen = generation_.load(std::memory_order_acquire);
  }

  std::mutex owner_, sleep_;
  std::condition_variable wake_;
  std::vector<std::unique_ptr<Worker>> workers_;
  const int cpus_ = available_cpus();
  Job job_;
  alignas(64) std::atomic<int> joined_{0};
  alignas(64) std::atomic<uint64_t> generation_{0};
  std::atomic<int> sleepers_{0};
  std::atomic<bool> spin_{true};
  std::atomic<bool> stopping_{false};
};

// In static memory: a thread that still computes at exit finds the pool where it was, and when the library is
// unloaded nothing is left on the heap. Threads do not survive a fork: the child makes a pool of its own
// there at first use, and abandons what the parent's held.
alignas(Pool) unsigned char pool_memory[sizeof(Pool)];
std::atomic<Pool*> pool_pointer{nullptr};
std::mutex pool_mutex;

// Stops the workers at exit and before the library is unloaded.
struct PoolOwner {
  ~PoolOwner() {
    if (Pool* p = pool_pointer.load()) p->shut_down();
  }
};

Pool& pool() {
  Pool* p = pool_pointer.load(std::memory_order_acquire);
  if (p) return *p;
  std::lock_guard<std::mutex> lock(pool_mutex);
  p = pool_pointer.load(std::memory_order_acquire);
  if (!p) {
#if !defined(_WIN32)
    static const int registered = pthread_atfork(nullptr, nullptr, [] {
      new (&pool_mutex) std::mutex;  // a thread that does not exist here may hold the parent's
      pool_pointer.store(nullptr);
    });
    (void)registered;
#endif
    static PoolOwner owner;
    p = new (pool_memory) Pool;
    pool_pointer.store(p, std::memory_order_release);
  }
  return *p;
}

// A job on the threads of the context's owner.
struct HostJob {
  Job job;
  std::atomic<int> started{0}, ended{0};

  static void chunk(void* argument, int32_t index) noexcept {
    auto& self = *static_cast<HostJob*>(argument);
    if (index < 0 || index >= self.job.slots()) return;  // no chunk: the right one is then missing
    self.started.fetch_add(1, std::memory_order_relaxed);
    self.job.take_part(index);
    self.ended.fetch_add(1, std::memory_order_release);
  }
};

void run_on_host(const Context& context, int threads, int64_t tasks, TaskFunction function, void* argument) {
  HostJob host;
  host.job.deal(threads, tasks, function, argument);
  context.parallel_for(threads, HostJob::chunk, &host, context.parallel_user);
  // Also what the host has not waited for may still read `host`.
  while (host.ended.load(std::memory_order_acquire) < host.started.load(std::memory_order_relaxed)) {
    std::this_thread::yield();
  }
  if (const std::exception_ptr error = host.job.take_error()) std::rethrow_exception(error);
  FASTDL_CHECK(host.ended.load(std::memory_order_relaxed) == threads, FASTDL_ERROR_INTERNAL,
               "the context's parallel_for has run %d chunks of %d",
               host.ended.load(std::memory_order_relaxed), threads);
}

}  // namespace

int default_num_threads() { return thread_setting().load(std::memory_order_relaxed); }
void set_default_num_threads(int n) { thread_setting().store(n, std::memory_order_relaxed); }

void run_tasks(const Context* context, int threads, int64_t tasks, TaskFunction function, void* argument) {
  if (tasks < threads) threads = static_cast<int>(tasks);
  if (!inside_task && threads > 1) {
    if (context && context->parallel_for) return run_on_host(*context, threads, tasks, function, argument);
    if (pool().run(threads, tasks, function, argument)) return;
  }
  for (int64_t task = 0; task < tasks; ++task) function(argument, task);
}

}  // namespace fastdl::cpu
