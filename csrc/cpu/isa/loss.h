// Kernels of the loss family.
#pragma once

#include <cstdint>

#include "fastdl/loss.h"

namespace fastdl::cpu {

// What a row of cross-entropy needs beside its logits; weight may be NULL.
template <class T>
struct CrossEntropyRow {
  const T* weight;
  double weight_sum;  // of all classes
  double confidence;  // 1 - label_smoothing
  double smooth;      // label_smoothing / classes
  double scale;       // of the gradient
  int64_t ignore_index;
};

template <class T>
struct LossTable {
  // `rows` contiguous rows of n logits; loss[row] before the reduction; grad may be NULL.
  void (*cross_entropy)(const CrossEntropyRow<T>& c, int64_t rows, int64_t n, const T* x,
                        const int64_t* labels, T* loss, T* grad);
  void (*cross_entropy_soft)(const CrossEntropyRow<T>& c, int64_t rows, int64_t n, const T* x,
                             const T* target, T* loss, T* grad);
  // Returns the sum of the losses of n elements; weight, pos_weight, loss and grad may be NULL.
  T (*elementwise)(int32_t kind, double parameter, double scale, int64_t n, const T* x, const T* target,
                   const T* weight, const T* pos_weight, T* loss, T* grad);
};

struct LossKernels {
  LossTable<float> f32;
  LossTable<double> f64;
};

template <class T>
const LossTable<T>& table_for(const LossKernels& k) {
  if constexpr (sizeof(T) == 4) return k.f32;
  else return k.f64;
}

}  // namespace fastdl::cpu
