// The functions of the gates. A cell calls five of them for every four products of 64 units, so they count:
// half the operations of vecmath.h's, for an error of some 2 ulp instead of 1.
#pragma once

#include "cpu/isa/vecmath.h"

namespace fastdl::cpu::FASTDL_ISA {

// 1 / (1 + exp(-x)): exact limits, and relative accuracy in the left tail too.
template <class T>
FASTDL_INLINE Vec<T> gate_sigmoid(Vec<T> x) {
  using C = MathConstants<T>;
  const Vec<T> one = constant<T>(1);
  Vec<T> n;
  x = min(Vec<T>::broadcast(C::exp_max), max(Vec<T>::broadcast(C::exp_min), -x));
  const Vec<T> p = reduced_expm1(x, n);
  return one / (one + scale_by_pow2(p + one, n));
}

// t / (t + 2) with t = exp(2x) - 1, which keeps small x exact and never leaves [-1, 1].
template <class T>
FASTDL_INLINE Vec<T> gate_tanh(Vec<T> x) {
  const Vec<T> one = constant<T>(1), limit = constant<T>(40);
  Vec<T> n;
  x = min(limit, max(-limit, x + x));
  const Vec<T> p = reduced_expm1(x, n);
  const Vec<T> scale = scale_by_pow2(one, n);
  const Vec<T> t = fma(scale, p, scale - one);
  return t / (t + (one + one));
}

}  // namespace fastdl::cpu::FASTDL_ISA
