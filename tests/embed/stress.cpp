// Many threads at once: every family in one context, in contexts of their own and in the default one, beside
// threads that change settings and provoke errors. The bits are those of one thread; ThreadSanitizer can
// watch.
//
//   stress [THREADS [ROUNDS]]
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "problems.h"

namespace {

std::atomic<int> failures{0};

void fail(const char* what, const std::string& which) {
  std::printf("%s: %s\n", which.c_str(), what);
  ++failures;
}

// A thread's errors are its own.
void provoke_errors(int thread) {
  float x[6] = {};
  try {
    fastdl::softmax_forward(nullptr, fastdl::Tensor(x, {2, 3}), fastdl::Tensor(x, {2, 3}), 10 + thread,
                            FASTDL_SOFTMAX);
    fail("no error", "softmax");
  } catch (const fastdl::Error& e) {
    if (std::string(e.what()).find("dim " + std::to_string(10 + thread) + " ") == std::string::npos) {
      fail(e.what(), "another thread's message");
    }
  }
}

void change_settings(const std::atomic<bool>& stop) {
  for (int i = 0; !stop; ++i) {
    fastdl::set_num_threads(1 + i % 5);
    const fastdl::Context context(1 + i % 3);
    if (fastdl_get_num_threads() < 1) fail("out of range", "get_num_threads");
    std::this_thread::yield();
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int count = argc > 1 ? std::atoi(argv[1]) : 6, rounds = argc > 2 ? std::atoi(argv[2]) : 3;
  const std::vector<Problem> all = problems();
  const fastdl::Context one(1), shared(3);
  std::vector<Bytes> expected;
  for (const Problem& problem : all) expected.push_back(problem.run(one));

  std::atomic<bool> stop{false};
  std::thread settings([&] { change_settings(stop); });
  std::vector<std::thread> threads;
  for (int t = 0; t < count; ++t) {
    threads.emplace_back([&, t] {
      const fastdl::Context own(2 + t % 3);
      fastdl_context* const contexts[] = {shared, own, nullptr};
      for (std::size_t i = 0; i < all.size() * static_cast<std::size_t>(rounds); ++i) {
        // Two neighbours begin with the same family, two others with another.
        const std::size_t k = (i + static_cast<std::size_t>(t / 2)) % all.size();
        if (all[k].run(contexts[(i + static_cast<std::size_t>(t)) % 3]) != expected[k]) {
          fail("other bits than on one thread", all[k].name);
        }
        provoke_errors(t);
      }
    });
  }
  for (std::thread& t : threads) t.join();
  stop = true;
  settings.join();
  return failures ? 1 : 0;
}
