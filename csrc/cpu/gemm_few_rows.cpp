#include "cpu/gemm_few_rows.h"

#include "cpu/gemm_end.h"
#include "cpu/parallel.h"

namespace fastdl::cpu {
namespace {

constexpr int kMostRows = 4;
constexpr int64_t kDotCols = 64;
// Sums of 4 rows of as many columns fit the L1 cache; fewer where there would be too few tasks.
constexpr int64_t kGemvCols = 1024, kGemvLeastCols = 128, kGemvTasks = 8;
// A dot product has a chain per lane of several vectors.
constexpr int64_t kDotPart = 4096;

// acc[0, size) = the sum over parts of K of what part(begin, length, out) makes.
template <int64_t Most, class T, class Part>
void sum_parts(int64_t k, int64_t longest, int64_t size, T* acc, Part&& part) {
  T more[Most];
  const int64_t length = even_part(k, longest);
  for (int64_t begin = 0; begin < k; begin += length) {
    part(begin, std::min(length, k - begin), begin ? more : acc);
    for (int64_t i = 0; begin && i < size; ++i) acc[i] += more[i];
  }
}

}  // namespace

template <class T>
void gemm_dot(Context* context, const Gemm<T>& g) {
  const GemmKernelsOf<T>& kernel = gemm_kernels_of<T>(*kernels().gemm);
  parallel_ranges(context, g.n, kDotCols, multiply_adds_cost(g.m, 8, g.k), [&](int64_t begin, int64_t end) {
    constexpr int64_t most = kMostRows * kDotCols;
    T acc[most];
    const int64_t cols = end - begin;
    sum_parts<most>(g.k, kDotPart, g.m * cols, acc, [&](int64_t k0, int64_t k, T* out) {
      kernel.dot(g.a + k0, g.a_row, g.b + begin * g.b_n + k0, g.b_n, static_cast<int>(g.m), cols, k, out);
    });
    finish_rows(kernel, g, begin, cols, acc, cols);
  });
}

template <class T>
void gemm_gemv(Context* context, const Gemm<T>& g) {
  const GemmKernelsOf<T>& kernel = gemm_kernels_of<T>(*kernels().gemm);
  const int64_t strip = std::clamp(round_up(g.n / kGemvTasks, 64), kGemvLeastCols, kGemvCols);
  parallel_ranges(context, g.n, strip, multiply_adds_cost(g.m, 8, g.k), [&](int64_t begin, int64_t end) {
    constexpr int64_t most = kMostRows * kGemvCols;
    T acc[most];
    const int64_t cols = end - begin;
    sum_parts<most>(g.k, kChain, g.m * cols, acc, [&](int64_t k0, int64_t k, T* out) {
      kernel.gemv(g.a + k0 * g.a_k, g.a_row, g.a_k, g.b + begin + k0 * g.b_k, g.b_k, static_cast<int>(g.m),
                  cols, k, out);
    });
    finish_rows(kernel, g, begin, cols, acc, cols);
  });
}

// The transposed problem has one row. A per-column bias has no place there, so the sums go through scratch.
template <class T>
void gemm_column(Context* context, const Gemm<T>& g) {
  const Workspace sums(context, static_cast<size_t>(g.m) * sizeof(T));
  const Gemm<T> t{1, g.m, g.k, g.b, 0, g.b_k, g.a, g.a_k, g.a_row, sums.as<T>(), g.m};
  gemm(context, t);
  finish_rows(gemm_kernels_of<T>(*kernels().gemm), g, 0, 1, sums.as<T>(), 1);
}

#define FASTDL_INSTANTIATE(T)                           \
  template void gemm_dot<T>(Context*, const Gemm<T>&);  \
  template void gemm_gemv<T>(Context*, const Gemm<T>&); \
  template void gemm_column<T>(Context*, const Gemm<T>&);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl::cpu
