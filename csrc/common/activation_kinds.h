// The kinds of activation as types, and the constants of their formulas, for every backend's kernels.
#pragma once

#include "fastdl/activation.h"

namespace fastdl {

constexpr double kSeluAlpha = 1.6732632423543772848170429916717;
constexpr double kSeluScale = 1.0507009873554804934193349852946;
constexpr double kGeluK = 0.79788456080286535588;  // sqrt(2 / pi)
constexpr double kGeluCubic = 0.044715, kGeluMax = 30;
// tanh(softplus(x)) = n / (n + 2) with n = e (e + 2), e = exp(x). Beyond kMishMax it is 1 and n^2 would
// overflow.
constexpr double kMishMax = 30;

template <int K>
struct ActivationKind {
  static constexpr int value = K;
};

}  // namespace fastdl

#define FASTDL_ACTIVATION_CASE(f, K)  \
  case K:                             \
    f(::fastdl::ActivationKind<K>{}); \
    break;

// Calls f(ActivationKind<kind>{}): text, since no function may be shared between instruction sets.
#define FASTDL_SWITCH_ACTIVATION(kind, f)             \
  switch (kind) {                                     \
    FASTDL_ACTIVATION_CASE(f, FASTDL_ACT_RELU)        \
    FASTDL_ACTIVATION_CASE(f, FASTDL_ACT_RELU6)       \
    FASTDL_ACTIVATION_CASE(f, FASTDL_ACT_LEAKY_RELU)  \
    FASTDL_ACTIVATION_CASE(f, FASTDL_ACT_ELU)         \
    FASTDL_ACTIVATION_CASE(f, FASTDL_ACT_SELU)        \
    FASTDL_ACTIVATION_CASE(f, FASTDL_ACT_CELU)        \
    FASTDL_ACTIVATION_CASE(f, FASTDL_ACT_GELU)        \
    FASTDL_ACTIVATION_CASE(f, FASTDL_ACT_GELU_TANH)   \
    FASTDL_ACTIVATION_CASE(f, FASTDL_ACT_SILU)        \
    FASTDL_ACTIVATION_CASE(f, FASTDL_ACT_MISH)        \
    FASTDL_ACTIVATION_CASE(f, FASTDL_ACT_SOFTPLUS)    \
    FASTDL_ACTIVATION_CASE(f, FASTDL_ACT_HARDSWISH)   \
    FASTDL_ACTIVATION_CASE(f, FASTDL_ACT_HARDSIGMOID) \
    FASTDL_ACTIVATION_CASE(f, FASTDL_ACT_HARDTANH)    \
    FASTDL_ACTIVATION_CASE(f, FASTDL_ACT_SIGMOID)     \
    FASTDL_ACTIVATION_CASE(f, FASTDL_ACT_TANH)        \
    FASTDL_ACTIVATION_CASE(f, FASTDL_ACT_LOGSIGMOID)  \
    FASTDL_ACTIVATION_CASE(f, FASTDL_ACT_SOFTSIGN)    \
    FASTDL_ACTIVATION_CASE(f, FASTDL_ACT_HARDSHRINK)  \
    FASTDL_ACTIVATION_CASE(f, FASTDL_ACT_SOFTSHRINK)  \
    FASTDL_ACTIVATION_CASE(f, FASTDL_ACT_TANHSHRINK)  \
    FASTDL_ACTIVATION_CASE(f, FASTDL_ACT_THRESHOLD)   \
    default:                                          \
      f(::fastdl::ActivationKind<FASTDL_ACT_NONE>{}); \
  }
