// Loops over contiguous elements, a vector at a time, for the families that do little per element.
#pragma once

#include "vecmath.h"

namespace fastdl::cpu::FASTDL_ISA {

// m lanes of memory, 0 to all; the others are zero. Whole vectors avoid the masked forms.
template <class T>
FASTDL_INLINE Vec<T> load(const T* p, int m) {
  return m == Vec<T>::width ? Vec<T>::load(p) : Vec<T>::load(p, m);
}
template <class T>
FASTDL_INLINE void store(Vec<T> v, T* p, int m) {
  if (m == Vec<T>::width) v.store(p);
  else v.store(p, m);
}

// Zero in the lanes from m on.
template <class T>
FASTDL_INLINE Vec<T> first_lanes(Vec<T> v, int m) {
  return m == Vec<T>::width ? v : select(Mask<T>::first(m), v, Vec<T>::zero());
}

// f(i, m) for vectors of m lanes starting at element i: m is the width but for the last.
template <class T, class F>
FASTDL_INLINE void for_vectors(int64_t n, F&& f) {
  constexpr int w = Vec<T>::width;
  int64_t i = 0;
  for (; i + w <= n; i += w) f(i, w);
  if (i < n) f(i, static_cast<int>(n - i));
}

// The same, the first cut short so that the others are aligned in p: NumPy aligns arrays to 16 bytes, and
// every vector would cross a cache line otherwise.
template <class T, class F>
FASTDL_INLINE void for_aligned(int64_t n, const T* p, F&& f) {
  constexpr int w = Vec<T>::width;
  int64_t i = 0;
  if (n >= 4 * w) {
    i = static_cast<int64_t>((0 - reinterpret_cast<uintptr_t>(p)) / sizeof(T) % w);
    if (i) f(0, static_cast<int>(i));
  }
  for (; i + w <= n; i += w) f(i, w);
  if (i < n) f(i, static_cast<int>(n - i));
}

}  // namespace fastdl::cpu::FASTDL_ISA
