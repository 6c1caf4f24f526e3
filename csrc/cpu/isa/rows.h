// Reductions over contiguous rows, shared by softmax and the losses. The order of a sum depends on n alone.
#pragma once

#include "vectors.h"

namespace fastdl::cpu::FASTDL_ISA {

// The first m lanes from memory, the others `fill`.
template <class S>
FASTDL_INLINE VecOf<S> load_or(const S* p, int m, VecOf<S> fill) {
  return select(Mask<compute_t<S>>::first(m), load(p, m), fill);
}

// The largest of sign * x[i]; NaN is ignored unless there is nothing else (the exponentials bring it back).
template <class S, class T = compute_t<S>>
FASTDL_INLINE T row_max(int64_t n, const S* x, Vec<T> sign) {
  constexpr int w = Vec<T>::width;
  const Vec<T> lowest = constant<T>(-__builtin_inf());
  Vec<T> a = lowest, b = lowest, c = lowest, d = lowest;
  int64_t i = 0;
  for (; i + 4 * w <= n; i += 4 * w) {
    a = max(load_as(x + i) * sign, a);
    b = max(load_as(x + i + w) * sign, b);
    c = max(load_as(x + i + 2 * w) * sign, c);
    d = max(load_as(x + i + 3 * w) * sign, d);
  }
  for (; i + w <= n; i += w) a = max(load_as(x + i) * sign, a);
  if (i < n) b = max(load_or(x + i, static_cast<int>(n - i), lowest * sign) * sign, b);
  return reduce_max(max(max(a, b), max(c, d)));
}

// sum of f(load(i, m)) over the row; f(i, m) returns a vector whose lanes from m on are zero.
template <class T, class F>
FASTDL_INLINE T row_sum(int64_t n, F&& f) {
  constexpr int w = Vec<T>::width;
  Vec<T> a = Vec<T>::zero(), b = a;
  int64_t i = 0;
  for (; i + 2 * w <= n; i += 2 * w) {
    a += f(i, w);
    b += f(i + w, w);
  }
  if (i + w <= n) {
    a += f(i, w);
    i += w;
  }
  if (i < n) b += f(i, static_cast<int>(n - i));
  return reduce_add(a + b);
}

}  // namespace fastdl::cpu::FASTDL_ISA
