// Kernels of the activation family.
#pragma once

#include <cstdint>

#include "common/narrow.h"
#include "fastdl/activation.h"

namespace fastdl::cpu {

template <class S>
struct ActivationTable {
  using T = compute_t<S>;
  // y[i] = f(x[i]) for n contiguous elements; y may be x.
  void (*forward)(const fastdl_activation& f, int64_t n, const S* x, S* y);
  // dx[i] = dy[i] * f'(x[i]); saved is f(x) if from_output, else x. dx may be dy.
  void (*backward)(const fastdl_activation& f, bool from_output, int64_t n, const S* dy, const S* saved,
                   S* dx);
  // y = a * sigmoid(b).
  void (*glu)(int64_t n, const S* a, const S* b, S* y);
  void (*glu_backward)(int64_t n, const S* dy, const S* a, const S* b, S* da, S* db);
  // One weight for all, or weight[i] for element i.
  void (*prelu)(int64_t n, const S* x, const T* weight, bool per_element, S* y);
  // dx may be NULL; dw may be NULL, else the weight's gradient is added to *dw or dw[i].
  void (*prelu_backward)(int64_t n, const S* dy, const S* x, const T* weight, bool per_element, S* dx, T* dw);
  // kind: fastdl_elementary_kind.
  void (*elementary)(int32_t kind, int64_t n, const S* x, S* y);
};

struct ActivationKernels {
  ActivationTable<float> f32;
  ActivationTable<double> f64;
  ActivationTable<bfloat16> bf16;
  ActivationTable<float16> f16;
};

template <class S>
const ActivationTable<S>& table_for(const ActivationKernels& k) {
  return table_of<S>(k);
}

}  // namespace fastdl::cpu
