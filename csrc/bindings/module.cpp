// fastdl._core: the kernels' C ABI for NumPy arrays. Prose is in the docstrings of fastdl.ops.
#include <sstream>
#include <string>

#include "bindings/common.h"

namespace fastdl::bindings {

void bind_conv(py::module_&);
void bind_attention(py::module_&);
void bind_dropout(py::module_&);
void bind_rnn(py::module_&);
void bind_norm(py::module_&);
void bind_pool(py::module_&);
void bind_activation(py::module_&);
void bind_matmul(py::module_&);
void bind_measure(py::module_&);
void bind_arithmetic(py::module_&);
void bind_softmax(py::module_&);
void bind_loss(py::module_&);
void bind_embedding(py::module_&);
void bind_optim(py::module_&);
void bind_convert(py::module_&);
void bind_memory(py::module_&);

namespace {

py::list available_isas() {
  py::list names;
  std::istringstream stream(fastdl_available_cpu_isas());
  for (std::string name; std::getline(stream, name, ',');) names.append(name);
  return names;
}

}  // namespace
}  // namespace fastdl::bindings

using namespace fastdl::bindings;

// Needs no GIL: what its functions share is atomic, locked, or made here.
PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  m.def("version", [] { return fastdl_version(); });
  m.def("get_num_threads", [] { return fastdl_get_num_threads(); });
  m.def("set_num_threads", [](int n) { run([&] { return fastdl_set_num_threads(n); }); });
  m.def("get_float32_precision", [] { return fastdl_get_float32_precision(); });
  m.def("set_float32_precision", [](int p) { run([&] { return fastdl_set_float32_precision(p); }); });
  m.def("get_cpu_isa", [] { return fastdl_get_cpu_isa(); });
  m.def("set_cpu_isa",
        [](const std::string& name) { run([&] { return fastdl_set_cpu_isa(name.c_str()); }); });
  m.def("available_isas", available_isas);
  bind_conv(m);
  bind_attention(m);
  bind_dropout(m);
  bind_rnn(m);
  bind_norm(m);
  bind_pool(m);
  bind_activation(m);
  bind_matmul(m);
  bind_measure(m);
  bind_arithmetic(m);
  bind_softmax(m);
  bind_loss(m);
  bind_embedding(m);
  bind_optim(m);
  bind_convert(m);
  bind_memory(m);
}
