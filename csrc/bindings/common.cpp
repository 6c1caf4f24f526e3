#include "bindings/common.h"

namespace fastdl::bindings {

void raise(fastdl_status status) {
  const std::string message = fastdl_last_error();
  switch (status) {
    case FASTDL_ERROR_SHAPE:
    case FASTDL_ERROR_VALUE:
      throw py::value_error(message);
    case FASTDL_ERROR_DTYPE:
      throw py::type_error(message);
    case FASTDL_ERROR_INDEX:
      throw py::index_error(message);
    case FASTDL_ERROR_MEMORY:
      PyErr_SetString(PyExc_MemoryError, message.c_str());
      throw py::error_already_set();
    default:
      throw std::runtime_error(message);
  }
}

}  // namespace fastdl::bindings
