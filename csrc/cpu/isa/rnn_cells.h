// What forward and backward cells share: vectors over the units of a group, and the functions of the gates.
#pragma once

#include "cpu/isa/narrow.h"
#include "cpu/isa/rnn.h"
#include "cpu/isa/vecmath.h"
#include "cpu/isa/vectors.h"

namespace fastdl::cpu::FASTDL_ISA {

// Columns of a panel: two vectors, as isa/gemm.cpp has its tiles.
template <class A>
constexpr int kPanel = 2 * Vec<A>::width;

// Calls body(lanes, Vectors<n>, row, j) for every n vectors of a group, of which `lanes` hold units: what
// they compute is independent, so that the latency of one is hidden by the others.
template <int N>
struct Vectors {
  static constexpr int count = N;
};
template <class A, class Body>
FASTDL_INLINE void each_vector(int64_t rows, int64_t units, Body&& body) {
  constexpr int W = Vec<A>::width;
  const int64_t tail = units % W, whole = units - tail;
  for (int64_t r = 0; r < rows; ++r) {
    if (whole == 2 * W) {
      body(W, Vectors<2>(), r, int64_t{0});
    } else {
      for (int64_t j = 0; j < whole; j += W) body(W, Vectors<1>(), r, j);
    }
    if (tail) body(static_cast<int>(tail), Vectors<1>(), r, whole);
  }
}

// The body of each_vector does every step for all its N vectors before the next.
#define FASTDL_EACH FASTDL_UNROLL for (int i = 0; i < N; ++i)

// A cell calls five of the functions below for every four products of 64 units, so they count: half the
// operations of vecmath.h's, for an error of some 2 ulp instead of 1.

// n / d for finite d in [1, 2^127].
template <class T>
FASTDL_INLINE Vec<T> gate_divide(Vec<T> n, Vec<T> d) {
  return n / d;
}
#if FASTDL_ISA_ID == 3
// A division keeps the unit busy for some ten instructions. With y = (1 + e) / d, |e| < 2^-14, one Newton
// step gives n / d (1 - e^2): never larger than the quotient, and some 2^-28 smaller.
template <>
FASTDL_INLINE Vec<float> gate_divide(Vec<float> n, Vec<float> d) {
  const Vec<float> y{_mm512_rcp14_ps(d.v)}, q = n * y;
  return fma(fnma(q, d, n), y, q);
}
#endif

template <class T>
struct GateConstants : MathConstants<T> {};
template <>
struct GateConstants<float> : MathConstants<float> {
  static constexpr float exp_max = 88.f;  // exp of it is finite
  // exp(r) = 1 + r + r^2 q(r) on [-ln2/2, ln2/2], 5e-9
  static constexpr float exp_q[] = {0.5f, 1.666651815e-01f, 4.166620597e-02f, 8.368917741e-03f,
                                    1.395054045e-03f};
};

// x = n ln2 + r with |r| <= ln2 / 2; x becomes exp(r) - 1.
template <class T, int N>
FASTDL_INLINE void gate_expm1(Vec<T> (&x)[N], Vec<T> (&n)[N]) {
  using C = GateConstants<T>;
  constexpr int kTerms = sizeof(C::exp_q) / sizeof(T);
  const Vec<T> magic = Vec<T>::broadcast(C::round_magic), log2e = Vec<T>::broadcast(C::log2e);
  const Vec<T> hi = Vec<T>::broadcast(C::ln2_hi), lo = Vec<T>::broadcast(C::ln2_lo);
  FASTDL_EACH n[i] = fma(x[i], log2e, magic);
  FASTDL_EACH n[i] = n[i] - magic;
  FASTDL_EACH x[i] = fnma(n[i], hi, x[i]);
  FASTDL_EACH x[i] = fnma(n[i], lo, x[i]);
  Vec<T> q[N];
  FASTDL_EACH q[i] = Vec<T>::broadcast(C::exp_q[kTerms - 1]);
  FASTDL_UNROLL for (int term = kTerms - 2; term >= 0; --term) {
    FASTDL_EACH q[i] = fma(q[i], x[i], Vec<T>::broadcast(C::exp_q[term]));
  }
  FASTDL_EACH q[i] = fma(x[i] * x[i], q[i], x[i]);
  FASTDL_EACH x[i] = q[i];
}

// 1 / (1 + exp(-x)), relative accuracy in the left tail too, down to exp(-exp_max).
template <class T, int N>
FASTDL_INLINE void gate_sigmoid(Vec<T> (&x)[N]) {
  using C = GateConstants<T>;
  const Vec<T> one = constant<T>(1), most = Vec<T>::broadcast(C::exp_max),
               least = Vec<T>::broadcast(C::exp_min);
  Vec<T> n[N];
  FASTDL_EACH x[i] = min(most, max(least, -x[i]));
  gate_expm1(x, n);
  FASTDL_EACH x[i] = one + scale_by_pow2(x[i] + one, n[i]);
  FASTDL_EACH x[i] = gate_divide(one, x[i]);
}

// t / (t + 2) with t = exp(2x) - 1, which keeps small x exact and never leaves [-1, 1].
template <class T, int N>
FASTDL_INLINE void gate_tanh(Vec<T> (&x)[N]) {
  const Vec<T> one = constant<T>(1), two = constant<T>(2), limit = constant<T>(40);
  Vec<T> n[N];
  FASTDL_EACH x[i] = min(limit, max(-limit, x[i] + x[i]));
  gate_expm1(x, n);
  FASTDL_EACH n[i] = scale_by_pow2(one, n[i]);
  FASTDL_EACH x[i] = fma(n[i], x[i], n[i] - one);
  FASTDL_EACH x[i] = gate_divide(x[i], x[i] + two);
}

}  // namespace fastdl::cpu::FASTDL_ISA
