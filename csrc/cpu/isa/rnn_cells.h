// What forward and backward cells share: vectors over the units of a group, and the functions of the gates.
#pragma once

#include "cpu/isa/narrow.h"
#include "cpu/isa/rnn.h"
#include "cpu/isa/vecmath.h"

namespace fastdl::cpu::FASTDL_ISA {

// Columns of a panel: two vectors, as isa/gemm.cpp has its tiles.
template <class A>
constexpr int kPanel = 2 * Vec<A>::width;

// The lanes of one vector that hold units.
template <class A>
struct Lane {
  int n;
  explicit FASTDL_INLINE Lane(int64_t left)
      : n(left < Vec<A>::width ? static_cast<int>(left) : Vec<A>::width) {}
  template <class S>
  FASTDL_INLINE Vec<A> load(const S* p) const {
    return n == Vec<A>::width ? load_as<A>(p) : load_as<A>(p, n);
  }
  template <class S>
  FASTDL_INLINE void store(S* p, Vec<A> v) const {
    if (n == Vec<A>::width) store_as(v, p);
    else store_as(v, p, n);
  }
};

// Calls body(lane, row, j) for every vector of a group.
template <class A, class Body>
FASTDL_INLINE void each_vector(int64_t rows, int64_t units, Body&& body) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t j = 0; j < units; j += Vec<A>::width) body(Lane<A>(units - j), r, j);
  }
}

// A cell calls five of the functions below for every four products of 64 units, so they count: half the
// operations of vecmath.h's, for an error of some 2 ulp instead of 1.

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
