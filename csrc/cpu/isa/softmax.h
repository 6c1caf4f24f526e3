// Kernels of the softmax family. kind: fastdl_softmax_kind.
#pragma once

#include <cstdint>

#include "fastdl/softmax.h"

namespace fastdl::cpu {

template <class T>
struct SoftmaxTable {
  // `rows` contiguous rows of n.
  void (*forward)(int32_t kind, int64_t rows, int64_t n, const T* x, T* y);
  void (*backward)(int32_t kind, int64_t rows, int64_t n, const T* dy, const T* y, T* dx);
  // `count` adjacent columns of n elements, `stride` apart.
  void (*forward_columns)(int32_t kind, int64_t count, int64_t n, int64_t stride, const T* x, T* y);
  void (*backward_columns)(int32_t kind, int64_t count, int64_t n, int64_t stride, const T* dy, const T* y,
                           T* dx);
};

struct SoftmaxKernels {
  SoftmaxTable<float> f32;
  SoftmaxTable<double> f64;
};

template <class T>
const SoftmaxTable<T>& table_for(const SoftmaxKernels& k) {
  if constexpr (sizeof(T) == 4) return k.f32;
  else return k.f64;
}

}  // namespace fastdl::cpu
