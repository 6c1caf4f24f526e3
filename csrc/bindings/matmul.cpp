#include <limits>

#include "bindings/common.h"

namespace fastdl::bindings {
namespace {

fastdl_matmul_options options(double alpha, double beta, int kind, double act_alpha, double act_beta) {
  return {sizeof(fastdl_matmul_options), alpha, beta, {kind, act_alpha, act_beta}};
}

// out = activation(x @ weight^T + bias): the transposed view is made here, where it costs nothing.
void linear(const In& x, const In& weight, const In& bias, const Out& out, const fastdl_matmul_options& o) {
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
  run_on([&] { return fastdl_matmul(nullptr, x, w, bias, nullptr, out, &o); }, x, weight, out);
}

#ifndef FASTDL_BINDING_CUDA
// The same into a new array: in a small layer, allocation by way of Python takes as long as the product. None
// if the shapes do not fit, which the caller explains.
py::object linear_to_new(py::handle x_array, const In& weight, const In& bias, int kind, double act_alpha,
                         double act_beta, bool poison) {
  In x;
  x.load(x_array, false);
  const fastdl_tensor *const a = x, *const w = weight;
  if (!a || !w || a->ndim < 1 || w->ndim < 1 || w->ndim > 2 ||
      a->shape[a->ndim - 1] != w->shape[w->ndim - 1]) {
    return py::none();
  }
  Py_intptr_t shape[FASTDL_MAX_NDIM];
  for (int i = 0; i + 1 < a->ndim; ++i) shape[i] = static_cast<Py_intptr_t>(a->shape[i]);
  if (w->ndim == 2) shape[a->ndim - 1] = static_cast<Py_intptr_t>(w->shape[0]);
  const py::object array =
      new_array(a->ndim - 2 + w->ndim, shape,
                py::reinterpret_borrow<py::dtype>(py::detail::array_proxy(x_array.ptr())->descr));
  if (poison && (a->dtype.code == FASTDL_FLOAT || a->dtype.code == FASTDL_BFLOAT)) {
    array.attr("fill")(std::numeric_limits<double>::quiet_NaN());
  }
  Out out;
  out.load(array, true);
  linear(x, weight, bias, out, options(1, 0, kind, act_alpha, act_beta));
  return array;
}
#endif

}  // namespace

void bind_matmul(py::module_& m) {
  m.def("matmul", [](const In& a, const In& b, const In& bias, const In& residual, const Out& out,
                     double alpha, double beta, int kind, double act_alpha, double act_beta) {
    const fastdl_matmul_options o = options(alpha, beta, kind, act_alpha, act_beta);
    run_on([&] { return fastdl_matmul(nullptr, a, b, bias, residual, out, &o); }, a, b, out);
  });
  m.def("linear",
        [](const In& x, const In& weight, const In& bias, const Out& out, int kind, double act_alpha,
           double act_beta) { linear(x, weight, bias, out, options(1, 0, kind, act_alpha, act_beta)); });
#ifndef FASTDL_BINDING_CUDA
  m.def("linear_to_new", linear_to_new);
#endif
  m.def("linear_backward", [](const In& grad, const In& saved, const In& x, const In& weight,
                              const Out& grad_x, const Out& grad_weight, const Out& grad_bias, int kind,
                              double act_alpha, double act_beta) {
    const fastdl_matmul_options o = options(1, 0, kind, act_alpha, act_beta);
    run_on(
        [&] {
          return fastdl_linear_backward(nullptr, grad, saved, x, weight, grad_x, grad_weight, grad_bias, &o);
        },
        grad, x, weight, grad_x);
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
