// Kernels of the attention family: what happens to a block of scores between its two matrix products. Scores
// are logarithms to base 2: log2(e) is a factor of their scale.
#pragma once

#include <cstdint>

#include "common/narrow.h"

namespace fastdl::cpu {

// Rows of scores, still without their scale; rows are padded to a multiple of `width` columns.
template <class T>
struct ScoreRows {
  T* s;
  int64_t rows, cols, ld;
  T scale;
};

// What row r is left with: s * factor + bias, or `forbidden`.
template <class T>
struct ScoreMask {
  T factor, forbidden;
  const T* bias;  // or null; rows bias_row apart, columns contiguous
  int64_t bias_row;
  const unsigned char* keep;  // or null; 0: may not attend
  int64_t keep_row;
  int64_t visible;  // row r may see columns below visible + r (causal)
};

// One query against keys as they lie in memory: each is read once, by whole vectors. S: as stored, T:
// computed with.
template <class S, class T>
struct DecodeTable {
  static constexpr int kMaxRows = 4;
  // s[r * ld + j] = sum of q[r * e + i] * k[j * k_row + i], rows <= kMaxRows.
  void (*scores)(int rows, int64_t e, const T* q, int64_t cols, const S* k, int64_t k_row, T* s, int64_t ld);
  // o[r * ev + i] += sum of p[r * ld + j] * v[j * v_row + i].
  void (*weighted)(int rows, int64_t ev, const T* p, int64_t ld, int64_t cols, const S* v, int64_t v_row,
                   T* o);
  // out[j * out_row + i] = sum of w[r * ld + j] * x[r * n + i] over any number of rows.
  void (*outer)(int64_t rows, int64_t n, const T* w, int64_t ld, int64_t cols, const T* x, S* out,
                int64_t out_row);
  // sum of a[i] * b[i].
  T (*dot)(int64_t n, const S* a, const S* b);
};

template <class T>
struct AttentionTable {
  int64_t width;  // lanes of a vector: rows of scores are padded to a multiple of it
  // Applies the masks; the padding is forbidden.
  void (*mask)(const ScoreRows<T>& block, const ScoreMask<T>& mask);
  // Online softmax (Milakov, Gimelshein 2018). top[r] is what earlier weights of row r were scaled by, sums
  // its `width` partial sums; s becomes 2^(scale s - top). Where a score exceeds top by more than kLag, top
  // moves up and decay[r] != 1 is what earlier sums must be multiplied by (sums already are). Returns whether
  // any row moved. With `rounded` the weights go there instead of to s (T is float, the rows as far apart).
  bool (*softmax)(const ScoreRows<T>& block, T* top, T* sums, T* decay, bfloat16* rounded);
  // With p = 2^(scale s - lse[r]) and kept null or the factors of dropout: s becomes p * kept, dp becomes
  // p * (dp * kept - delta[r]). Rows of all three are as far apart.
  void (*gradients)(const ScoreRows<T>& s, const T* lse, const T* delta, const T* kept, T* dp);
  // y[r][c] = x[r][c] * factor[r], n columns; y may be x.
  void (*scale_rows)(int64_t rows, int64_t n, const T* x, int64_t ldx, const T* factor, T* y, int64_t ldy);
  // sum of the `width` numbers at x.
  T (*total)(const T* x);
};

// Where the bfloat16 gradients of a tile's rows go.
struct RoundedGradients {
  // Weights and gradients with two rows interleaved, as right factors of products over rows: element (r, c)
  // at c / nr * panel + r / 2 * 2 * nr + c % nr * 2 + r % 2. The last of an odd number of rows is followed by
  // zeros.
  bfloat16 *weights, *gradients;
  int64_t nr, panel;
  bfloat16* gradient_rows;  // the gradients as rows, as far apart as the scores
};

struct AttentionKernels {
  AttentionTable<float> f32;
  AttentionTable<double> f64;
  const DecodeTable<float, float>* decode_f32;
  const DecodeTable<double, double>* decode_f64;
  const DecodeTable<bfloat16, float>* decode_bf16;
  // As AttentionTable::gradients, rounded; null where there are no bfloat16 products.
  void (*gradients_bf16)(const ScoreRows<float>& s, const float* lse, const float* delta, const float* kept,
                         const float* dp, const RoundedGradients& to);
};

template <class S>
const DecodeTable<S, compute_t<S>>& decode_table_for(const AttentionKernels& k) {
  if constexpr (sizeof(S) == 4) return *k.decode_f32;
  else if constexpr (sizeof(S) == 8) return *k.decode_f64;
  else return *k.decode_bf16;
}

template <class T>
const AttentionTable<T>& table_for(const AttentionKernels& k) {
  if constexpr (sizeof(T) == 4) return k.f32;
  else return k.f64;
}

}  // namespace fastdl::cpu
