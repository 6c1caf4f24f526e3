#include "fastdl/measure.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "common/error.h"
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

constexpr size_t kLargestCopy = size_t{1} << 40;
constexpr size_t kCopied = size_t{32} << 20;  // at least, per timed run: milliseconds
constexpr double kManyOperations = 1e9;       // per task, so that every thread joins in

}  // namespace
}  // namespace fastdl::cpu

using namespace fastdl;
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

fastdl_status fastdl_measure_peak_bfloat16(fastdl_context* context, double* gflops) {
  return guarded([&] {
    FASTDL_CHECK(gflops != nullptr, FASTDL_ERROR_VALUE, "measure_peak_bfloat16: gflops is NULL");
    const Bf16Kernels* kernel = kernels().gemm_bf16;
    *gflops = 0;
    if (!kernel) return;
    const int64_t tasks = int64_t{num_threads(context)} * 8, rounds = 2000;
    float sink = 0;
    const double operations =
        static_cast<double>(kernel->peak(1, &sink)) * static_cast<double>(rounds * tasks);
    const double seconds = best_time(10, [&] {
      parallel_for(context, tasks, kManyOperations, [&](int64_t) {
        float local = 0;
        kernel->peak(rounds, &local);
      });
    });
    *gflops = operations / seconds * 1e-9;
  });
}

fastdl_status fastdl_measure_copy(fastdl_context* context, size_t bytes, double* gbytes) {
  return guarded([&] {
    FASTDL_CHECK(gbytes != nullptr, FASTDL_ERROR_VALUE, "measure_copy: gbytes is NULL");
    FASTDL_CHECK(bytes > 0 && bytes <= kLargestCopy, FASTDL_ERROR_VALUE,
                 "measure_copy: expected 1 to %zu bytes, got %zu", kLargestCopy, bytes);
    // One part per thread, so that a part stays in its core's cache; long parts in chunks, which memcpy keeps
    // cached.
    const size_t parts = static_cast<size_t>(num_threads(context)), part = (bytes + parts - 1) / parts;
    const size_t chunk = std::min(part, size_t{1} << 20), rounds = std::max<size_t>(1, kCopied / bytes);
    const Workspace space(context, 2 * parts * part);
    char* const source = space.as<char>();
    char* const copy = source + parts * part;
    const auto task = [&](int64_t i) {
      const size_t begin = static_cast<size_t>(i) * part;
      for (size_t round = 0; round < rounds; ++round)
        for (size_t at = 0; at < part; at += chunk)
          std::memcpy(copy + begin + at, source + begin + at, std::min(chunk, part - at));
    };
    std::memset(source, 1, 2 * parts * part);
    const double seconds =
        best_time(8, [&] { parallel_for(context, static_cast<int64_t>(parts), kManyOperations, task); });
    *gbytes = 2.0 * static_cast<double>(parts * part * rounds) / seconds * 1e-9;
  });
}
}
