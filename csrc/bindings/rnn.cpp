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
  py::class_<Options>(m, "RnnOptions")
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
                          const In& lengths, const Out& y, const Out& h_n, const Out& c_n, const Out& reserve,
                          const Options& o) {
    const Arrays p(params, false);
    run([&] {
      return fastdl_rnn_forward(nullptr, x, h0, c0, p.data(), p.size(), lengths, y, h_n, c_n, reserve, &o);
    });
  });
  m.def("rnn_backward",
        [](const In& grad_y, const In& grad_h_n, const In& grad_c_n, const In& x, const In& h0, const In& c0,
           const py::sequence& params, const In& lengths, const In& y, const In& reserve, const Out& grad_x,
           const Out& grad_h0, const Out& grad_c0, const py::sequence& grad_params, const Options& o) {
          const Arrays p(params, false), g(grad_params, true);
          if (g.size() != p.size())
            throw py::value_error("rnn_backward: expected one gradient (or None) per parameter");
          run([&] {
            return fastdl_rnn_backward(nullptr, grad_y, grad_h_n, grad_c_n, x, h0, c0, p.data(), p.size(),
                                       lengths, y, reserve, grad_x, grad_h0, grad_c0, g.data(), &o);
          });
        });
}

}  // namespace fastdl::bindings
