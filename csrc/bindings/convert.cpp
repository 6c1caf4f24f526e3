#include "bindings/common.h"

namespace fastdl::bindings {

void bind_convert(py::module_& m) {
  m.def("convert", [](const In& x, const Out& out) { run([&] { return fastdl_convert(nullptr, x, out); }); });
}

}  // namespace fastdl::bindings
