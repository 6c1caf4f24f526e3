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
}

}  // namespace fastdl::bindings
