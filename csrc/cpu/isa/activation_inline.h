// The activations on one vector: activate() for epilogues, activation_value<Kind>() and
// activation_gradient<Kind>() for loops. NaN passes through all of them: conditions are written so that it
// takes the branch that keeps it (min and max return their second operand when either is NaN).
#pragma once

#include "common/activation_kinds.h"
#include "fastdl/activation.h"
#include "vecmath.h"

namespace fastdl::cpu::FASTDL_ISA {

// sigmoid(x) and sigmoid(-x) from one exponential.
template <class T>
FASTDL_INLINE Vec<T> sigmoid_pair(Vec<T> x, Vec<T>& opposite) {
  const Vec<T> one = constant<T>(1), e = exp(-abs(x)), d = one / (one + e), small = e * d;
  const Mask<T> positive = x >= Vec<T>::zero();
  opposite = select(positive, small, d);
  return select(positive, d, small);
}

template <class T>
FASTDL_INLINE Vec<T> clamp(Vec<T> x, Vec<T> low, Vec<T> high) {
  return min(high, max(low, x));
}

template <int Kind, class T>
FASTDL_INLINE Vec<T> activation_value(Vec<T> x, Vec<T> alpha, Vec<T> beta) {
  const Vec<T> zero = Vec<T>::zero(), one = constant<T>(1);
  (void)alpha, (void)beta, (void)zero, (void)one;
  if constexpr (Kind == FASTDL_ACT_RELU) {
    return max(zero, x);
  } else if constexpr (Kind == FASTDL_ACT_RELU6) {
    return clamp(x, zero, constant<T>(6));
  } else if constexpr (Kind == FASTDL_ACT_LEAKY_RELU) {
    return select(x > zero, x, x * alpha);
  } else if constexpr (Kind == FASTDL_ACT_ELU) {
    return select(x > zero, x, alpha * expm1(x));
  } else if constexpr (Kind == FASTDL_ACT_SELU) {
    return select(x > zero, constant<T>(kSeluScale) * x, constant<T>(kSeluScale * kSeluAlpha) * expm1(x));
  } else if constexpr (Kind == FASTDL_ACT_CELU) {
    return select(x > zero, x, alpha * expm1(x / alpha));
  } else if constexpr (Kind == FASTDL_ACT_GELU) {
    return gelu(x);
  } else if constexpr (Kind == FASTDL_ACT_GELU_TANH) {  // (1 + tanh u) / 2 = sigmoid(2 u)
    const Vec<T> u2 = constant<T>(2 * kGeluK) * x * fma(constant<T>(kGeluCubic) * x, x, one);
    return x * sigmoid(u2);
  } else if constexpr (Kind == FASTDL_ACT_SILU) {
    return x * sigmoid(x);
  } else if constexpr (Kind == FASTDL_ACT_MISH) {
    const Vec<T> e = exp(min(constant<T>(kMishMax), x)), n = e * (e + constant<T>(2));
    return x * (n / (n + constant<T>(2)));
  } else if constexpr (Kind == FASTDL_ACT_SOFTPLUS) {
    const Vec<T> z = alpha * x;
    return select(z > beta, x, (max(zero, z) + log1p_unit(exp(-abs(z)))) / alpha);
  } else if constexpr (Kind == FASTDL_ACT_HARDSWISH) {
    return x * (clamp(x + constant<T>(3), zero, constant<T>(6)) * constant<T>(1. / 6));
  } else if constexpr (Kind == FASTDL_ACT_HARDSIGMOID) {
    return clamp(x + constant<T>(3), zero, constant<T>(6)) * constant<T>(1. / 6);
  } else if constexpr (Kind == FASTDL_ACT_HARDTANH) {
    return clamp(x, alpha, beta);
  } else if constexpr (Kind == FASTDL_ACT_SIGMOID) {
    return sigmoid(x);
  } else if constexpr (Kind == FASTDL_ACT_TANH) {
    return tanh(x);
  } else if constexpr (Kind == FASTDL_ACT_LOGSIGMOID) {
    return min(zero, x) - log1p_unit(exp(-abs(x)));
  } else if constexpr (Kind == FASTDL_ACT_SOFTSIGN) {
    return x / (one + abs(x));
  } else if constexpr (Kind == FASTDL_ACT_HARDSHRINK) {
    return select(abs(x) <= alpha, zero, x);
  } else if constexpr (Kind == FASTDL_ACT_SOFTSHRINK) {
    return select(abs(x) <= alpha, zero, x - copysign(alpha, x));
  } else if constexpr (Kind == FASTDL_ACT_TANHSHRINK) {
    return x - tanh(x);
  } else if constexpr (Kind == FASTDL_ACT_THRESHOLD) {
    return select(x <= alpha, beta, x);
  } else {
    return x;
  }
}

// g * f'(x); s is f(x) if FromOutput (only for kinds where fastdl_activation_from_output allows it), else x.
template <int Kind, bool FromOutput, class T>
FASTDL_INLINE Vec<T> activation_gradient(Vec<T> g, Vec<T> s, Vec<T> alpha, Vec<T> beta) {
  const Vec<T> zero = Vec<T>::zero(), one = constant<T>(1);
  (void)alpha, (void)beta, (void)zero, (void)one, (void)s;
  if constexpr (Kind == FASTDL_ACT_RELU) {
    return select(s <= zero, zero, g);
  } else if constexpr (Kind == FASTDL_ACT_RELU6) {
    return select((s <= zero) | (s >= constant<T>(6)), zero, g);
  } else if constexpr (Kind == FASTDL_ACT_LEAKY_RELU) {
    return select(s > zero, g, g * alpha);
  } else if constexpr (Kind == FASTDL_ACT_ELU) {
    if constexpr (FromOutput) return select(s > zero, g, g * (s + alpha));
    return select(s > zero, g, g * (alpha * exp(s)));
  } else if constexpr (Kind == FASTDL_ACT_SELU) {
    const Vec<T> scale = constant<T>(kSeluScale), limit = constant<T>(kSeluScale * kSeluAlpha);
    if constexpr (FromOutput) return g * select(s > zero, scale, s + limit);
    return g * select(s > zero, scale, limit * exp(s));
  } else if constexpr (Kind == FASTDL_ACT_CELU) {
    if constexpr (FromOutput) return select(s > zero, g, g * (s / alpha + one));
    return select(s > zero, g, g * exp(s / alpha));
  } else if constexpr (Kind == FASTDL_ACT_GELU) {
    return g * gelu_slope(s);
  } else if constexpr (Kind == FASTDL_ACT_GELU_TANH) {
    // Beyond kGeluMax the derivative is 0 or 1, and the squares would overflow.
    const Vec<T> x = clamp(s, constant<T>(-kGeluMax), constant<T>(kGeluMax));
    const Vec<T> cubic = constant<T>(kGeluCubic) * x * x;
    Vec<T> opposite;
    const Vec<T> t = sigmoid_pair(constant<T>(2 * kGeluK) * x * (cubic + one), opposite);
    const Vec<T> du = constant<T>(2 * kGeluK) * fma(constant<T>(3), cubic, one);
    return g * fma(x * t * opposite, du, t);
  } else if constexpr (Kind == FASTDL_ACT_SILU) {
    Vec<T> opposite;
    const Vec<T> t = sigmoid_pair(s, opposite);
    return g * t * fma(s, opposite, one);
  } else if constexpr (Kind == FASTDL_ACT_MISH) {
    // t + x (1 - t^2) sigmoid(x) with 1 - t^2 = 4 (1 + e)^2 / (n + 2)^2
    const Vec<T> x = min(constant<T>(kMishMax), s), e = exp(x), n = e * (e + constant<T>(2));
    const Vec<T> q = one / (n + constant<T>(2));
    return g * fma(constant<T>(4) * x * (e * q), (one + e) * q, n * q);
  } else if constexpr (Kind == FASTDL_ACT_SOFTPLUS) {
    const Vec<T> z = alpha * s;
    return select(z > beta, g, g * sigmoid(z));
  } else if constexpr (Kind == FASTDL_ACT_HARDSWISH) {
    const Vec<T> three = constant<T>(3), d = fma(s, constant<T>(1. / 3), constant<T>(0.5));
    return select(s <= -three, zero, select(s >= three, g, g * d));
  } else if constexpr (Kind == FASTDL_ACT_HARDSIGMOID) {
    return select(abs(s) >= constant<T>(3), zero, g * constant<T>(1. / 6));
  } else if constexpr (Kind == FASTDL_ACT_HARDTANH) {
    return select((s <= alpha) | (s >= beta), zero, g);
  } else if constexpr (Kind == FASTDL_ACT_SIGMOID) {
    if constexpr (FromOutput) return g * (s * (one - s));
    Vec<T> opposite;
    const Vec<T> t = sigmoid_pair(s, opposite);
    return g * (t * opposite);
  } else if constexpr (Kind == FASTDL_ACT_TANH) {
    const Vec<T> t = FromOutput ? s : tanh(s);
    return g * fnma(t, t, one);
  } else if constexpr (Kind == FASTDL_ACT_LOGSIGMOID) {
    return g * sigmoid(-s);
  } else if constexpr (Kind == FASTDL_ACT_SOFTSIGN) {
    const Vec<T> d = one + abs(s);
    return g / (d * d);
  } else if constexpr (Kind == FASTDL_ACT_HARDSHRINK || Kind == FASTDL_ACT_SOFTSHRINK) {
    return select(abs(s) <= alpha, zero, g);
  } else if constexpr (Kind == FASTDL_ACT_TANHSHRINK) {
    const Vec<T> t = tanh(s);
    return g * (t * t);
  } else if constexpr (Kind == FASTDL_ACT_THRESHOLD) {
    return select(s <= alpha, zero, g);
  } else {
    return g;
  }
}

// Calls f(ActivationKind<kind>{}): one switch outside the loop instead of one per vector.
template <class F>
FASTDL_INLINE void with_activation(int32_t kind, F&& f) {
  FASTDL_SWITCH_ACTIVATION(kind, f)
}

// For epilogues. The switch is well predicted, but all kinds are inlined here: call it from a function that
// is not itself a hot loop body (the common kinds come first).
template <class T>
FASTDL_INLINE Vec<T> activate(Vec<T> x, const fastdl_activation& f) {
  if (f.kind == FASTDL_ACT_NONE) return x;
  if (f.kind == FASTDL_ACT_RELU) return max(Vec<T>::zero(), x);
  Vec<T> y = x;
  const Vec<T> alpha = constant<T>(f.alpha), beta = constant<T>(f.beta);
  with_activation(f.kind, [&](auto kind) { y = activation_value<decltype(kind)::value>(x, alpha, beta); });
  return y;
}

}  // namespace fastdl::cpu::FASTDL_ISA
