// Kernels of the attention family: what happens to a block of scores between its two matrix products.
#pragma once

#include <cstdint>

namespace fastdl::cpu {

// A block of raw scores q k^T; row r is scaled, gets its bias, and keeps the columns that its masks allow.
template <class T>
struct ScoreBlock {
  T* s;
  int64_t rows, cols, ld;
  T scale;
  const T* bias;  // or null; rows bias_row apart, columns contiguous
  int64_t bias_row;
  const unsigned char* keep;  // or null; 0: may not attend
  int64_t keep_row;
  int64_t visible;  // row r may see columns below visible + r (causal), or a number past all columns
};

template <class T>
struct AttentionTable {
  // Online softmax (Milakov, Gimelshein 2018): with m, l the running maximum and sum of each row, s becomes
  // exp(score - m'), l its sum, and decay[r] = exp(m - m') what earlier sums must be scaled by.
  void (*softmax)(const ScoreBlock<T>& block, T* m, T* l, T* decay);
  // s becomes exp(score - lse[r]), 0 where nothing may be seen.
  void (*probabilities)(const ScoreBlock<T>& block, const T* lse);
  // dp becomes p * (dp - delta[r]).
  void (*score_gradient)(int64_t rows, int64_t cols, int64_t ld, const T* p, const T* delta, T* dp);
  // x[r][c] *= factor[r].
  void (*scale_rows)(int64_t rows, int64_t cols, int64_t ld, const T* factor, T* x);
  // sum of a[i] * b[i].
  T (*dot)(int64_t n, const T* a, const T* b);
};

struct AttentionKernels {
  AttentionTable<float> f32;
  AttentionTable<double> f64;
};

template <class T>
const AttentionTable<T>& table_for(const AttentionKernels& k) {
  if constexpr (sizeof(T) == 4) return k.f32;
  else return k.f64;
}

}  // namespace fastdl::cpu
