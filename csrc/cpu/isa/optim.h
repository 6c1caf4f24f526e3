// Kernels of the optim family: n contiguous elements each.
#pragma once

#include <cstdint>

#include "fastdl/optim.h"

namespace fastdl::cpu {

// The scalars of one step of one tensor, derived from the options and the step count.
struct AdamScalars {
  double beta1, beta2, eps, weight_decay;
  double decay;         // the parameter is multiplied by this first
  double rate;          // lr / (1 - beta1^t)
  double root_inverse;  // 1 / sqrt(1 - beta2^t)
  bool maximize;
};

template <class T>
struct OptimTable {
  void (*sgd)(const fastdl_sgd_options& o, bool fresh, int64_t n, T* p, const T* g, T* buffer);
  void (*adam)(const AdamScalars& o, int64_t n, T* p, const T* g, T* m, T* v, T* v_max);
  void (*adagrad)(const fastdl_adagrad_options& o, double rate, int64_t n, T* p, const T* g, T* sum);
  void (*rmsprop)(const fastdl_rmsprop_options& o, int64_t n, T* p, const T* g, T* v, T* avg, T* buffer);
  // sum |x|^p, or max |x| for infinite p.
  double (*norm)(double p, int64_t n, const T* x);
  void (*scale)(double factor, int64_t n, T* x);
};

struct OptimKernels {
  OptimTable<float> f32;
  OptimTable<double> f64;
};

template <class T>
const OptimTable<T>& table_for(const OptimKernels& k) {
  if constexpr (sizeof(T) == 4) return k.f32;
  else return k.f64;
}

}  // namespace fastdl::cpu
