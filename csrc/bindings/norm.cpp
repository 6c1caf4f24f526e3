#include "bindings/common.h"

namespace fastdl::bindings {

void bind_norm(py::module_& m) {
  m.def("layer_norm_forward", [](const In& x, const In& weight, const In& bias, const Out& out,
                                 const Out& mean, const Out& rstd, int normalized_ndim, double eps) {
    run([&] {
      return fastdl_layer_norm_forward(nullptr, x, weight, bias, out, mean, rstd, normalized_ndim, eps);
    });
  });
  m.def("layer_norm_backward",
        [](const In& grad_out, const In& x, const In& weight, const In& mean, const In& rstd,
           const Out& grad_x, const Out& grad_weight, const Out& grad_bias, int normalized_ndim) {
          run([&] {
            return fastdl_layer_norm_backward(nullptr, grad_out, x, weight, mean, rstd, grad_x, grad_weight,
                                              grad_bias, normalized_ndim);
          });
        });
  m.def("rms_norm_forward",
        [](const In& x, const In& weight, const Out& out, const Out& rstd, int normalized_ndim, double eps) {
          run([&] { return fastdl_rms_norm_forward(nullptr, x, weight, out, rstd, normalized_ndim, eps); });
        });
  m.def("rms_norm_backward", [](const In& grad_out, const In& x, const In& weight, const In& rstd,
                                const Out& grad_x, const Out& grad_weight, int normalized_ndim) {
    run([&] {
      return fastdl_rms_norm_backward(nullptr, grad_out, x, weight, rstd, grad_x, grad_weight,
                                      normalized_ndim);
    });
  });
  m.def("group_norm_forward", [](const In& x, const In& weight, const In& bias, const Out& out,
                                 const Out& mean, const Out& rstd, int64_t groups, double eps) {
    run([&] { return fastdl_group_norm_forward(nullptr, x, weight, bias, out, mean, rstd, groups, eps); });
  });
  m.def("group_norm_backward",
        [](const In& grad_out, const In& x, const In& weight, const In& mean, const In& rstd,
           const Out& grad_x, const Out& grad_weight, const Out& grad_bias, int64_t groups) {
          run([&] {
            return fastdl_group_norm_backward(nullptr, grad_out, x, weight, mean, rstd, grad_x, grad_weight,
                                              grad_bias, groups);
          });
        });
  m.def("batch_norm_forward",
        [](const In& x, const In& weight, const In& bias, const Out& running_mean, const Out& running_var,
           const Out& out, const Out& mean, const Out& rstd, bool training, double momentum, double eps) {
          fastdl_batch_norm_options o = FASTDL_BATCH_NORM_OPTIONS_INIT;
          o.eps = eps;
          o.momentum = momentum;
          o.training = training;
          run([&] {
            return fastdl_batch_norm_forward(nullptr, x, weight, bias, running_mean, running_var, out, mean,
                                             rstd, &o);
          });
        });
  m.def("batch_norm_backward",
        [](const In& grad_out, const In& x, const In& weight, const In& mean, const In& rstd,
           const Out& grad_x, const Out& grad_weight, const Out& grad_bias, bool training) {
          run([&] {
            return fastdl_batch_norm_backward(nullptr, grad_out, x, weight, mean, rstd, grad_x, grad_weight,
                                              grad_bias, training);
          });
        });
}

}  // namespace fastdl::bindings
