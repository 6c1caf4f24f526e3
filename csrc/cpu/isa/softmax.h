// Kernels of the softmax family. kind: fastdl_softmax_kind.
#pragma once

#include <cstdint>

#include "common/narrow.h"
#include "fastdl/softmax.h"

namespace fastdl::cpu {

template <class S>
struct SoftmaxTable {
  // `rows` contiguous rows of n. scratch: 2 n elements, where S is a 16-bit type.
  void (*forward)(int32_t kind, int64_t rows, int64_t n, const S* x, S* y, compute_t<S>* scratch);
  void (*backward)(int32_t kind, int64_t rows, int64_t n, const S* dy, const S* y, S* dx);
  // `count` adjacent columns of n elements, `stride` apart.
  void (*forward_columns)(int32_t kind, int64_t count, int64_t n, int64_t stride, const S* x, S* y);
  void (*backward_columns)(int32_t kind, int64_t count, int64_t n, int64_t stride, const S* dy, const S* y,
                           S* dx);
};

struct SoftmaxKernels {
  SoftmaxTable<float> f32;
  SoftmaxTable<double> f64;
  SoftmaxTable<bfloat16> bf16;
  SoftmaxTable<float16> f16;
};

template <class S>
const SoftmaxTable<S>& table_for(const SoftmaxKernels& k) {
  return table_of<S>(k);
}

}  // namespace fastdl::cpu
