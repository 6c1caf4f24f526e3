#include "bindings/common.h"

namespace fastdl::bindings {

void bind_activation(py::module_& m) {
  m.def("activation_forward", [](const In& x, const Out& out, int kind, double alpha, double beta) {
    const fastdl_activation f{kind, alpha, beta};
    run([&] { return fastdl_activation_forward(nullptr, x, out, &f); });
  });
  m.def("activation_backward", [](const In& grad_out, const In& saved, const Out& grad_x, int kind,
                                  double alpha, double beta, bool from_output) {
    const fastdl_activation f{kind, alpha, beta};
    run([&] { return fastdl_activation_backward(nullptr, grad_out, saved, grad_x, &f, from_output); });
  });
  m.def("glu_forward", [](const In& x, const Out& out, int dim) {
    run([&] { return fastdl_glu_forward(nullptr, x, out, dim); });
  });
  m.def("glu_backward", [](const In& grad_out, const In& x, const Out& grad_x, int dim) {
    run([&] { return fastdl_glu_backward(nullptr, grad_out, x, grad_x, dim); });
  });
  m.def("prelu_forward", [](const In& x, const In& weight, const Out& out) {
    run([&] { return fastdl_prelu_forward(nullptr, x, weight, out); });
  });
  m.def("prelu_backward",
        [](const In& grad_out, const In& x, const In& weight, const Out& grad_x, const Out& grad_weight) {
          run([&] { return fastdl_prelu_backward(nullptr, grad_out, x, weight, grad_x, grad_weight); });
        });
  m.def("elementary", [](const In& x, const Out& out, int kind) {
    run([&] { return fastdl_elementary(nullptr, x, out, kind); });
  });
}

}  // namespace fastdl::bindings
