#include "bindings/common.h"

namespace fastdl::bindings {

void bind_loss(py::module_& m) {
  m.def("cross_entropy", [](const In& x, const In& target, const In& weight, const Out& loss, const Out& grad,
                            int reduction, int64_t ignore_index, double label_smoothing) {
    const fastdl_cross_entropy_options o{sizeof o, reduction, ignore_index, label_smoothing};
    run_on([&] { return fastdl_cross_entropy(nullptr, x, target, weight, loss, grad, &o); }, x, target, loss);
  });
  m.def("nll_loss", [](const In& x, const In& target, const In& weight, const Out& loss, const Out& grad,
                       int reduction, int64_t ignore_index) {
    const fastdl_cross_entropy_options o{sizeof o, reduction, ignore_index, 0.0};
    run_on([&] { return fastdl_nll_loss(nullptr, x, target, weight, loss, grad, &o); }, x, target, loss);
  });
  m.def("loss", [](const In& x, const In& target, const In& weight, const In& pos_weight, const Out& loss,
                   const Out& grad, int kind, int reduction, double parameter) {
    const fastdl_loss_options o{sizeof o, kind, reduction, parameter};
    run_on([&] { return fastdl_loss(nullptr, x, target, weight, pos_weight, loss, grad, &o); }, x, target,
           loss);
  });
}

}  // namespace fastdl::bindings
