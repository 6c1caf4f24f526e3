// Kernels of the loss family.
#pragma once

#include <cstdint>

#include "common/narrow.h"
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

template <class S>
struct LossTable {
  using T = compute_t<S>;
  // `rows` contiguous rows of n logits; loss[row] before the reduction; grad may be NULL. scratch: n
  // elements, where S is a 16-bit type and there is a grad.
  void (*cross_entropy)(const CrossEntropyRow<T>& c, int64_t rows, int64_t n, const S* x,
                        const int64_t* labels, T* loss, S* grad, T* scratch);
  void (*cross_entropy_soft)(const CrossEntropyRow<T>& c, int64_t rows, int64_t n, const S* x,
                             const S* target, T* loss, S* grad, T* scratch);
  // Returns the sum of the losses of n elements; weight, pos_weight, loss and grad may be NULL.
  T (*elementwise)(int32_t kind, double parameter, double scale, int64_t n, const S* x, const S* target,
                   const S* weight, const S* pos_weight, S* loss, S* grad);
};

struct LossKernels {
  LossTable<float> f32;
  LossTable<double> f64;
  LossTable<bfloat16> bf16;
  LossTable<float16> f16;
};

template <class S>
const LossTable<S>& table_for(const LossKernels& k) {
  return table_of<S>(k);
}

}  // namespace fastdl::cpu
