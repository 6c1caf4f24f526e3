#include "bindings/common.h"

namespace fastdl::bindings {
namespace {

fastdl_matmul_options options(double alpha, double beta, int kind, double act_alpha, double act_beta) {
  return {sizeof(fastdl_matmul_options), alpha, beta, {kind, act_alpha, act_beta}};
}

}  // namespace

void bind_matmul(py::module_& m) {
  m.def("matmul", [](const In& a, const In& b, const In& bias, const In& residual, const Out& out,
                     double alpha, double beta, int kind, double act_alpha, double act_beta) {
    const fastdl_matmul_options o = options(alpha, beta, kind, act_alpha, act_beta);
    run([&] { return fastdl_matmul(nullptr, a, b, bias, residual, out, &o); });
  });
  // out = activation(x @ weight^T + bias): the transposed view is made here, where it costs nothing.
  m.def("linear", [](const In& x, const In& weight, const In& bias, const Out& out, int kind,
                     double act_alpha, double act_beta) {
    const fastdl_matmul_options o = options(1, 0, kind, act_alpha, act_beta);
    const fastdl_tensor* w = weight;
    fastdl_tensor transposed;
    int64_t shape[2], strides[2];
    if (w && w->ndim == 2) {
      transposed = *w;
      for (int i = 0; i < 2; ++i) {
        shape[i] = w->shape[1 - i];
        strides[i] = w->strides[1 - i];
      }
      transposed.shape = shape;
      transposed.strides = strides;
      w = &transposed;
    }
    run([&] { return fastdl_matmul(nullptr, x, w, bias, nullptr, out, &o); });
  });
  m.def("linear_backward", [](const In& grad, const In& saved, const In& x, const In& weight,
                              const Out& grad_x, const Out& grad_weight, const Out& grad_bias, int kind,
                              double act_alpha, double act_beta) {
    const fastdl_matmul_options o = options(1, 0, kind, act_alpha, act_beta);
    run([&] {
      return fastdl_linear_backward(nullptr, grad, saved, x, weight, grad_x, grad_weight, grad_bias, &o);
    });
  });
  m.def("matmul_packed_b_size", [](const In& b) {
    int64_t elements = 0;
    run([&] { return fastdl_matmul_packed_b_size(nullptr, b, &elements); });
    return elements;
  });
  m.def("matmul_pack_b", [](const In& b, const Out& packed) {
    run([&] { return fastdl_matmul_pack_b(nullptr, b, packed); });
  });
  m.def("matmul_packed", [](const In& a, const In& packed, const In& bias, const In& residual, const Out& out,
                            double alpha, double beta, int kind, double act_alpha, double act_beta) {
    const fastdl_matmul_options o = options(alpha, beta, kind, act_alpha, act_beta);
    run([&] { return fastdl_matmul_packed(nullptr, a, packed, bias, residual, out, &o); });
  });
}

}  // namespace fastdl::bindings
