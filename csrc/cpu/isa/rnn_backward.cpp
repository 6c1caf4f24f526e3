// Backward cells. The gradient of h is the recurrent product plus what comes from y (and from h_n at a
// sequence's last step); from it each cell makes the gradients of its gates' pre-activations.
#include "cpu/isa/rnn.h"
#include "cpu/isa/rnn_gates.h"
#include "cpu/isa/rnn_tile.h"

namespace fastdl::cpu::FASTDL_ISA {
namespace {

// Runs body(lane, j, sums) for each vector of a panel of 4 that has outputs left.
template <class T, class Body>
FASTDL_INLINE void each_vector(int64_t count, int64_t j, const T* sums, Body&& body) {
  for (int v = 0; v < 4 && j < count; ++v, j += Vec<T>::width) {
    body(Lane<T>(count - j), j, Vec<T>::load(sums + v * Vec<T>::width));
  }
}

template <class T>
FASTDL_INLINE Vec<T> grad_h(const RnnBackwardStep<T>& s, const Lane<T>& lane, int64_t r, int64_t j,
                            Vec<T> product) {
  if (s.grad_y) product = product + lane.load(s.grad_y + r * s.ld_grad_y + j);
  if (s.grad_h_n) product = product + lane.load(s.grad_h_n + r * s.hidden + j);
  return product;
}

template <class T>
FASTDL_INLINE Vec<T> one() {
  return Vec<T>::broadcast(T(1));
}
// The derivatives of tanh and sigmoid from their values.
template <class T>
FASTDL_INLINE Vec<T> tanh_slope(Vec<T> y) {
  return fnma(y, y, one<T>());
}
template <class T>
FASTDL_INLINE Vec<T> sigmoid_slope(Vec<T> y) {
  return y * (one<T>() - y);
}

template <class T, bool kRelu>
struct RnnCell {
  static constexpr int kVectors = 4, kUnits = 4 * Vec<T>::width;
  static FASTDL_INLINE void row(const RnnBackwardStep<T>& s, int64_t r, int64_t j0, const T* sums) {
    each_vector<T>(s.hidden, j0, sums, [&](const Lane<T>& lane, int64_t j, Vec<T> sum) {
      const Vec<T> h = lane.load(s.h + r * s.ld_h + j), dh = grad_h(s, lane, r, j, sum);
      // relu as torch: the gradient passes where the output is not <= 0, so also where it is NaN.
      lane.store(s.grad_gates_x + r * s.hidden + j,
                 kRelu ? select(h <= Vec<T>::zero(), Vec<T>::zero(), dh) : dh * tanh_slope(h));
    });
  }
};

template <class T>
struct GruCell {
  static constexpr int kVectors = 4, kUnits = 4 * Vec<T>::width;
  static FASTDL_INLINE void row(const RnnBackwardStep<T>& s, int64_t r, int64_t j0, const T* sums) {
    const int64_t hidden = s.hidden;
    each_vector<T>(hidden, j0, sums, [&](const Lane<T>& lane, int64_t j, Vec<T> sum) {
      using V = Vec<T>;
      const T* gates = s.gates + r * 3 * hidden + j;
      T* carry = s.carry + r * hidden + j;
      const V reset = lane.load(gates), update = lane.load(gates + hidden),
              fresh = lane.load(gates + 2 * hidden);
      const V before = lane.load(s.h + r * s.ld_h + j), part = lane.load(s.new_part + r * hidden + j);
      const V dh = grad_h(s, lane, r, j, sum + lane.load(carry));
      const V d_fresh = dh * (one<T>() - update) * tanh_slope(fresh);
      const V d_update = dh * (before - fresh) * sigmoid_slope(update);
      const V d_reset = d_fresh * part * sigmoid_slope(reset);
      lane.store(carry, dh * update);
      T* x = s.grad_gates_x + r * 3 * hidden + j;
      T* h = s.grad_gates_h + r * 3 * hidden + j;
      lane.store(x, d_reset);
      lane.store(h, d_reset);
      lane.store(x + hidden, d_update);
      lane.store(h + hidden, d_update);
      lane.store(x + 2 * hidden, d_fresh);
      lane.store(h + 2 * hidden, d_fresh * reset);
    });
  }
};

template <class T>
struct LstmCell {
  static constexpr int kVectors = 4, kUnits = 4 * Vec<T>::width;
  static FASTDL_INLINE void row(const RnnBackwardStep<T>& s, int64_t r, int64_t j0, const T* sums) {
    const int64_t hidden = s.hidden;
    each_vector<T>(hidden, j0, sums, [&](const Lane<T>& lane, int64_t j, Vec<T> sum) {
      using V = Vec<T>;
      const T* gates = s.gates + r * 4 * hidden + j;
      T* carry = s.carry + r * hidden + j;
      const V input = lane.load(gates), forget = lane.load(gates + hidden);
      const V cell = lane.load(gates + 2 * hidden), output = lane.load(gates + 3 * hidden);
      const V tanh_c = gate_tanh(lane.load(s.c + r * hidden + j));
      const V dh = grad_h(s, lane, r, j, sum);
      const V dc = fma(dh * output, tanh_slope(tanh_c), lane.load(carry));
      lane.store(carry, dc * forget);
      T* d = s.grad_gates_x + r * 4 * hidden + j;
      lane.store(d, dc * cell * sigmoid_slope(input));
      lane.store(d + hidden, dc * lane.load(s.c_prev + r * hidden + j) * sigmoid_slope(forget));
      lane.store(d + 2 * hidden, dc * input * tanh_slope(cell));
      lane.store(d + 3 * hidden, dh * tanh_c * sigmoid_slope(output));
    });
  }
};

template <class T>
struct Plain {
  static constexpr int kVectors = 4, kUnits = 4 * Vec<T>::width;
  static FASTDL_INLINE void row(const RnnPlainStep<T>& s, int64_t r, int64_t j0, const T* sums) {
    each_vector<T>(s.count, j0, sums, [&](const Lane<T>& lane, int64_t j, Vec<T> sum) {
      if (s.add[0]) sum = sum + lane.load(s.add[0] + r * s.ld_add[0] + j);
      if (s.add[1]) sum = sum + lane.load(s.add[1] + r * s.ld_add[1] + j);
      lane.store(s.out + r * s.ld_out + j, sum);
    });
  }
};

template <class T, class Cell>
void backward(const RnnBackwardStep<T>& step, const T* packed, int64_t begin, int64_t end) {
  run_cell<T, Cell>(step.next, step, packed, begin, end);
}

template <class T>
void plain(const RnnPlainStep<T>& step, const T* packed, int64_t begin, int64_t end) {
  run_cell<T, Plain<T>>(step.a, step, packed, begin, end);
}

template <class T>
constexpr RnnBackwardTable<T> make_table() {
  return {{backward<T, RnnCell<T, false>>, backward<T, RnnCell<T, true>>, backward<T, GruCell<T>>,
           backward<T, LstmCell<T>>},
          plain<T>};
}

}  // namespace

extern const RnnBackwardTable<float> rnn_backward_f32;
extern const RnnBackwardTable<double> rnn_backward_f64;
const RnnBackwardTable<float> rnn_backward_f32 = make_table<float>();
const RnnBackwardTable<double> rnn_backward_f64 = make_table<double>();

}  // namespace fastdl::cpu::FASTDL_ISA
