// fastdl._cuda and fastdl._cuda_sim: the C ABI of libfastdl_cuda for CuPy arrays, or that of the host
// executor for NumPy arrays. The functions have the names and arguments of fastdl._core.
#include "bindings/common.h"

namespace fastdl::bindings {

#define FASTDL_FAMILY(name) void bind_##name(py::module_&);
FASTDL_BOUND_FAMILIES
#undef FASTDL_FAMILY
#ifdef FASTDL_BINDING_SIMT
void bind_memory(py::module_&);
void choose_stream() {}
#endif

namespace {
void check(fastdl_status status) {
  if (status != FASTDL_OK) raise(status);
}
}  // namespace

}  // namespace fastdl::bindings

using namespace fastdl::bindings;

PYBIND11_MODULE(FASTDL_MODULE, m) {
  m.def("get_float32_precision", [] { return fastdl_cuda_get_float32_precision(); });
  m.def("set_float32_precision", [](int p) { check(fastdl_cuda_set_float32_precision(p)); });
  m.def("device_count", [] {
    int32_t count = 0;
    check(fastdl_cuda_device_count(&count));
    return count;
  });
  m.def("device_name", [] {
    char name[256];
    check(fastdl_cuda_device_name(name, sizeof name));
    return std::string(name);
  });
  m.def("check", [] { run([] { return fastdl_cuda_check(nullptr); }); });
#define FASTDL_FAMILY(name) bind_##name(m);
  FASTDL_BOUND_FAMILIES
#undef FASTDL_FAMILY
#ifdef FASTDL_BINDING_SIMT
  bind_memory(m);
#endif
}
