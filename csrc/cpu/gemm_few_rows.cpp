#include "cpu/gemm_few_rows.h"

#include "cpu/gemm_end.h"
#include "cpu/parallel.h"

namespace fastdl::cpu {
namespace {

constexpr int kMostRows = 4;
constexpr int64_t kDotCols = 64;
constexpr int64_t kGemvCached = 1 << 20;  // bytes of B for which strips, with one wait less, are as fast
// Of a part of K: sums of a task, tasks wanted, their least columns.
constexpr int64_t kPartSums = 4096, kPartTasks = 16, kPartCols = 256;
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

// A task takes some columns, all of K.
template <class T>
void gemv_strips(Context* context, const Gemm<T>& g) {
  const GemmKernelsOf<T>& kernel = gemm_kernels_of<T>(*kernels().gemm);
  parallel_ranges(context, g.n, gemv_strip(g.n), multiply_adds_cost(g.m, 8, g.k),
                  [&](int64_t begin, int64_t end) {
                    constexpr int64_t most = kMostRows * kGemvCols;
                    T acc[most];
                    const int64_t cols = end - begin;
                    sum_parts<most>(g.k, kChain, g.m * cols, acc, [&](int64_t k0, int64_t k, T* out) {
                      kernel.gemv(g.a + k0 * g.a_k, g.a_row, g.a_k, g.b + begin + k0 * g.b_k, g.b_k,
                                  static_cast<int>(g.m), cols, k, out);
                    });
                    finish_rows(kernel, g, begin, cols, acc, cols);
                  });
}

// A task adds up a part of K for as many columns as its sums fit the L1 cache: memory is read in long runs.
// The same bits as in strips.
template <class T>
void gemv_parts(Context* context, const Gemm<T>& g) {
  const GemmKernelsOf<T>& kernel = gemm_kernels_of<T>(*kernels().gemm);
  const int64_t length = even_part(g.k, kChain), parts = ceil_div(g.k, length), size = g.m * g.n;
  const int64_t cuts = std::max(ceil_div(size, kPartSums), ceil_div(kPartTasks, parts));
  const int64_t line = 64 / static_cast<int64_t>(sizeof(T));
  const int64_t width = std::max(round_up(ceil_div(g.n, cuts), line), kPartCols);
  const int64_t blocks = ceil_div(g.n, width);
  const Workspace space(context, static_cast<size_t>(parts * size) * sizeof(T));
  T* const sums = space.as<T>();
  const auto cols_of = [&](int64_t block) { return std::min(width, g.n - block * width); };
  parallel_for(context, parts * blocks, multiply_adds_cost(g.m, 8 * width, length), [&](int64_t task) {
    const int64_t part = task / blocks, block = task % blocks, begin = block * width, k0 = part * length;
    kernel.gemv(g.a + k0 * g.a_k, g.a_row, g.a_k, g.b + begin + k0 * g.b_k, g.b_k, static_cast<int>(g.m),
                cols_of(block), std::min(length, g.k - k0), sums + part * size + g.m * begin);
  });
  parallel_for(context, blocks, static_cast<double>(g.m * width * parts) / 4, [&](int64_t block) {
    const int64_t begin = block * width, cols = cols_of(block);
    T* const all = sums + g.m * begin;
    for (int64_t part = 1; part < parts; ++part) {
      for (int64_t i = 0; i < g.m * cols; ++i) all[i] += all[part * size + i];
    }
    finish_rows(kernel, g, begin, cols, all, cols);
  });
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
  if (g.k * g.n * static_cast<int64_t>(sizeof(T)) > kGemvCached) gemv_parts(context, g);
  else gemv_strips(context, g);
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
