// CuPy arrays as fastdl_tensor, and CuPy's current stream.
#include <pybind11/gil_safe_call_once.h>

#include <cstring>
#include <string>

#include "bindings/common.h"

namespace fastdl::bindings {
namespace {

// Looked up once: attributes of CuPy that every call needs. Never freed, as the interpreter may be gone at
// exit.
struct CuPy {
  py::object ndarray, get_current_stream;
  CuPy() {
    const py::module_ module = py::module_::import("cupy");
    ndarray = module.attr("ndarray");
    get_current_stream = module.attr("cuda").attr("get_current_stream");
  }
};
const CuPy& cupy() {
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<CuPy> storage;
  return storage.call_once_and_store_result([] { return CuPy(); }).get_stored();
}

bool dtype_of(py::handle dtype, int64_t item_size, fastdl_dtype* out) {
  const auto kind = dtype.attr("kind").cast<std::string>();
  out->bits = static_cast<uint8_t>(item_size * 8);
  out->lanes = 1;
  switch (kind[0]) {
    case 'f':
      out->code = FASTDL_FLOAT;
      return item_size <= 8;
    case 'i':
      out->code = FASTDL_INT;
      return true;
    case 'u':
      out->code = FASTDL_UINT;
      return true;
    case 'b':
      out->code = FASTDL_BOOL;
      return true;
    default:  // ml_dtypes' bfloat16, a user type of kind V
      out->code = FASTDL_BFLOAT;
      return item_size == 2 && dtype.attr("name").cast<std::string>() == "bfloat16";
  }
}

}  // namespace

void Array::load(py::handle object, bool) {
  if (object.is_none()) return;
  if (!py::isinstance(object, cupy().ndarray)) {
    const py::type type = py::type::of(object);
    const auto part = [&](const char* name) { return std::string(py::str(type.attr(name))); };
    throw py::type_error("expected an array on the GPU (cupy.ndarray), got " + part("__module__") + "." +
                         part("__name__"));
  }
  const py::object dtype = object.attr("dtype");
  const auto item_size = object.attr("itemsize").cast<int64_t>();
  if (!dtype_of(dtype, item_size, &tensor_.dtype)) {
    throw py::type_error("dtype " + std::string(py::str(dtype)) + " is not supported");
  }
  const py::tuple shape = object.attr("shape"), strides = object.attr("strides");
  if (shape.size() > FASTDL_MAX_NDIM) {
    throw py::value_error("arrays of more than " + std::to_string(FASTDL_MAX_NDIM) +
                          " dimensions are not supported");
  }
  const py::object memory = object.attr("data");
  tensor_.data = reinterpret_cast<void*>(memory.attr("ptr").cast<uintptr_t>());
  tensor_.device = {kDevice, memory.attr("device_id").cast<int32_t>()};
  tensor_.ndim = static_cast<int32_t>(shape.size());
  bool aligned = reinterpret_cast<uintptr_t>(tensor_.data) % static_cast<uintptr_t>(item_size) == 0;
  for (size_t i = 0; i < shape.size(); ++i) {
    shape_[i] = shape[i].cast<int64_t>();
    const auto step = strides[i].cast<int64_t>();
    aligned = aligned && (step % item_size == 0 || shape_[i] <= 1);
    strides_[i] = step / item_size;
  }
  // CuPy's own copy would fault on it as our kernels would.
  if (!aligned) throw py::value_error("the array's elements are not aligned in memory");
  tensor_.shape = shape_;
  tensor_.strides = strides_;
  present_ = true;
}

void choose_stream() {
  const py::object stream = cupy().get_current_stream();
  fastdl_cuda_set_stream(reinterpret_cast<void*>(stream.attr("ptr").cast<uintptr_t>()));
}

}  // namespace fastdl::bindings
