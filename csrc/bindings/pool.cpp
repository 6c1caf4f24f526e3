#include <algorithm>
#include <array>

#include <pybind11/stl.h>

#include "bindings/common.h"

namespace fastdl::bindings {
namespace {

using Dims = std::array<int64_t, 3>;  // per spatial dimension; entries past their number are ignored

struct PoolOptions {
  fastdl_pool_options value = FASTDL_POOL_OPTIONS_INIT;
  PoolOptions(const Dims& kernel, const Dims& stride, const Dims& padding, const Dims& dilation,
              bool ceil_mode, bool count_include_pad, int64_t divisor_override) {
    std::copy(kernel.begin(), kernel.end(), value.kernel);
    std::copy(stride.begin(), stride.end(), value.stride);
    std::copy(padding.begin(), padding.end(), value.padding);
    std::copy(dilation.begin(), dilation.end(), value.dilation);
    value.ceil_mode = ceil_mode;
    value.count_include_pad = count_include_pad;
    value.divisor_override = divisor_override;
  }
  PoolOptions() { value.adaptive = 1; }
};

}  // namespace

void bind_pool(py::module_& m) {
  py::class_<PoolOptions>(m, "PoolOptions")
      .def(py::init<>())
      .def(py::init<const Dims&, const Dims&, const Dims&, const Dims&, bool, bool, int64_t>());
  m.def("max_pool_forward", [](const In& x, const Out& out, const Out& indices, const PoolOptions& options) {
    run([&] { return fastdl_max_pool_forward(nullptr, x, out, indices, &options.value); });
  });
  m.def("max_pool_backward",
        [](const In& grad_out, const In& indices, const Out& grad_x, const PoolOptions& options) {
          run([&] { return fastdl_max_pool_backward(nullptr, grad_out, indices, grad_x, &options.value); });
        });
  m.def("avg_pool_forward", [](const In& x, const Out& out, const PoolOptions& options) {
    run([&] { return fastdl_avg_pool_forward(nullptr, x, out, &options.value); });
  });
  m.def("avg_pool_backward", [](const In& grad_out, const Out& grad_x, const PoolOptions& options) {
    run([&] { return fastdl_avg_pool_backward(nullptr, grad_out, grad_x, &options.value); });
  });
}

}  // namespace fastdl::bindings
