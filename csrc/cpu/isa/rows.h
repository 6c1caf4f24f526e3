// Reductions over contiguous rows, shared by softmax and the losses. The order of a sum depends on n alone.
#pragma once

#include "vectors.h"

namespace fastdl::cpu::FASTDL_ISA {

// two(i) for the pairs of vectors of a row, starting at element i, and one(i, m) for the vectors that remain,
// of m lanes. In a pair of 16-bit vectors the order of elements is that of load_two.
template <class S, class F, class G>
FASTDL_INLINE void for_twos(int64_t n, F&& two, G&& one) {
  constexpr int w = VecOf<S>::width;
  int64_t i = 0;
  for (; i + 2 * w <= n; i += 2 * w) two(i);
  if (i + w <= n) {
    one(i, w);
    i += w;
  }
  if (i < n) one(i, static_cast<int>(n - i));
}

// The first m lanes from memory, the others `fill`.
template <class S>
FASTDL_INLINE VecOf<S> load_or(const S* p, int m, VecOf<S> fill) {
  return select(Mask<compute_t<S>>::first(m), load(p, m), fill);
}

// The largest of f(x[i]), where f(-inf) is the least; NaN is ignored unless there is nothing else (the
// exponentials bring it back).
template <class S, class F, class T = compute_t<S>>
FASTDL_INLINE T row_max(int64_t n, const S* x, F&& f) {
  constexpr int w = Vec<T>::width;
  const Vec<T> lowest = constant<T>(-__builtin_inf());
  Vec<T> a = lowest, b = lowest, c = lowest, d = lowest;
  int64_t i = 0;
  for (; i + 4 * w <= n; i += 4 * w) {
    const Two<T> p = load_two(x + i), q = load_two(x + i + 2 * w);
    a = max(f(p.a), a);
    b = max(f(p.b), b);
    c = max(f(q.a), c);
    d = max(f(q.b), d);
  }
  for (; i + w <= n; i += w) a = max(f(load_as(x + i)), a);
  if (i < n)
    b = max(select(Mask<T>::first(static_cast<int>(n - i)), f(load(x + i, static_cast<int>(n - i))), lowest),
            b);
  return reduce_max(max(max(a, b), max(c, d)));
}

// sum of f(load(i, m)) over the row; f(i, m) returns a vector whose lanes from m on are zero.
template <class T, class F>
FASTDL_INLINE T row_sum(int64_t n, F&& f) {
  constexpr int w = Vec<T>::width;
  Vec<T> a = Vec<T>::zero(), b = a;
  for_twos<T>(
      n,
      [&](int64_t i) FASTDL_FORCE_INLINE {
        a += f(i, w);
        b += f(i + w, w);
      },
      [&](int64_t i, int m) FASTDL_FORCE_INLINE { (m == w ? a : b) += f(i, m); });
  return reduce_add(a + b);
}

// sum of f(x[i] ...)
template <class F, class S, class... X>
FASTDL_INLINE compute_t<S> row_sum_of(int64_t n, F&& f, const S* x, const X*... others) {
  using T = compute_t<S>;
  Vec<T> a = Vec<T>::zero(), b = a;
  const auto add = [&](auto... t) FASTDL_FORCE_INLINE {
    a += f(t.a...);
    b += f(t.b...);
  };
  for_twos<S>(
      n, [&](int64_t i) FASTDL_FORCE_INLINE { add(load_two(x + i), load_two(others + i)...); },
      [&](int64_t i, int m) FASTDL_FORCE_INLINE {
        (m == Vec<T>::width ? a : b) += first_lanes(f(load(x + i, m), load(others + i, m)...), m);
      });
  return reduce_add(a + b);
}

// Where the exponentials of a row wait for their sum: in the output, unless that would round them.
template <class S, class T = compute_t<S>>
FASTDL_INLINE T* exponentials_in(S* y, T* scratch) {
  if constexpr (sizeof(S) == sizeof(T)) return y;
  else return y ? scratch : nullptr;
}

// e[j] = exp(f(x[i])), each pair of vectors in the order of load_two, and their sum.
template <class F, class S, class T = compute_t<S>>
FASTDL_INLINE T row_exponentials(int64_t n, const S* x, T* e, F&& f) {
  constexpr int w = Vec<T>::width;
  Vec<T> a = Vec<T>::zero(), b = a;
  for_twos<S>(
      n,
      [&](int64_t i) FASTDL_FORCE_INLINE {
        const Two<T> t = load_two(x + i);
        const Vec<T> p = exp_bounded(f(t.a)), q = exp_bounded(f(t.b));
        store_as(p, e + i);
        store_as(q, e + i + w);
        a += p;
        b += q;
      },
      [&](int64_t i, int m) FASTDL_FORCE_INLINE {
        const Vec<T> p = first_lanes(exp_bounded(f(load(x + i, m))), m);
        store(p, e + i, m);
        (m == w ? a : b) += p;
      });
  return reduce_add(a + b);
}

// y[i] = f(e[j]) for such exponentials.
template <class F, class S, class T = compute_t<S>>
FASTDL_INLINE void map_exponentials(int64_t n, const T* e, S* y, F&& f) {
  for_twos<S>(
      n,
      [&](int64_t i)
          FASTDL_FORCE_INLINE { store_two({f(load_as(e + i)), f(load_as(e + i + Vec<T>::width))}, y + i); },
      [&](int64_t i, int m) FASTDL_FORCE_INLINE { store(f(load(e + i, m)), y + i, m); });
}

}  // namespace fastdl::cpu::FASTDL_ISA
