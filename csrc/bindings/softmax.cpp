#include "bindings/common.h"

namespace fastdl::bindings {

void bind_softmax(py::module_& m) {
  m.def("softmax_forward", [](const In& x, const Out& out, int dim, int kind) {
    run_on([&] { return fastdl_softmax_forward(nullptr, x, out, dim, kind); }, x, out);
  });
  m.def("softmax_backward", [](const In& grad_out, const In& out, const Out& grad_x, int dim, int kind) {
    run_on([&] { return fastdl_softmax_backward(nullptr, grad_out, out, grad_x, dim, kind); }, grad_out, out,
           grad_x);
  });
}

}  // namespace fastdl::bindings
