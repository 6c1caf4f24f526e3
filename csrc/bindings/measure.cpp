#include "bindings/common.h"

namespace fastdl::bindings {

void bind_measure(py::module_& m) {
  m.def("measure_peak", [] {
    double gflops = 0;
    run([&] { return fastdl_measure_peak(nullptr, &gflops); });
    return gflops;
  });
  m.def("measure_peak_bfloat16", [] {
    double gflops = 0;
    run([&] { return fastdl_measure_peak_bfloat16(nullptr, &gflops); });
    return gflops;
  });
  m.def(
      "measure_copy",
      [](size_t bytes) {
        double gbytes = 0;
        run([&] { return fastdl_measure_copy(nullptr, bytes, &gbytes); });
        return gbytes;
      },
      py::arg("bytes") = size_t{64} << 20);
}

}  // namespace fastdl::bindings
