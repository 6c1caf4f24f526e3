#include "bindings/common.h"

namespace fastdl::bindings {

void bind_activation(py::module_& m) {
  m.def("activation_forward", [](const In& x, const Out& out, int kind, double alpha, double beta) {
    const fastdl_activation f{kind, alpha, beta};
    run_on([&] { return fastdl_activation_forward(nullptr, x, out, &f); }, x, out);
  });
  m.def("activation_backward", [](const In& grad_out, const In& saved, const Out& grad_x, int kind,
                                  double alpha, double beta, bool from_output) {
    const fastdl_activation f{kind, alpha, beta};
    run_on([&] { return fastdl_activation_backward(nullptr, grad_out, saved, grad_x, &f, from_output); },
           grad_out, saved, grad_x);
  });
  m.def("glu_forward", [](const In& x, const Out& out, int dim) {
    run_on([&] { return fastdl_glu_forward(nullptr, x, out, dim); }, x, out);
  });
  m.def("glu_backward", [](const In& grad_out, const In& x, const Out& grad_x, int dim) {
    run_on([&] { return fastdl_glu_backward(nullptr, grad_out, x, grad_x, dim); }, grad_out, x, grad_x);
  });
  m.def("prelu_forward", [](const In& x, const In& weight, const Out& out) {
    run_on([&] { return fastdl_prelu_forward(nullptr, x, weight, out); }, x);
  });
  m.def("prelu_backward",
        [](const In& grad_out, const In& x, const In& weight, const Out& grad_x, const Out& grad_weight) {
          run_on([&] { return fastdl_prelu_backward(nullptr, grad_out, x, weight, grad_x, grad_weight); },
                 grad_out, x, grad_x);
        });
  m.def("elementary", [](const In& x, const Out& out, int kind) {
    run_on([&] { return fastdl_elementary(nullptr, x, out, kind); }, x, out);
  });
}

}  // namespace fastdl::bindings
