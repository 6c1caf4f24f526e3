// tanh and sigmoid of a vector.
#pragma once

#include <math.h>

#include "cpu/isa/simd.h"

namespace fastdl::cpu::FASTDL_ISA {

template <class T>
FASTDL_INLINE Vec<T> tanh(Vec<T> x) {
  T t[Vec<T>::width];
  x.store(t);
  for (T& v : t) v = static_cast<T>(::tanh(static_cast<double>(v)));
  return Vec<T>::load(t);
}
template <class T>
FASTDL_INLINE Vec<T> sigmoid(Vec<T> x) {
  T t[Vec<T>::width];
  x.store(t);
  for (T& v : t) v = static_cast<T>(1 / (1 + ::exp(-static_cast<double>(v))));
  return Vec<T>::load(t);
}

}  // namespace fastdl::cpu::FASTDL_ISA
