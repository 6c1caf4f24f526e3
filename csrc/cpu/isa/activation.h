// Kernels of the activation family.
#pragma once

#include <cstdint>

#include "fastdl/activation.h"

namespace fastdl::cpu {

template <class T>
struct ActivationTable {
  // y[i] = f(x[i]) for n contiguous elements; y may be x.
  void (*forward)(const fastdl_activation& f, int64_t n, const T* x, T* y);
  // dx[i] = dy[i] * f'(x[i]); saved is f(x) if from_output, else x. dx may be dy.
  void (*backward)(const fastdl_activation& f, bool from_output, int64_t n, const T* dy, const T* saved,
                   T* dx);
  // y = a * sigmoid(b).
  void (*glu)(int64_t n, const T* a, const T* b, T* y);
  void (*glu_backward)(int64_t n, const T* dy, const T* a, const T* b, T* da, T* db);
  // One weight for all, or weight[i] for element i.
  void (*prelu)(int64_t n, const T* x, const T* weight, bool per_element, T* y);
  // dx may be NULL; dw may be NULL, else the weight's gradient is added to *dw or dw[i].
  void (*prelu_backward)(int64_t n, const T* dy, const T* x, const T* weight, bool per_element, T* dx, T* dw);
  // kind: fastdl_elementary_kind.
  void (*elementary)(int32_t kind, int64_t n, const T* x, T* y);
};

struct ActivationKernels {
  ActivationTable<float> f32;
  ActivationTable<double> f64;
};

// The table for element type T.
template <class T>
const ActivationTable<T>& table_for(const ActivationKernels& k) {
  if constexpr (sizeof(T) == 4) return k.f32;
  else return k.f64;
}

}  // namespace fastdl::cpu
