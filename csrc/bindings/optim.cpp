// Optimizer steps. A ParameterGroup keeps the parameters and their states ready as fastdl_tensors, so that a
// step only has to look at the gradients, which are new arrays each time.
#include <pybind11/stl.h>

#if !defined(_WIN32)
#include <pthread.h>
#endif

#include <atomic>
#include <deque>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <vector>

#include "bindings/common.h"

namespace fastdl::bindings {
namespace {

constexpr size_t kMaxStates = 4;

using List = std::vector<const fastdl_tensor*>;

// Interned names, made when the module is imported.
py::handle data_name, grad_name;

std::atomic<uint64_t> forks{0};  // between this process and the one that loaded the module
std::mutex renewing;

void count_forks() {
#if !defined(_WIN32)
  pthread_atfork(nullptr, nullptr, [] {
    new (&renewing) std::mutex;
    forks.fetch_add(1);
  });
#endif
}

// A mutex that children of a fork find unlocked: a thread that does not exist there may hold the parent's.
class ForkedMutex {
 public:
  std::mutex& get() {
    if (made_.load() != forks.load()) {
      const std::lock_guard<std::mutex> lock(renewing);
      if (made_.load() != forks.load()) {
        new (&mutex_) std::mutex;
        made_.store(forks.load());
      }
    }
    return mutex_;
  }

 private:
  std::mutex mutex_;
  std::atomic<uint64_t> made_{forks.load()};
};

// One thread at a time. Who waits does so without the GIL: the other one needs it.
class Turn {
 public:
  explicit Turn(ForkedMutex& mutex) : lock_(mutex.get(), std::try_to_lock) {
    if (lock_.owns_lock()) return;
    const py::gil_scoped_release release;
    lock_.lock();
  }

 private:
  std::unique_lock<std::mutex> lock_;
};

// Python: ParameterGroup(params, state, keys, master_key): `state` is the optimizer's dict from parameter to
// dict of Tensors, `keys` the entries wanted. A step returns False, with nothing done, if the group no longer
// matches: a parameter or state holds another array than at construction, or one with a gradient has no state
// yet. With a `master_key`, 16-bit parameters have a float32 copy under that key: steps update it, and the
// parameter is its rounding.
class ParameterGroup {
 public:
  ParameterGroup(const py::list& params, py::dict state, const std::vector<std::string>& keys,
                 const std::optional<std::string>& master_key)
      : state_(std::move(state)), lists_(keys.size()) {
    if (keys.size() > kMaxStates) throw py::value_error("ParameterGroup: too many states");
    for (const std::string& key : keys) keys_.push_back(py::str(key));
    if (master_key) master_key_ = py::str(*master_key);
    for (const py::handle p : py::tuple(params)) {  // a copy: other threads may change the list
      slots_.emplace_back();
      Slot& slot = slots_.back();
      slot.tensor = py::reinterpret_borrow<py::object>(p);
      slot.data = p.attr(data_name);
      slot.param.load(slot.data, true);
      slot.has_master = master_key && slot.param.get() && slot.param.get()->dtype.bits == 16;
      const py::object entry = state_.attr("get")(p);
      if (entry.is_none()) continue;
      slot.entry = entry;
      slot.complete = true;
      if (slot.has_master) {
        slot.master_value = entry.attr("get")(master_key_);
        if (slot.master_value.is_none()) {
          slot.complete = false;
          continue;
        }
        slot.master_array = slot.master_value.attr(data_name);
        slot.master.load(slot.master_array, true);
      }
      for (size_t k = 0; k < keys_.size(); ++k) {
        slot.values[k] = entry.attr("get")(keys_[k]);
        if (slot.values[k].is_none()) {
          slot.complete = false;
          break;
        }
        slot.arrays[k] = slot.values[k].attr(data_name);
        slot.states[k].load(slot.arrays[k], true);
      }
    }
    fresh_.resize(slots_.size());
    fresh_flags_.reserve(slots_.size());
  }

  void set_fresh(const std::vector<size_t>& indices) {
    for (const size_t i : indices) fresh_.at(i) = 1;
  }

  bool sgd(double lr, double momentum, double dampening, double weight_decay, bool nesterov, bool maximize) {
    const Turn turn(mutex_);
    if (keys_.size() != (momentum != 0 ? 1u : 0u) || !gather()) return false;
    if (params_.empty()) return true;
    const fastdl_sgd_options o{sizeof o,     lr,       momentum, dampening,
                               weight_decay, nesterov, maximize, rounded()};
    const bool buffers = momentum != 0;
    run([&] {
      return fastdl_sgd_step(nullptr, count(), params_.data(), grads_.data(), buffers ? list(0) : nullptr,
                             fresh_flags_.data(), &o);
    });
    held_.clear();
    if (buffers) {
      for (const size_t i : active_) fresh_[i] = 0;
    }
    return true;
  }

  // keys: step, exp_avg, exp_avg_sq[, max_exp_avg_sq]
  bool adam(double lr, double beta1, double beta2, double eps, double weight_decay, bool decoupled,
            bool amsgrad, bool maximize) {
    const Turn turn(mutex_);
    if (keys_.size() != (amsgrad ? 4u : 3u) || !gather()) return false;
    if (params_.empty()) return true;
    const fastdl_adam_options o{sizeof o,     lr,        beta1,   beta2,    eps,
                                weight_decay, decoupled, amsgrad, maximize, rounded()};
    run([&] {
      return fastdl_adam_step(nullptr, count(), params_.data(), grads_.data(), list(1), list(2),
                              amsgrad ? list(3) : nullptr, list(0), &o);
    });
    held_.clear();
    return true;
  }

  // keys: step, sum
  bool adagrad(double lr, double lr_decay, double weight_decay, double eps, bool maximize) {
    const Turn turn(mutex_);
    if (keys_.size() != 2 || !gather()) return false;
    if (params_.empty()) return true;
    const fastdl_adagrad_options o{sizeof o, lr, lr_decay, weight_decay, eps, maximize, rounded()};
    run([&] {
      return fastdl_adagrad_step(nullptr, count(), params_.data(), grads_.data(), list(1), list(0), &o);
    });
    held_.clear();
    return true;
  }

  // keys: step, square_avg[, momentum_buffer][, grad_avg]
  bool rmsprop(double lr, double alpha, double eps, double weight_decay, double momentum, bool centered,
               bool maximize) {
    const Turn turn(mutex_);
    if (keys_.size() != size_t{2} + (momentum != 0) + centered || !gather()) return false;
    if (params_.empty()) return true;
    const fastdl_rmsprop_options o{sizeof o, lr,       alpha,    eps,      weight_decay,
                                   momentum, centered, maximize, rounded()};
    const size_t buffer = 2, avg = momentum != 0 ? 3 : 2;
    run([&] {
      return fastdl_rmsprop_step(nullptr, count(), params_.data(), grads_.data(), list(1),
                                 centered ? list(avg) : nullptr, momentum != 0 ? list(buffer) : nullptr,
                                 list(0), &o);
    });
    held_.clear();
    return true;
  }

 private:
  struct Slot {
    py::object tensor, data, entry;  // the parameter, its array, its dict of states
    py::object values[kMaxStates], arrays[kMaxStates];
    Array param, states[kMaxStates];
    py::object master_value, master_array;
    Array master;
    bool has_master = false;
    bool complete = false;
  };

  int32_t count() const { return static_cast<int32_t>(params_.size()); }
  fastdl_tensor_list list(size_t k) const { return lists_.at(k).data(); }

  // False if this slot's states are no longer those in the optimizer's dict. What the dicts give is compared
  // before anything else: another thread may have taken it out and let it go.
  bool current(const Slot& slot) const {
    PyObject* entry = PyDict_GetItemWithError(state_.ptr(), slot.tensor.ptr());
    if (entry != slot.entry.ptr()) return false;
    for (size_t k = 0; k < keys_.size(); ++k) {
      if (!holds(entry, keys_[k], slot.values[k], slot.arrays[k])) return false;
    }
    return !slot.has_master || holds(entry, master_key_, slot.master_value, slot.master_array);
  }
  static bool holds(PyObject* entry, const py::object& key, const py::object& tensor,
                    const py::object& expected) {
    PyObject* value = PyDict_GetItemWithError(entry, key.ptr());
    if (value != tensor.ptr()) return false;
    const py::object array = py::reinterpret_steal<py::object>(PyObject_GetAttr(value, data_name.ptr()));
    return array.ptr() == expected.ptr();
  }

  // Fills the lists with the parameters that have a gradient.
  bool gather() {
    params_.clear();
    grads_.clear();
    rounded_.clear();
    gradients_.clear();
    held_.clear();
    active_.clear();
    fresh_flags_.clear();
    for (List& l : lists_) l.clear();
    for (size_t i = 0; i < slots_.size(); ++i) {
      Slot& slot = slots_[i];
      const py::object grad =
          py::reinterpret_steal<py::object>(PyObject_GetAttr(slot.tensor.ptr(), grad_name.ptr()));
      if (!grad) throw py::error_already_set();
      if (grad.is_none()) continue;
      const py::object data =
          py::reinterpret_steal<py::object>(PyObject_GetAttr(slot.tensor.ptr(), data_name.ptr()));
      if (data.ptr() != slot.data.ptr()) return false;
      if ((!keys_.empty() || slot.has_master) && (!slot.complete || !current(slot))) return false;
      held_.push_back(grad.attr(data_name));
      gradients_.emplace_back();
      gradients_.back().load(held_.back(), false);
      active_.push_back(i);
      params_.push_back(slot.has_master ? slot.master.get() : slot.param.get());
      rounded_.push_back(slot.has_master ? slot.param.get() : nullptr);
      grads_.push_back(gradients_.back().get());
      fresh_flags_.push_back(fresh_[i]);
      for (size_t k = 0; k < keys_.size(); ++k) lists_[k].push_back(slot.states[k].get());
    }
    return true;
  }

  // 16-bit parameters receive the roundings of their float32 copies.
  fastdl_tensor_list rounded() const { return master_key_ ? rounded_.data() : nullptr; }

  ForkedMutex mutex_;  // held for a step, whose lists are below
  py::dict state_;
  std::vector<py::str> keys_;
  py::object master_key_;   // null: 16-bit parameters are updated as they are
  std::deque<Slot> slots_;  // a deque: fastdl_tensors point into their Array
  std::vector<uint8_t> fresh_, fresh_flags_;
  std::vector<size_t> active_;
  List params_, grads_, rounded_;
  std::vector<List> lists_;
  std::deque<Array> gradients_;
  std::vector<py::object> held_;
};

// Arrays of one call, none of them missing.
struct Tensors {
  std::deque<Array> arrays;
  const py::tuple held;  // whatever other threads do to the caller's list meanwhile
  List list;
  explicit Tensors(const py::list& objects) : held(objects) {
    for (const py::handle object : held) {
      arrays.emplace_back();
      arrays.back().load(object, true);
      if (!arrays.back().get()) throw py::type_error("expected a numpy.ndarray, got None");
      list.push_back(arrays.back().get());
    }
  }
  int32_t count() const { return static_cast<int32_t>(list.size()); }
};

// Where a float64 scalar of the device is.
double* scalar(const Array& array) {
  const fastdl_tensor* t = array.get();
  if (!t || t->ndim != 0) throw py::value_error("norm: expected an array of shape ()");
  if (t->dtype.code != FASTDL_FLOAT || t->dtype.bits != 64) throw py::type_error("norm: expected float64");
  return static_cast<double*>(t->data);
}

}  // namespace

void bind_optim(py::module_& m) {
  data_name = PyUnicode_InternFromString("_data");
  grad_name = PyUnicode_InternFromString("grad");
  count_forks();
  py::class_<ParameterGroup>(m, "ParameterGroup")
      .def(py::init<const py::list&, py::dict, const std::vector<std::string>&,
                    const std::optional<std::string>&>(),
           py::arg("params"), py::arg("state"), py::arg("keys"), py::arg("master_key") = py::none())
      .def("set_fresh", &ParameterGroup::set_fresh)
      .def("sgd", &ParameterGroup::sgd)
      .def("adam", &ParameterGroup::adam)
      .def("adagrad", &ParameterGroup::adagrad)
      .def("rmsprop", &ParameterGroup::rmsprop);
  m.def("norm", [](const py::list& tensors, double p, Out norm) {
    const Tensors a(tensors);
    double* const result = scalar(norm);
    run([&] { return fastdl_norm(nullptr, a.count(), a.list.data(), p, result); });
  });
  m.def("scale", [](const py::list& tensors, double factor) {
    const Tensors a(tensors);
    run([&] { return fastdl_scale(nullptr, a.count(), a.list.data(), factor); });
  });
  m.def("clip_norm", [](const py::list& tensors, double max_norm, In norm) {
    const Tensors a(tensors);
    const double* const found = scalar(norm);
    run([&] { return fastdl_clip_norm(nullptr, a.count(), a.list.data(), max_norm, found); });
  });
}

}  // namespace fastdl::bindings
