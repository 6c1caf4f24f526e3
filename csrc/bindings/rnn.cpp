#include <memory>
#include <vector>

#include "bindings/common.h"

namespace fastdl::bindings {
namespace {

// A sequence of arrays (or None) as an array of tensor pointers.
class Arrays {
 public:
  Arrays(const py::sequence& items, bool writable) : count_(items.size()), arrays_(new Array[count_]) {
    for (size_t i = 0; i < count_; ++i) {
      held_.emplace_back(items[i]);
      arrays_[i].load(held_.back(), writable);
      pointers_.push_back(arrays_[i].get());
    }
  }
  const fastdl_tensor* const* data() const { return pointers_.data(); }
  int32_t size() const { return static_cast<int32_t>(count_); }

 private:
  size_t count_;
  std::unique_ptr<Array[]> arrays_;
  std::vector<py::object> held_;  // whatever other threads do to the caller's sequence meanwhile
  std::vector<const fastdl_tensor*> pointers_;
};

// Lengths are read before anything is launched, so they are a NumPy array on every device.
class Lengths {
 public:
  explicit Lengths(const py::object& lengths) {
    if (lengths.is_none()) return;
    if (!py::isinstance<py::array>(lengths)) throw py::type_error("expected lengths as a numpy.ndarray");
    array_ = py::array::ensure(lengths, py::array::c_style);
    const char kind = array_.dtype().kind();
    if (array_.ndim() != 1 || (kind != 'i' && kind != 'u' && kind != 'f')) {
      throw py::type_error("expected lengths to be a 1-d array of int64 or int32");
    }
    size_ = array_.shape(0);
    tensor_.data = const_cast<void*>(array_.data());
    tensor_.device = {FASTDL_CPU, 0};
    tensor_.ndim = 1;
    tensor_.dtype.code = kind == 'i' ? FASTDL_INT : kind == 'u' ? FASTDL_UINT : FASTDL_FLOAT;
    tensor_.dtype.bits = static_cast<uint8_t>(array_.itemsize() * 8);
    tensor_.dtype.lanes = 1;
    tensor_.shape = &size_;
    present_ = true;
  }
  Lengths(const Lengths&) = delete;
  Lengths& operator=(const Lengths&) = delete;
  operator const fastdl_tensor*() const { return present_ ? &tensor_ : nullptr; }

 private:
  bool present_ = false;
  py::array array_;
  int64_t size_ = 0;
  fastdl_tensor tensor_{};
};

using Options = fastdl_rnn_options;

int64_t reserve_size(const Options& o, int64_t rows, int64_t hidden, int64_t state) {
  int64_t elements = 0;
  run([&] { return fastdl_rnn_reserve_size(&o, rows, hidden, state, &elements); });
  return elements;
}

int64_t dropout_size(const Options& o, int64_t rows, int64_t state) {
  int64_t numbers = 0;
  run([&] { return fastdl_rnn_dropout_size(&o, rows, state, &numbers); });
  return numbers;
}

}  // namespace

void bind_rnn(py::module_& m) {
  py::class_<Options>(m, "RnnOptions", py::module_local())
      .def(py::init([](int kind, int num_layers, bool bidirectional, bool has_bias, bool has_projection,
                       double dropout, uint64_t seed, uint64_t offset) {
        return Options{sizeof(Options), kind,    num_layers, bidirectional, has_bias,
                       has_projection,  dropout, seed,       offset};
      }))
      .def_readonly("dropout", &Options::dropout)
      .def_readwrite("seed", &Options::seed)
      .def_readwrite("offset", &Options::offset);
  m.def("rnn_reserve_size", reserve_size);
  m.def("rnn_dropout_size", dropout_size);
  m.def("rnn_forward", [](const In& x, const In& h0, const In& c0, const py::sequence& params,
                          const py::object& lengths_, const Out& y, const Out& h_n, const Out& c_n,
                          const Out& reserve, const Options& o) {
    const Arrays p(params, false);
    const Lengths lengths(lengths_);
    run([&] {
      return fastdl_rnn_forward(nullptr, x, h0, c0, p.data(), p.size(), lengths, y, h_n, c_n, reserve, &o);
    });
  });
  m.def("rnn_backward", [](const In& grad_y, const In& grad_h_n, const In& grad_c_n, const In& x,
                           const In& h0, const In& c0, const py::sequence& params, const py::object& lengths_,
                           const In& y, const In& reserve, const Out& grad_x, const Out& grad_h0,
                           const Out& grad_c0, const py::sequence& grad_params, const Options& o) {
    const Arrays p(params, false), g(grad_params, true);
    const Lengths lengths(lengths_);
    if (g.size() != p.size())
      throw py::value_error("rnn_backward: expected one gradient (or None) per parameter");
    run([&] {
      return fastdl_rnn_backward(nullptr, grad_y, grad_h_n, grad_c_n, x, h0, c0, p.data(), p.size(), lengths,
                                 y, reserve, grad_x, grad_h0, grad_c0, g.data(), &o);
    });
  });
}

}  // namespace fastdl::bindings
