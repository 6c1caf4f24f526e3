// Elementwise activations. (First version: ReLU in plain loops; the vector layer replaces them.)
#include "cpu/isa/activation.h"

namespace fastdl::cpu::FASTDL_ISA {
namespace {

template <class T>
void forward(const fastdl_activation&, int64_t n, const T* x, T* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] < T(0) ? T(0) : x[i];  // NaN stays NaN
}

template <class T>
void backward(const fastdl_activation&, bool, int64_t n, const T* dy, const T* saved, T* dx) {
  for (int64_t i = 0; i < n; ++i) dx[i] = saved[i] > T(0) ? dy[i] : T(0);
}

}  // namespace

extern const ActivationKernels activation_kernels;
const ActivationKernels activation_kernels = {{forward<float>, backward<float>},
                                              {forward<double>, backward<double>}};

}  // namespace fastdl::cpu::FASTDL_ISA
