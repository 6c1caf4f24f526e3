#include "bindings/common.h"

#include <atomic>
#include <cstring>
#include <string>

namespace fastdl::bindings {
namespace {

// ml_dtypes' bfloat16, which NumPy knows as a user type of kind V: recognised by the name of its scalar type
// once, by that type's address afterwards.
bool is_bfloat16(const py::detail::PyArrayDescr_Proxy* descr) {
  static std::atomic<PyObject*> known{nullptr};
  if (descr->typeobj == known.load(std::memory_order_relaxed)) return true;
  const char* name = reinterpret_cast<PyTypeObject*>(descr->typeobj)->tp_name;
  const char* dot = std::strrchr(name, '.');
  if (std::strcmp(dot ? dot + 1 : name, "bfloat16") != 0) return false;
  Py_INCREF(descr->typeobj);  // its address stays its own
  known.store(descr->typeobj, std::memory_order_relaxed);
  return true;
}

// NumPy's type numbers for the built-in types are fixed by its ABI.
bool dtype_of(const py::detail::PyArrayDescr_Proxy* descr, int64_t item_size, fastdl_dtype* out) {
  out->bits = static_cast<uint8_t>(item_size * 8);
  out->lanes = 1;
  switch (descr->kind) {
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
    case 'V':
      out->code = FASTDL_BFLOAT;
      return item_size == 2 && is_bfloat16(descr);
    default:
      return false;
  }
}

std::string type_name(py::handle object) {
  const py::type type = py::type::of(object);
  const std::string name(py::str(type.attr("__name__"))), module(py::str(type.attr("__module__")));
  return module == "cupy" || module.rfind("cupy.", 0) == 0 ? "cupy.ndarray, an array on the GPU" : name;
}

}  // namespace

void Array::load(py::handle object, bool writable) {
  if (object.is_none()) return;
  auto& api = py::detail::npy_api::get();
  if (!api.PyArray_Check_(object.ptr())) {
    throw py::type_error("expected a numpy.ndarray, got " + type_name(object));
  }
  const auto* proxy = py::detail::array_proxy(object.ptr());
  constexpr int kReady = py::detail::npy_api::NPY_ARRAY_ALIGNED_;
  const py::dtype dtype = py::reinterpret_borrow<py::dtype>(proxy->descr);
  const int64_t item_size = dtype.itemsize();
  const auto* descr = py::detail::array_descriptor_proxy(proxy->descr);
  if (!dtype_of(descr, item_size, &tensor_.dtype) || descr->byteorder == '>') {
    throw py::type_error("dtype " + std::string(py::str(dtype)) + " is not supported");
  }
  if (proxy->nd > FASTDL_MAX_NDIM) {
    throw py::value_error("arrays of more than " + std::to_string(FASTDL_MAX_NDIM) +
                          " dimensions are not supported");
  }
  if (writable && !(proxy->flags & py::detail::npy_api::NPY_ARRAY_WRITEABLE_)) {
    throw py::value_error("the output array is read-only");
  }
  bool aligned = (proxy->flags & kReady) != 0;
  for (int i = 0; i < proxy->nd; ++i) aligned = aligned && proxy->strides[i] % item_size == 0;
  if (!aligned) {
    if (writable) throw py::value_error("the output array's elements are not aligned");
    copy_ = object.attr("copy")();
    proxy = py::detail::array_proxy(copy_.ptr());
  }
  tensor_.data = proxy->data;
  tensor_.device = {kDevice, 0};
  tensor_.ndim = proxy->nd;
  for (int i = 0; i < proxy->nd; ++i) {
    shape_[i] = proxy->dimensions[i];
    strides_[i] = proxy->strides[i] / item_size;
  }
  tensor_.shape = shape_;
  tensor_.strides = strides_;
  present_ = true;
}

}  // namespace fastdl::bindings
