#include "bindings/common.h"

namespace fastdl::bindings {

void bind_dropout(py::module_& m) {
  m.def("dropout", [](const In& x, const Out& out, double p, uint64_t seed, uint64_t offset) {
    run_on([&] { return fastdl_dropout(nullptr, x, out, p, seed, offset); }, x, out);
  });
}

}  // namespace fastdl::bindings
