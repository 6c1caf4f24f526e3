// Loops over contiguous elements, a vector at a time, for the families that do little per element. S is the
// type elements are stored in; they are computed with as compute_t<S>.
#pragma once

#include "narrow.h"
#include "vecmath.h"

namespace fastdl::cpu::FASTDL_ISA {

template <class S>
using VecOf = Vec<compute_t<S>>;

// m lanes of memory, 0 to all; the others are zero. Whole vectors avoid the masked forms.
template <class S>
FASTDL_INLINE VecOf<S> load(const S* p, int m) {
  return m == VecOf<S>::width ? load_as(p) : load_as(p, m);
}
template <class S>
FASTDL_INLINE void store(VecOf<S> v, S* p, int m) {
  if (m == VecOf<S>::width) store_as(v, p);
  else store_as(v, p, m);
}

// Zero in the lanes from m on.
template <class T>
FASTDL_INLINE Vec<T> first_lanes(Vec<T> v, int m) {
  return m == Vec<T>::width ? v : select(Mask<T>::first(m), v, Vec<T>::zero());
}

// f(i, m) for vectors of m lanes starting at element i: m is the width but for the last.
template <class S, class F>
FASTDL_INLINE void for_vectors(int64_t n, F&& f) {
  constexpr int w = VecOf<S>::width;
  int64_t i = 0;
  for (; i + w <= n; i += w) f(i, w);
  if (i < n) f(i, static_cast<int>(n - i));
}

// f(i, m) for vectors of m lanes, the first cut short so that the others are aligned in p: NumPy aligns
// arrays to 16 bytes, and every vector would cross a cache line otherwise. Two<S> vectors at a time where
// elements are narrow: two(i) for those.
template <class S, class F, class G>
FASTDL_INLINE void for_aligned(int64_t n, const S* p, F&& f, G&& two) {
  constexpr int w = VecOf<S>::width;
  int64_t i = 0;
  if (n >= 4 * w) {
    i = static_cast<int64_t>((0 - reinterpret_cast<uintptr_t>(p)) / sizeof(S) % w);
    if (i) f(0, static_cast<int>(i));
  }
  if constexpr (sizeof(S) == 2) {
    for (; i + 2 * w <= n; i += 2 * w) two(i);
  }
  for (; i + w <= n; i += w) f(i, w);
  if (i < n) f(i, static_cast<int>(n - i));
}
template <class S, class F>
FASTDL_INLINE void for_aligned(int64_t n, const S* p, F&& f) {
  for_aligned(n, p, f, [&](int64_t i) FASTDL_FORCE_INLINE {
    f(i, VecOf<S>::width);
    f(i + VecOf<S>::width, VecOf<S>::width);
  });
}

// y[i] = f(x[i] ...)
template <class S, class F, class... X>
FASTDL_INLINE void map(int64_t n, S* y, F&& f, const X*... x) {
  const auto one = [&](int64_t i, int m) FASTDL_FORCE_INLINE { store(f(load(x + i, m)...), y + i, m); };
  for_aligned(n, y, one, [&](int64_t i) FASTDL_FORCE_INLINE {
    const auto both = [&](auto... t) FASTDL_FORCE_INLINE { store_two({f(t.a...), f(t.b...)}, y + i); };
    both(load_two(x + i)...);
  });
}

// Groups of kBlock vectors that stay in registers while something else is looped over: a cache line or more
// of each row, and independent sums.
constexpr int kBlock = 4;
template <int B>
struct Blocks {
  static constexpr int value = B;
};

// f(i, Blocks<number of vectors>, lanes of the last) for such groups starting at element i, and then for the
// single vectors that remain.
template <class S, class F>
FASTDL_INLINE void for_blocks(int64_t n, F&& f) {
  constexpr int w = VecOf<S>::width;
  int64_t i = 0;
  for (; i + kBlock * w <= n; i += kBlock * w) f(i, Blocks<kBlock>{}, w);
  for (; i < n; i += w) f(i, Blocks<1>{}, n - i < w ? static_cast<int>(n - i) : w);
}

}  // namespace fastdl::cpu::FASTDL_ISA
