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
  bool packs;  // four columns at a time can be stored, with an end so simple that it pays

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
        activation(g.activation),
        packs(can_pack(g)) {}

  static constexpr int kPack = 4;

  // Four neighbouring columns, where `packs` says so.
  __device__ __forceinline__ void store(int64_t c_at, int64_t residual_at, int64_t i, int64_t j,
                                        const Pack<T, kPack>& sums) const {
    Pack<T, kPack> y;
#pragma unroll
    for (int e = 0; e < kPack; ++e) y.at[e] = alpha * sums.at[e];
    if (bias) {
#pragma unroll
      for (int e = 0; e < kPack; ++e) y.at[e] += widen(bias[(j + e) * bias_stride]);
    }
    if (residual) {
      const auto r = *reinterpret_cast<const Pack<S, kPack>*>(residual + residual_at + i * residual_row + j);
#pragma unroll
      for (int e = 0; e < kPack; ++e) y.at[e] += widen(r.at[e]);
    }
    if (activation.kind == FASTDL_ACT_RELU) {
#pragma unroll
      for (int e = 0; e < kPack; ++e) y.at[e] = at_least(T(0), y.at[e]);
    }
    const int64_t at = c_at + i * row + j;
    if (c_float32) {
      Pack<float, kPack> z;
#pragma unroll
      for (int e = 0; e < kPack; ++e) z.at[e] = static_cast<float>(y.at[e]);
      *reinterpret_cast<Pack<float, kPack>*>(static_cast<float*>(c) + at) = z;
    } else {
      Pack<S, kPack> z;
#pragma unroll
      for (int e = 0; e < kPack; ++e) z.at[e] = narrow<S>(y.at[e]);
      *reinterpret_cast<Pack<S, kPack>*>(static_cast<S*>(c) + at) = z;
    }
  }
  __device__ __forceinline__ void store(int64_t c_at, int64_t residual_at, int64_t i, int64_t j,
                                        const Pack<T, 1>& sum) const {
    store(c_at, residual_at, i, j, sum.at[0]);
  }

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

 private:
  static bool can_pack(const Gemm<S>& g) {
    const auto fits = [](const void* data, size_t item) {
      return reinterpret_cast<uintptr_t>(data) % (kPack * item) == 0;
    };
    bool can = g.c_column == 1 && g.c_row % kPack == 0 && g.n % kPack == 0 && g.beta == 0 &&
               (g.activation.kind == FASTDL_ACT_NONE || g.activation.kind == FASTDL_ACT_RELU) &&
               fits(g.c, g.c_float32 ? sizeof(float) : sizeof(S));
    for (int i = 0; i < g.batch.ndim; ++i) can = can && g.batch.c[i] % kPack == 0;
    if (!g.residual) return can;
    for (int i = 0; i < g.batch.ndim; ++i) can = can && g.batch.residual[i] % kPack == 0;
    return can && g.residual_column == 1 && g.residual_row % kPack == 0 && fits(g.residual, sizeof(S));
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
