// Kernels of the embedding family.
#pragma once

#include <cstdint>

#include "fastdl/embedding.h"

namespace fastdl::cpu {

template <class T>
struct EmbeddingTable {
  // out[j] = factor * sum over k of scales[k] * table[rows[k] * n + j], in the order of k; scales may be
  // NULL.
  void (*sum_rows)(int64_t count, const int64_t* rows, const T* scales, T factor, int64_t n, const T* table,
                   T* out);
  // out[j] = max over k of table[rows[k] * n + j]; which[j] = the row it came from, the first of equals, NaN
  // first of all.
  void (*max_rows)(int64_t count, const int64_t* rows, int64_t n, const T* table, T* out, int64_t* which);
  T (*dot)(int64_t n, const T* a, const T* b);
};

struct EmbeddingKernels {
  EmbeddingTable<float> f32;
  EmbeddingTable<double> f64;
};

template <class T>
const EmbeddingTable<T>& table_for(const EmbeddingKernels& k) {
  if constexpr (sizeof(T) == 4) return k.f32;
  else return k.f64;
}

}  // namespace fastdl::cpu
