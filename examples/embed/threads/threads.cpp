// One thread pool for a whole program: fastdl's kernels run on the threads that the program has anyway.
//
//   threads [NUMBER]       says whether a product on the program's threads has the bits of one on a single
//   thread
#include <fastdl/fastdl.hpp>

#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace {

// The program's own pool. run(n, task) calls task(0) to task(n - 1), one of them at a time on each thread,
// the caller's included, and returns when all are done; from several threads at once if need be.
class Pool {
 public:
  explicit Pool(int threads) {
    for (int i = 1; i < threads; ++i) threads_.emplace_back([this] { work(); });
  }
  ~Pool() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  void run(int n, const std::function<void(int)>& task) {
    if (n <= 0) return;
    Job job{&task, n, 0, n};
    std::unique_lock<std::mutex> lock(mutex_);
    jobs_.push_back(&job);
    changed_.notify_all();
    while (job.next < job.count) step(job, lock);
    changed_.wait(lock, [&] { return job.left == 0; });
  }

  // What fastdl::Context calls.
  template <class Task>
  void operator()(int32_t chunks, const Task& task) {
    run(chunks, task);
  }

 private:
  struct Job {
    const std::function<void(int)>* task;
    int count, next, left;
  };

  void step(Job& job, std::unique_lock<std::mutex>& lock) {
    const int i = job.next++;
    if (job.next == job.count) {  // nothing left to hand out
      for (std::size_t k = 0; k < jobs_.size(); ++k) {
        if (jobs_[k] == &job) jobs_.erase(jobs_.begin() + static_cast<std::ptrdiff_t>(k));
      }
    }
    lock.unlock();
    (*job.task)(i);
    lock.lock();
    if (--job.left == 0) changed_.notify_all();
  }

  void work() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return stop_ || !jobs_.empty(); });
      if (stop_) return;
      step(*jobs_.back(), lock);
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Job*> jobs_;  // those with tasks to hand out
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

std::vector<float> product(fastdl_context* context, const std::vector<float>& x, int64_t n) {
  std::vector<float> y(x.size());
  fastdl::matmul(context, fastdl::Tensor(x.data(), {n, n}), fastdl::Tensor(x.data(), {n, n}), nullptr,
                 nullptr, fastdl::Tensor(y.data(), {n, n}), nullptr);
  return y;
}

}  // namespace

int main(int argc, char** argv) try {
  fastdl::version_check(FASTDL_VERSION);
  const int threads = argc > 1 ? std::atoi(argv[1]) : 4;
  const int64_t n = 300;
  std::vector<float> x(static_cast<std::size_t>(n * n));

  Pool pool(threads);
  pool.run(static_cast<int>(n), [&](int row) {  // the program's own work
    for (int64_t i = 0; i < n; ++i)
      x[static_cast<std::size_t>(row * n + i)] = static_cast<float>((row * i) % 17) / 8 - 1;
  });
  const fastdl::Context own(threads, pool), single(1);
  const bool same = product(own, x, n) == product(single, x, n);
  std::printf("%d threads of the program's: %s\n", threads, same ? "the same bits" : "other bits");
  return same ? 0 : 1;
} catch (const fastdl::Error& error) {
  std::fprintf(stderr, "threads: %s\n", error.what());
  return 1;
}
