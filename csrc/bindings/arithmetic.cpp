#include "bindings/common.h"

namespace fastdl::bindings {

void bind_arithmetic(py::module_& m) {
  m.def("arithmetic", [](const In& a, const In& b, double number, const Out& out, int kind) {
    run_on([&] { return fastdl_arithmetic(nullptr, a, b, number, out, kind); }, a, b, out);
  });
}

}  // namespace fastdl::bindings
