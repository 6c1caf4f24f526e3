// Pooling over contiguous channels. Plain loops over independent channels: compilers vectorise them for each
// ISA.
#include "cpu/isa/pool.h"

#include "cpu/isa/simd.h"

namespace fastdl::cpu::FASTDL_ISA {
namespace {

template <class T>
void max_first(int64_t n, const T* __restrict x, int32_t position, T* __restrict best,
               int32_t* __restrict where) {
  for (int64_t c = 0; c < n; ++c) {
    best[c] = x[c];
    where[c] = position;
  }
}

template <class T>
void max_next(int64_t n, const T* __restrict x, int32_t position, T* __restrict best,
              int32_t* __restrict where) {
  for (int64_t c = 0; c < n; ++c) {
    const T v = x[c], b = best[c];
    const bool take = v > b || v != v;  // a NaN stays: nothing compares larger
    best[c] = take ? v : b;
    where[c] = take ? position : where[c];
  }
}

template <class T, class Reduce, class Finish>
FASTDL_INLINE void reduce_taps(int64_t n, int64_t taps, const T* const* x, T* out, Reduce reduce,
                               Finish finish) {
  using V = Vec<T>;
  int64_t c = 0;
  for (; c + V::width <= n; c += V::width) {
    V v = V::load(x[0] + c);
    for (int64_t t = 1; t < taps; ++t) v = reduce(v, V::load(x[t] + c));
    finish(v).store(out + c);
  }
  if (c < n) {
    const int rest = static_cast<int>(n - c);
    V v = V::load(x[0] + c, rest);
    for (int64_t t = 1; t < taps; ++t) v = reduce(v, V::load(x[t] + c, rest));
    finish(v).store(out + c, rest);
  }
}

template <class T>
void max_of(int64_t n, int64_t taps, const T* const* x, T* out) {
  using V = Vec<T>;
  reduce_taps(n, taps, x, out, [](V a, V b) { return max_nan(a, b); }, [](V v) { return v; });
}

template <class T>
void sum_of(int64_t n, int64_t taps, const T* const* x, T scale, T* out) {
  using V = Vec<T>;
  const V s = V::broadcast(scale);
  reduce_taps(n, taps, x, out, [](V a, V b) { return a + b; }, [s](V v) { return v * s; });
}

template <class T>
void max_scatter(int64_t n, const T* __restrict dy, const int32_t* __restrict where, int32_t position,
                 T* __restrict dx) {
  for (int64_t c = 0; c < n; ++c) dx[c] += where[c] == position ? dy[c] : T(0);
}

template <class T>
void add_scaled(int64_t n, const T* __restrict dy, T scale, T* __restrict dx) {
  for (int64_t c = 0; c < n; ++c) dx[c] += scale * dy[c];
}

template <class T>
constexpr PoolTable<T> table_of() {
  return {max_first<T>, max_next<T>, max_of<T>, max_scatter<T>, sum_of<T>, add_scaled<T>};
}

}  // namespace

extern const PoolKernels pool_kernels;
const PoolKernels pool_kernels = {table_of<float>(), table_of<double>()};

}  // namespace fastdl::cpu::FASTDL_ISA
