#include "fastdl/measure.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "cpu/error.h"
#include "cpu/kernels.h"
#include "cpu/parallel.h"

namespace fastdl::cpu {
namespace {

// The best of `repeats` runs in seconds: whatever else runs on the machine can only slow a run down.
template <class Body>
double best_time(int repeats, Body&& body) {
  using Clock = std::chrono::steady_clock;
  double best = 1e30;
  for (int i = 0; i < repeats; ++i) {
    const auto start = Clock::now();
    body();
    best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
  }
  return best;
}

constexpr double kManyOperations = 1e9;  // per task, so that every thread joins in

}  // namespace
}  // namespace fastdl::cpu

using namespace fastdl::cpu;

extern "C" {

fastdl_status fastdl_measure_peak(fastdl_context* context, double* gflops) {
  return guarded([&] {
    FASTDL_CHECK(gflops != nullptr, FASTDL_ERROR_VALUE, "measure_peak: gflops is NULL");
    const GemmKernels& kernel = *kernels().gemm;
    const int64_t tasks = int64_t{num_threads(context)} * 8, rounds = 2000;
    float sink = 0;
    const double operations =
        static_cast<double>(kernel.fma_peak(1, &sink)) * static_cast<double>(rounds * tasks);
    const double seconds = best_time(10, [&] {
      parallel_for(context, tasks, kManyOperations, [&](int64_t) {
        float local = 0;
        kernel.fma_peak(rounds, &local);
      });
    });
    *gflops = operations / seconds * 1e-9;
  });
}

fastdl_status fastdl_measure_copy(fastdl_context* context, double* gbytes) {
  return guarded([&] {
    FASTDL_CHECK(gbytes != nullptr, FASTDL_ERROR_VALUE, "measure_copy: gbytes is NULL");
    constexpr size_t kBytes = size_t{64} << 20, kChunk = size_t{1} << 20;
    const Workspace space(context, 2 * kBytes);
    char* const p = space.as<char>();
    std::memset(p, 1, 2 * kBytes);
    const double seconds = best_time(8, [&] {
      parallel_for(context, kBytes / kChunk, kManyOperations, [&](int64_t i) {
        std::memcpy(p + kBytes + static_cast<size_t>(i) * kChunk, p + static_cast<size_t>(i) * kChunk,
                    kChunk);
      });
    });
    *gbytes = 2.0 * static_cast<double>(kBytes) / seconds * 1e-9;
  });
}
}
