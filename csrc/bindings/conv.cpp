#include <algorithm>
#include <array>

#include <pybind11/stl.h>

#include "bindings/common.h"

namespace fastdl::bindings {
namespace {

using Dims = std::array<int64_t, 3>;  // per spatial dimension; entries past their number are ignored

struct ConvOptions {
  fastdl_conv_options value = FASTDL_CONV_OPTIONS_INIT;
  ConvOptions(const Dims& stride, const Dims& padding, const Dims& padding_end, const Dims& dilation,
              int64_t groups, int kind, double alpha, double beta) {
    std::copy(stride.begin(), stride.end(), value.stride);
    std::copy(padding.begin(), padding.end(), value.padding);
    std::copy(padding_end.begin(), padding_end.end(), value.padding_end);
    std::copy(dilation.begin(), dilation.end(), value.dilation);
    value.groups = groups;
    value.activation = {kind, alpha, beta};
  }
};

using Forward = decltype(fastdl_conv_forward);
using Backward = decltype(fastdl_conv_backward_data);
using BackwardWeight = decltype(fastdl_conv_backward_weight);

template <Forward* function>
void forward(const In& x, const In& weight, const In& bias, const In& residual, const Out& out,
             const ConvOptions& options) {
  run([&] { return function(nullptr, x, weight, bias, residual, out, &options.value); });
}

template <Backward* function>
void backward_data(const In& grad_out, const In& saved, const In& weight, const Out& grad_x,
                   const ConvOptions& options) {
  run([&] { return function(nullptr, grad_out, saved, weight, grad_x, &options.value); });
}

template <BackwardWeight* function>
void backward_weight(const In& grad_out, const In& saved, const In& x, const Out& grad_weight,
                     const Out& grad_bias, const ConvOptions& options) {
  run([&] { return function(nullptr, grad_out, saved, x, grad_weight, grad_bias, &options.value); });
}

}  // namespace

void bind_conv(py::module_& m) {
  // stride, padding, padding_end, dilation, groups, activation kind, alpha, beta
  py::class_<ConvOptions>(m, "ConvOptions")
      .def(py::init<const Dims&, const Dims&, const Dims&, const Dims&, int64_t, int, double, double>());
  m.def("conv_forward", forward<fastdl_conv_forward>);
  m.def("conv_backward_data", backward_data<fastdl_conv_backward_data>);
  m.def("conv_backward_weight", backward_weight<fastdl_conv_backward_weight>);
  m.def("conv_pool_backward",
        [](const In& grad_out, const In& out, const In& indices, const In& x, const In& weight,
           const Out& grad_x, const Out& grad_weight, const Out& grad_bias, const ConvOptions& options) {
          run([&] {
            return fastdl_conv_pool_backward(nullptr, grad_out, out, indices, x, weight, grad_x, grad_weight,
                                             grad_bias, &options.value);
          });
        });
  m.def("conv_transpose_forward", forward<fastdl_conv_transpose_forward>);
  m.def("conv_transpose_backward_data", backward_data<fastdl_conv_transpose_backward_data>);
  m.def("conv_transpose_backward_weight", backward_weight<fastdl_conv_transpose_backward_weight>);
  m.def("unfold", [](const In& image, const std::array<int64_t, 2>& kernel, const Out& columns,
                     const ConvOptions& options) {
    run([&] { return fastdl_unfold(nullptr, image, kernel.data(), columns, &options.value); });
  });
  m.def("fold", [](const In& columns, const std::array<int64_t, 2>& kernel, const Out& image,
                   const ConvOptions& options) {
    run([&] { return fastdl_fold(nullptr, columns, kernel.data(), image, &options.value); });
  });
}

}  // namespace fastdl::bindings
