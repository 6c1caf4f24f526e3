// Memory for large outputs, kept for the next output of that size. Fresh memory costs a page fault per 4 KiB
// when a kernel first writes to it, and the C library hands large blocks back to the system as they are
// freed: a training step then spends as long in faults as in arithmetic.
#include <cstdint>
#include <mutex>
#include <new>
#include <string>
#include <unordered_map>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

#include "bindings/common.h"

namespace fastdl::bindings {
namespace {

// AddressSanitizer is to see every block end and every block freed, so nothing is rounded up or kept under
// it.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kSanitized = true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif
#else
constexpr bool kSanitized = false;
#endif

constexpr std::align_val_t kAlignment{64};  // a cache line, and a register of AVX-512

class Pool {
 public:
  void* take(size_t size) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      const auto found = free_.find(size);
      if (found != free_.end() && !found->second.empty()) {
        void* block = found->second.back();
        found->second.pop_back();
        cached_ -= size;
        return block;
      }
    }
    try {
      return ::operator new(size, kAlignment);
    } catch (const std::bad_alloc&) {
      clear();  // what is kept for later may be what is missing now
      return ::operator new(size, kAlignment);
    }
  }

  void give_back(void* block, size_t size) noexcept {
    try {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (cached_ + size <= limit_) {
        free_[size].push_back(block);
        cached_ += size;
        return;
      }
    } catch (const std::bad_alloc&) {
    }
    ::operator delete(block, kAlignment);
  }

  void clear() {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto& [size, blocks] : free_) {
      for (void* block : blocks) ::operator delete(block, kAlignment);
    }
    free_.clear();
    cached_ = 0;
  }

  size_t cached() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return cached_;
  }

 private:
  // A quarter of the machine's memory, 1 GiB where that cannot be asked.
  static size_t limit() {
    if (kSanitized) return 0;
#if defined(_SC_PHYS_PAGES) && defined(_SC_PAGESIZE)
    const int64_t pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    if (pages > 0 && page > 0) return static_cast<size_t>(pages) * static_cast<size_t>(page) / 4;
#endif
    return size_t{1} << 30;
  }

  std::mutex mutex_;
  std::unordered_map<size_t, std::vector<void*>> free_;
  size_t cached_ = 0;
  const size_t limit_ = limit();
};

// Never destroyed: arrays may outlive every static object.
Pool& pool() {
  static Pool* const instance = new Pool;
  return *instance;
}

// Sizes are rounded up to an eighth of a power of two, so that nearly equal sizes share blocks.
size_t size_class(size_t bytes) {
  if (kSanitized) return bytes;
  size_t step = 4096;
  while (step * 16 <= bytes) step *= 2;
  return (bytes + step - 1) / step * step;
}

// The base of an array in pooled memory; it gives the memory back.
struct Block {
  explicit Block(size_t bytes) : size(size_class(bytes)), data(pool().take(size)) {}
  ~Block() { pool().give_back(data, size); }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  size_t size;
  void* data;
};

// Below, the C library keeps freed memory itself, and a fault or two is all there is to save.
constexpr size_t kLarge = size_t{1} << 17;

struct Shape {
  int ndim = 0;
  Py_intptr_t sizes[FASTDL_MAX_NDIM];

  void push(PyObject* size) {
    if (ndim == FASTDL_MAX_NDIM) {
      throw py::value_error("expected at most " + std::to_string(FASTDL_MAX_NDIM) + " dimensions");
    }
    const Py_ssize_t n = PyNumber_AsSsize_t(size, PyExc_ValueError);
    if (n == -1 && PyErr_Occurred()) throw py::error_already_set();
    if (n < 0) throw py::value_error("negative dimensions are not allowed");
    sizes[ndim++] = n;
  }
};

// In bytes; the largest size_t where that overflows, which NumPy then refuses.
size_t bytes_of(int ndim, const Py_intptr_t* shape, size_t item_size) {
  size_t total = item_size;
  for (int i = 0; i < ndim; ++i) {
    const auto n = static_cast<size_t>(shape[i]);
    if (n != 0 && total > SIZE_MAX / n) return SIZE_MAX;
    total *= n;
  }
  return total;
}

// numpy.empty(shape, dtype) of whatever NumPy takes for them.
py::object empty(py::handle shape, py::handle dtype) {
  Shape dims;
  if (PyTuple_Check(shape.ptr())) {
    const Py_ssize_t n = PyTuple_GET_SIZE(shape.ptr());
    for (Py_ssize_t i = 0; i < n; ++i) dims.push(PyTuple_GET_ITEM(shape.ptr(), i));
  } else if (PyIndex_Check(shape.ptr())) {
    dims.push(shape.ptr());
  } else {
    for (const py::handle size : shape) dims.push(size.ptr());
  }
  return new_array(dims.ndim, dims.sizes,
                   py::detail::npy_api::get().PyArrayDescr_Check_(dtype.ptr())
                       ? py::reinterpret_borrow<py::dtype>(dtype)
                       : py::dtype::from_args(py::reinterpret_borrow<py::object>(dtype)));
}

}  // namespace

py::object new_array(int ndim, const Py_intptr_t* shape, py::dtype dtype) {
  auto& api = py::detail::npy_api::get();
  const size_t bytes = bytes_of(ndim, shape, static_cast<size_t>(dtype.itemsize()));
  void* data = nullptr;
  py::object owner;
  // NumPy refuses sizes of more than half the address space, and objects it has to clear itself.
  if (bytes >= kLarge && bytes <= SIZE_MAX / 2 && dtype.kind() != 'O') {
    auto* block = new Block(bytes);
    data = block->data;
    owner = py::cast(block, py::return_value_policy::take_ownership);
  }
  const int flags = data ? py::detail::npy_api::NPY_ARRAY_WRITEABLE_ : 0;
  auto array = py::reinterpret_steal<py::object>(api.PyArray_NewFromDescr_(
      api.PyArray_Type_, dtype.release().ptr(), ndim, shape, nullptr, data, flags, nullptr));
  if (!array) throw py::error_already_set();
  if (owner) api.PyArray_SetBaseObject_(array.ptr(), owner.release().ptr());
  return array;
}

void bind_memory(py::module_& m) {
  py::class_<Block>(m, "Block").def_property_readonly("nbytes", [](const Block& b) { return b.size; });
  m.def("empty", empty);
  m.def("pooled_bytes", [] { return pool().cached(); });
  m.def("release_pool", [] { pool().clear(); });
}

}  // namespace fastdl::bindings
