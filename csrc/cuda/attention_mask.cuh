// Which scores count, and by how much: the scale, causality, the caller's mask, the edges of the problem, and
// dropout of weights. Scores are to base 2: score2 = log2(e) (scale q.k + bias), or -infinity.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/attention.h"
#include "cuda/device.cuh"
#include "cuda/philox.cuh"

namespace fastdl::cuda {

constexpr double kLog2e = 1.44269504088896340736, kLn2 = 0.69314718055994530942;

template <class T>
struct AttentionMask {
  const void* data;  // NULL: none. Bool (true: may attend) or a float, added to the scores.
  DType dtype;
  int64_t stride[4];
  bool causal, drops;
  int64_t heads, queries, keys;
  T scale2, kept_scale;
  DropoutMask dropout;

  explicit AttentionMask(const AttentionProblem& p)
      : data(p.mask.data),
        dtype(p.mask.dtype),
        causal(p.causal),
        drops(p.dropout > 0),
        heads(p.heads),
        queries(p.queries),
        keys(p.keys),
        scale2(static_cast<T>(p.scale * kLog2e)),
        kept_scale(static_cast<T>(p.mask_of_weights.scale)),
        dropout(p.mask_of_weights) {
    for (int i = 0; i < 4; ++i) stride[i] = data ? p.mask.strides[i] : 0;
  }

  // Whether scores of queries [i, i_end) and keys up to j_end are only scaled.
  __device__ __forceinline__ bool plain(int64_t i, int64_t i_end, int64_t j_end) const {
    return !data && i_end <= queries && j_end <= keys && (!causal || j_end <= i + 1);
  }
  __device__ __forceinline__ bool visible(int64_t i, int64_t j) const {
    return i < queries && j < keys && (!causal || j <= i);
  }

  // What the caller's mask adds to a score inside the problem, -infinity where it forbids it.
  __device__ __forceinline__ T term(int64_t b, int64_t h, int64_t i, int64_t j) const {
    const int64_t at = b * stride[0] + h * stride[1] + i * stride[2] + j * stride[3];
    if (dtype == DType::kBool)
      return static_cast<const uint8_t*>(data)[at] ? T{0} : -static_cast<T>(INFINITY);
    return bias(at) * static_cast<T>(kLog2e);
  }
  // Not a sum where nothing may come through: the score may be NaN.
  __device__ static __forceinline__ T with_term(T score2, T term) {
    return term == -static_cast<T>(INFINITY) ? term : score2 + term;
  }

  __device__ __forceinline__ T score(T product, int64_t b, int64_t h, int64_t i, int64_t j) const {
    if (!visible(i, j)) return -static_cast<T>(INFINITY);
    return data ? with_term(product * scale2, term(b, h, i, j)) : product * scale2;
  }

  // What multiplies the weight of (i, j): 0, or 1 / (1 - p). Element (b, h, i, j) has the mask of its C-order
  // index.
  __device__ __forceinline__ T keep(int64_t b, int64_t h, int64_t i, int64_t j) const {
    const int64_t element = ((b * heads + h) * queries + i) * keys + j;
    return dropout_keeps(dropout, element) ? kept_scale : T{0};
  }

 private:
  __device__ __forceinline__ T bias(int64_t at) const {
    switch (dtype) {
      case DType::kFloat64:
        return static_cast<T>(static_cast<const double*>(data)[at]);
      case DType::kBFloat16:
        return static_cast<T>(widen(static_cast<const bfloat16*>(data)[at]));
      case DType::kFloat16:
        return static_cast<T>(widen(static_cast<const float16*>(data)[at]));
      default:
        return static_cast<T>(static_cast<const float*>(data)[at]);
    }
  }
};

// A 16 x 8 Wide tile of scores as mma.sync leaves it, rows of one side (queries or, OwnKeys, keys) from
// `first` on by columns of the other from `stream` on: which of its elements count. A lane has rows g, g + 8.
template <bool OwnKeys, int Wide>
struct TileMask {
  const AttentionMask<float>& mask;
  int64_t b, h, first, stream;
  bool plain;

  __device__ __forceinline__ int64_t query(int64_t row, int64_t column) const {
    return OwnKeys ? stream + column : first + row;
  }
  __device__ __forceinline__ int64_t key(int64_t row, int64_t column) const {
    return OwnKeys ? first + row : stream + column;
  }
  __device__ static __forceinline__ int row_of(int e) { return lane() / 4 + e / 2 * 8; }
  __device__ static __forceinline__ int column_of(int j, int e) { return 8 * j + lane() % 4 * 2 + e % 2; }

  // The terms of the caller's mask and the factors of dropout, of a lane's elements, where there are any.
  // To be asked for before the products, when fewer registers are taken.
  struct Elements {
    float terms[4 * Wide], factors[4 * Wide];
  };
  __device__ __forceinline__ void load(Elements& elements) const {
    if (mask.data) each([&](int64_t i, int64_t j) { return mask.term(b, h, i, j); }, elements.terms);
    if (mask.drops) each([&](int64_t i, int64_t j) { return mask.keep(b, h, i, j); }, elements.factors);
  }

  // Products become scores to base 2.
  __device__ __forceinline__ void apply(float (&scores)[Wide][4], const Elements& elements) const {
    if (plain) {
#pragma unroll
      for (int j = 0; j < Wide; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) scores[j][e] *= mask.scale2;
      }
      return;
    }
    // Columns that rows g and g + 8 see, counted in the tile: registers of 32 bits.
    int from[2], to[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) range(row_of(2 * half), from[half], to[half]);
#pragma unroll
    for (int j = 0; j < Wide; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int column = column_of(j, e);
        const bool seen = column >= from[e / 2] && column < to[e / 2];
        scores[j][e] = seen ? scores[j][e] * mask.scale2 : -INFINITY;
      }
    }
    if (!mask.data) return;
#pragma unroll
    for (int j = 0; j < Wide; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e)
        scores[j][e] = AttentionMask<float>::with_term(scores[j][e], elements.terms[4 * j + e]);
    }
  }

 private:
  // values[n] = make(i, j) for a lane's elements, 0 outside the problem. A loop that stays one, and so an
  // array in (cached, local) memory: unrolled, it would take more code and registers than all the rest.
  template <class F>
  __device__ __forceinline__ void each(F&& make, float (&values)[4 * Wide]) const {
#pragma unroll 1
    for (int n = 0; n < 4 * Wide; ++n) {
      const int row = row_of(n % 4), column = column_of(n / 4, n % 4);
      const int64_t i = query(row, column), j = key(row, column);
      values[n] = i < mask.queries && j < mask.keys ? make(i, j) : 0.0f;
    }
  }
  __device__ __forceinline__ void range(int row, int& from, int& to) const {
    const int64_t own = first + row;
    constexpr int64_t kColumns = 8 * Wide;
    int64_t low = 0, high;
    if constexpr (OwnKeys) {
      high = own < mask.keys ? mask.queries - stream : 0;
      if (mask.causal) low = own - stream;
    } else {
      high = own < mask.queries ? mask.keys - stream : 0;
      if (mask.causal && own + 1 - stream < high) high = own + 1 - stream;
    }
    from = static_cast<int>(low < 0 ? 0 : low < kColumns ? low : kColumns);
    to = static_cast<int>(high < 0 ? 0 : high < kColumns ? high : kColumns);
  }
};

}  // namespace fastdl::cuda
