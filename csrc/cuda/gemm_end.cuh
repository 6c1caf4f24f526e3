// The end of a product: C = activation(alpha sum + beta C + bias + residual), element by element.
#pragma once

#include <cstdint>

#include "cuda/activation_inline.cuh"
#include "cuda/device.cuh"
#include "cuda/gemm.h"

namespace fastdl::cuda {

template <class S>
struct GemmEnd {
  using T = compute_t<S>;
  void* c;
  int64_t row, column;
  bool c_float32;
  const S* bias;
  int64_t bias_stride;
  const S* residual;
  int64_t residual_row, residual_column;
  T alpha, beta;
  ActivationOf<T> activation;

  explicit GemmEnd(const Gemm<S>& g)
      : c(g.c),
        row(g.c_row),
        column(g.c_column),
        c_float32(g.c_float32),
        bias(g.bias),
        bias_stride(g.bias_stride),
        residual(g.residual),
        residual_row(g.residual_row),
        residual_column(g.residual_column),
        alpha(static_cast<T>(g.alpha)),
        beta(static_cast<T>(g.beta)),
        activation(g.activation) {}

  // Batch item's offsets into C and the residual come first.
  __device__ __forceinline__ void store(int64_t c_at, int64_t residual_at, int64_t i, int64_t j,
                                        T sum) const {
    T result[1] = {alpha * sum};
    T& y = result[0];
    const int64_t at = c_at + i * row + j * column;
    if (beta != 0)
      y += beta * (c_float32 ? static_cast<T>(static_cast<const float*>(c)[at])
                             : widen(static_cast<const S*>(c)[at]));
    if (bias) y += widen(bias[j * bias_stride]);
    if (residual) y += widen(residual[residual_at + i * residual_row + j * residual_column]);
    activation.apply(result);
    if (c_float32) static_cast<float*>(c)[at] = static_cast<float>(y);
    else static_cast<S*>(c)[at] = narrow<S>(y);
  }
};

struct BatchOffsets {
  int64_t a = 0, b = 0, c = 0, residual = 0;
};
__device__ __forceinline__ BatchOffsets offsets_of(const GemmBatch& batch, int64_t item) {
  BatchOffsets o;
  for (int dim = 0; dim < batch.ndim; ++dim) {
    const int64_t index = item % batch.shape[dim];
    item /= batch.shape[dim];
    o.a += index * batch.a[dim];
    o.b += index * batch.b[dim];
    o.c += index * batch.c[dim];
    o.residual += index * batch.residual[dim];
  }
  return o;
}

}  // namespace fastdl::cuda
