// What every binding needs: NumPy arrays as fastdl_tensor, statuses as exceptions, the GIL released around
// kernels.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "fastdl/fastdl.h"

namespace fastdl::bindings {

namespace py = pybind11;

// Where the arrays of this module live.
#ifdef FASTDL_BINDING_CUDA
constexpr int32_t kDevice = FASTDL_CUDA;
void choose_stream();  // the caller's current one, for the calls that follow
#else
constexpr int32_t kDevice = FASTDL_CPU;
inline void choose_stream() {}
#endif

// An array (NumPy's, or CuPy's in the module for CUDA) or None seen as a fastdl_tensor. Arguments are
// declared In, Out or Optional<...>; the array outlives the call.
class Array {
 public:
  // Fails with TypeError if `object` is no array of a supported dtype; copies it if its elements are
  // unaligned.
  void load(py::handle object, bool writable);
  const fastdl_tensor* get() const { return present_ ? &tensor_ : nullptr; }
  operator const fastdl_tensor*() const { return get(); }
  double elements() const {
    double n = present_ ? 1 : 0;
    for (int i = 0; i < tensor_.ndim; ++i) n *= static_cast<double>(shape_[i]);
    return n;
  }

 private:
  bool present_ = false;
  fastdl_tensor tensor_{};
  int64_t shape_[FASTDL_MAX_NDIM];
  int64_t strides_[FASTDL_MAX_NDIM];
  py::object copy_;  // holds the aligned copy, if one was made
};

struct In : Array {};
struct Out : Array {};

[[noreturn]] void raise(fastdl_status status);

// Runs a kernel without the GIL and turns a bad status into the matching exception.
template <class F>
void run(F&& kernel) {
  choose_stream();
  PyThreadState* state = PyEval_SaveThread();
  const fastdl_status status = kernel();
  PyEval_RestoreThread(state);
  if (status != FASTDL_OK) raise(status);
}

// Matrix products and elementwise kernels on so few elements take a microsecond: giving up the GIL meanwhile,
// a good tenth of that, helps nobody.
constexpr double kFewElements = 4096;

template <class F, class... Arrays>
void run_on(F&& kernel, const Arrays&... arrays) {
  if (kDevice != FASTDL_CPU || (arrays.elements() + ...) > kFewElements) return run(kernel);
  const fastdl_status status = kernel();
  if (status != FASTDL_OK) raise(status);
}

// numpy.empty(shape, dtype), in pooled memory where the array is large (memory.cpp).
py::object new_array(int ndim, const Py_intptr_t* shape, py::dtype dtype);

}  // namespace fastdl::bindings

namespace pybind11::detail {

template <>
struct type_caster<fastdl::bindings::In> {
  PYBIND11_TYPE_CASTER(fastdl::bindings::In, const_name("numpy.ndarray | None"));
  bool load(handle source, bool) {
    value.load(source, false);
    return true;
  }
};

template <>
struct type_caster<fastdl::bindings::Out> {
  PYBIND11_TYPE_CASTER(fastdl::bindings::Out, const_name("numpy.ndarray | None"));
  bool load(handle source, bool) {
    value.load(source, true);
    return true;
  }
};

}  // namespace pybind11::detail
