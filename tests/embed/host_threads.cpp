// Every family on the host's own threads: the bits are those of one thread, whatever the host's pool does.
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <thread>

#include "problems.h"

namespace {

// Threads that wait for work, as a host may have them.
class Pool {
 public:
  explicit Pool(int threads) {
    for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
  }
  ~Pool() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    for (std::thread& t : threads_) t.join();
  }
  template <class Task>
  void operator()(int32_t chunks, const Task& task) {
    const std::lock_guard<std::mutex> one_at_a_time(callers_);
    ++calls;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      task_ = task;
      chunks_ = left_ = chunks;
      next_ = 0;
    }
    changed_.notify_all();
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return left_ == 0; });
  }
  std::atomic<int> calls{0};

 private:
  void work() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return stop_ || next_ < chunks_; });
      if (stop_) return;
      const int32_t chunk = next_++;
      const std::function<void(int32_t)> task = task_;
      lock.unlock();
      task(chunk);
      lock.lock();
      if (--left_ == 0) done_.notify_one();
    }
  }
  std::mutex mutex_, callers_;
  std::condition_variable changed_, done_;
  std::function<void(int32_t)> task_;
  int32_t chunks_ = 0, next_ = 0, left_ = 0;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

struct Backwards {  // one after the other on the calling thread, the last one first
  int calls = 0, most = 0, least = 1 << 20;
  template <class Task>
  void operator()(int32_t chunks, const Task& task) {
    ++calls;
    if (chunks > most) most = chunks;
    if (chunks < least) least = chunks;
    for (int32_t i = chunks; i-- > 0;) task(i);
  }
};

struct NewThreads {  // a thread for each chunk
  template <class Task>
  void operator()(int32_t chunks, const Task& task) {
    std::vector<std::thread> threads;
    for (int32_t i = 0; i < chunks; ++i) threads.emplace_back([&, i] { task(i); });
    for (std::thread& t : threads) t.join();
  }
};

int failures = 0;

struct Forgetful {  // against the rules: the last chunk is never run
  template <class Task>
  void operator()(int32_t chunks, const Task& task) {
    for (int32_t i = 0; i + 1 < chunks; ++i) task(i);
  }
};

struct Miscounting {  // against the rules: chunks are counted from 1
  template <class Task>
  void operator()(int32_t chunks, const Task& task) {
    for (int32_t i = 1; i <= chunks; ++i) task(i);
  }
};

// What is said when a host's pool does not do its part.
template <class Pool>
void refused() {
  Pool pool;
  const fastdl::Context broken(4, pool);
  try {
    matrix_products(broken);
    std::printf("a chunk that was not run went unnoticed\n"), ++failures;
  } catch (const fastdl::Error& e) {
    std::printf("%d: %s\n", e.status(), e.what());
  }
}

struct Reentrant {  // the host waits by doing something else, with fastdl too
  fastdl_context* inner;
  Bytes seen;
  template <class Task>
  void operator()(int32_t chunks, const Task& task) {
    task(0);
    if (seen.empty()) {
      seen.push_back(0);
      seen = rows_and_losses(inner);
    }
    for (int32_t i = 1; i < chunks; ++i) task(i);
  }
};

void compare(const std::string& what, const Bytes& got, const Bytes& expected) {
  if (got == expected) return;
  std::printf("%s: other bits than on one thread\n", what.c_str());
  ++failures;
}

}  // namespace

int main() {
  fastdl::version_check(FASTDL_VERSION);
  Pool pool(3);
  Backwards backwards;
  NewThreads fresh;
  const fastdl::Context one(1), own(4), pooled(4, pool), serial(5, backwards), created(3, fresh);
  for (const Problem& problem : problems()) {
    const Bytes expected = problem.run(one);
    const int before = pool.calls;
    compare(problem.name + " on fastdl's threads", problem.run(own), expected);
    if (pool.calls != before)
      std::printf("%s: another context's pool was called\n", problem.name.c_str()), ++failures;
    compare(problem.name + " on a pool", problem.run(pooled), expected);
    if (pool.calls == before) std::printf("%s: the pool was not called\n", problem.name.c_str()), ++failures;
    compare(problem.name + " one chunk after the other", problem.run(serial), expected);
    compare(problem.name + " on new threads", problem.run(created), expected);
  }
  if (backwards.least < 2 || backwards.most > 5) {
    std::printf("from %d to %d chunks for 5 threads\n", backwards.least, backwards.most);
    ++failures;
  }

  Reentrant reentrant{pooled, {}};
  const fastdl::Context outer(4, reentrant);
  compare("a call while another waits", matrix_products(outer), matrix_products(one));
  compare("the call inside", reentrant.seen, rows_and_losses(one));

  // Several threads in one pool at once.
  std::vector<std::thread> threads;
  const Bytes expected = attention(one);
  std::vector<Bytes> results(3);
  for (Bytes& result : results) threads.emplace_back([&] { result = attention(pooled); });
  for (std::thread& t : threads) t.join();
  for (const Bytes& result : results) compare("attention from several threads", result, expected);

  refused<Forgetful>();
  refused<Miscounting>();
  return failures ? 1 : 0;
}
