// Pooling over contiguous channels. Plain loops over independent channels: compilers vectorise them for each
// ISA.
#include "cpu/isa/pool.h"

#include "cpu/isa/vectors.h"

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

// Positions travel through vectors of T; compilers vectorise the conversions.
template <class T>
FASTDL_INLINE void store_positions(Vec<T> v, int32_t* to, int lanes) {
  T values[Vec<T>::width];
  v.store(values);
  for (int i = 0; i < lanes; ++i) to[i] = static_cast<int32_t>(values[i]);
}
template <class T>
FASTDL_INLINE Vec<T> load_positions(const int32_t* from, int lanes) {
  T values[Vec<T>::width] = {};
  for (int i = 0; i < lanes; ++i) values[i] = static_cast<T>(from[i]);
  return Vec<T>::load(values);
}

template <class T>
void max_row(const PoolRow& row, const T* x, T* best, int32_t* where) {
  using V = Vec<T>;
  for (int64_t o = 0; o < row.outputs; ++o, best += row.channels, where += row.channels) {
    for_vectors<T>(row.channels, [&](int64_t c, int lanes) {
      V top, at;
      for (int64_t t = 0; t < row.taps; ++t) {
        const int64_t position = row.positions[t] + o * row.step;
        const V v = load(x + position * row.channels + c, lanes);
        const V here = V::broadcast(static_cast<T>(position));
        if (t == 0) {
          top = v;
          at = here;
          continue;
        }
        const Mask<T> take = (v > top) | (v != v);  // a NaN stays: nothing compares larger
        top = select(take, v, top);
        at = select(take, here, at);
      }
      store(top, best + c, lanes);
      store_positions(at, where + c, lanes);
    });
  }
}

template <class T>
void max_scatter_row(const PoolRow& row, int64_t n, const T* dy, const int32_t* where, T* dx) {
  using V = Vec<T>;
  for (int64_t o = 0; o < row.outputs; ++o, dy += row.channels, where += row.channels) {
    for_vectors<T>(n, [&](int64_t c, int lanes) {
      const V g = load(dy + c, lanes), at = load_positions<T>(where + c, lanes);
      for (int64_t t = 0; t < row.taps; ++t) {
        const int64_t position = row.positions[t] + o * row.step;
        T* to = dx + position * row.channels + c;
        const Mask<T> hit = at == V::broadcast(static_cast<T>(position));
        store(load(to, lanes) + select(hit, g, V::zero()), to, lanes);
      }
    });
  }
}

template <class T, class Reduce, class Finish>
FASTDL_INLINE void reduce_taps(int64_t n, int64_t taps, const T* const* x, T* out, Reduce reduce,
                               Finish finish) {
  for_vectors<T>(n, [&](int64_t c, int m) FASTDL_FORCE_INLINE {
    Vec<T> v = load(x[0] + c, m);
    for (int64_t t = 1; t < taps; ++t) v = reduce(v, load(x[t] + c, m));
    store(finish(v), out + c, m);
  });
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
  return {max_row<T>, max_scatter_row<T>, max_first<T>, max_next<T>,
          max_of<T>,  max_scatter<T>,     sum_of<T>,    add_scaled<T>};
}

}  // namespace

extern const PoolKernels pool_kernels;
const PoolKernels pool_kernels = {table_of<float>(), table_of<double>()};

}  // namespace fastdl::cpu::FASTDL_ISA
