// Matrix multiplication in float32 and float64: which way to do a product, and batches of them.
#include "cpu/gemm.h"

#include <algorithm>
#include <type_traits>

#include "cpu/gemm_batch.h"
#include "cpu/gemm_end.h"
#include "cpu/gemm_few_rows.h"
#include "cpu/gemm_loops.h"
#include "cpu/gemm_split.h"
#include "cpu/kernels.h"
#include "cpu/parallel.h"

namespace fastdl::cpu {
namespace {

// A small C with a long sum (gradients of weights): K is cut into parts of a fixed length whose sums are
// added in order. More columns make strips enough for all threads, which read B faster.
constexpr int64_t kSplitK = 2048;
constexpr int64_t kSmallC = 65536;  // the partial sums of a task stay in the L2 cache
constexpr int64_t kSplitCols = 512;

template <class T>
bool splits_k(const Gemm<T>& g) {
  return g.k >= 2 * kSplitK && g.m > 1 && g.n <= kSplitCols && g.m * g.n <= kSmallC;
}

// float32 products made of bfloat16 ones, where that is faster.
template <class T>
bool gemm_in_parts(Context* context, const Gemm<T>& g) {
  if constexpr (std::is_same_v<T, float>) {
    if (split_pays(context, g)) {
      gemm_split(context, g);
      return true;
    }
  }
  return false;
}

template <class T>
void gemm_split_k(Context* context, const GemmKernelsOf<T>& kernel, const Gemm<T>& g) {
  const int64_t parts = g.k / kSplitK, size = g.m * g.n;
  Workspace space(context, static_cast<size_t>(parts * size) * sizeof(T));
  T* const sums = space.as<T>();
  parallel_for(context, parts, multiply_adds_cost(g.m, g.n, kSplitK), [&](int64_t p) {
    const int64_t begin = p * kSplitK, end = p + 1 == parts ? g.k : begin + kSplitK;
    Gemm<T> part{g.m,
                 g.n,
                 end - begin,
                 g.a + begin * g.a_k,
                 g.a_row,
                 g.a_k,
                 g.b + begin * g.b_k,
                 g.b_k,
                 g.b_n,
                 sums + p * size,
                 g.n};
    if (!gemm_in_parts(context, part)) gemm_in_tiles(context, part);
  });
  for (int64_t p = 1; p < parts; ++p) {
    for (int64_t i = 0; i < size; ++i) sums[i] += sums[p * size + i];
  }
  finish_rows(kernel, g, 0, g.n, sums, g.n);
}

}  // namespace

template <class T>
void gemm(Context* context, const Gemm<T>& g) {
  if (g.m == 0 || g.n == 0) return;
  const GemmKernelsOf<T>& kernel = gemm_kernels_of<T>(*kernels().gemm);
  if (!g.packed_b && g.k > 0) {
    if (g.m <= kernel.dot_rows && g.a_k == 1 && g.b_k == 1) return gemm_dot(context, g);
    if (g.n == 1 && g.m > 1) return gemm_column(context, g);
    if (splits_k(g)) return gemm_split_k(context, kernel, g);
    if (g.m <= kernel.gemv_rows && g.b_n == 1) return gemm_gemv(context, g);
  }
  if (gemm_in_parts(context, g)) return;
  const GemmJob<T> job(kernel, g);
  if (multiply_adds_cost(g.m, g.n, g.k) <= kSerialCost) {  // one block: nothing to cut
    return compute_block(context, job, GemmBlock{0, 0, g.m, g.n});
  }
  if (few_enough_rows(job)) return gemm_strips(context, job);
  gemm_blocked(context, job);
}

template <class T>
void gemm_in_tiles(Context* context, const Gemm<T>& g) {
  compute_block(context, GemmJob<T>(gemm_kernels_of<T>(*kernels().gemm), g), GemmBlock{0, 0, g.m, g.n});
}

// For `count` products with one B: the size of its parts if they should be made once for all, else 0.
template <class T>
int64_t shared_split_bytes(const Context* context, const Gemm<T>& g, int64_t count) {
  if constexpr (std::is_same_v<T, float>) {
    Gemm<float> all = g, one = g;
    all.m *= count;
    one.split_b = g.b;  // as if they were there
    if (!g.packed_b && split_pays(context, all) && split_pays(context, one)) return split_b_bytes(g.k, g.n);
  }
  return 0;
}

template <class T>
void gemm_batched(Context* context, const Gemm<T>& g, const GemmBatch& batch) {
  if (batch.count == 0 || g.m == 0 || g.n == 0) return;
  Gemm<T> base = g;
  // One B for all items: worth packing once if the items would each pack it.
  const bool one_b = batch.b == 0 && batch.count > 1;
  const int64_t parts = one_b ? shared_split_bytes(context, g, batch.count) : 0;
  const Workspace parts_space(context, static_cast<size_t>(parts));
  if constexpr (std::is_same_v<T, float>) {
    if (parts) {
      split_b(context, g.b, g.b_k, g.b_n, g.k, g.n, parts_space.as<void>());
      base.split_b = parts_space.as<void>();
    }
  }
  const bool share = one_b && !parts && !g.packed_b && g.b_n != 1 && g.m > 4 && g.n > 1 && !splits_k(g);
  Workspace space(context, share ? static_cast<size_t>(packed_b_size<T>(g.k, g.n)) * sizeof(T) : 0);
  if (share) {
    pack_b(context, g.b, g.b_k, g.b_n, g.k, g.n, space.as<T>());
    base.packed_b = space.as<T>();
  }
  gemm_items(context, base, batch, multiply_adds_cost(g.m, g.n, g.k));
}

template <class T>
int64_t packed_b_size(int64_t k, int64_t n) {
  const int64_t nr = gemm_kernels_of<T>(*kernels().gemm).nr;
  return ceil_div(n, nr) * nr * k;
}

template <class T>
void pack_b(Context* context, const T* b, int64_t b_k, int64_t b_n, int64_t k, int64_t n, T* out) {
  const GemmKernelsOf<T>& kernel = gemm_kernels_of<T>(*kernels().gemm);
  Gemm<T> g{0, n, k, nullptr, 0, 0, b, b_k, b_n, nullptr, 0};
  pack_panels(context, kernel, g, 0, ceil_div(n, kernel.nr), out);
}

#define FASTDL_INSTANTIATE(T)                                                \
  template void gemm<T>(Context*, const Gemm<T>&);                           \
  template void gemm_in_tiles<T>(Context*, const Gemm<T>&);                  \
  template void gemm_batched<T>(Context*, const Gemm<T>&, const GemmBatch&); \
  template int64_t packed_b_size<T>(int64_t, int64_t);                       \
  template void pack_b<T>(Context*, const T*, int64_t, int64_t, int64_t, int64_t, T*);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl::cpu
