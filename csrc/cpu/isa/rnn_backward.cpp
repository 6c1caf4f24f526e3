// Backward cells. The gradient of h is the recurrent product plus what comes from y (and from h_n at a
// sequence's last step); from it each cell makes the gradients of its gates' pre-activations.
#include "cpu/isa/rnn.h"
#include "cpu/isa/rnn_cells.h"

namespace fastdl::cpu::FASTDL_ISA {
namespace {

template <class S, class A = compute_t<S>>
FASTDL_INLINE Vec<A> grad_h(const RnnBackwardStep<S>& s, int lanes, int64_t r, int64_t j) {
  Vec<A> sum = s.sums ? Vec<A>::load(s.sums + r * kPanel<A> + j) : Vec<A>::zero();
  if (s.grad_y) sum = sum + load(s.grad_y + r * s.ld_grad_y + j, lanes);
  if (s.grad_h_n) sum = sum + load(s.grad_h_n + r * s.hidden + j, lanes);
  return sum;
}

template <class A>
FASTDL_INLINE Vec<A> one() {
  return Vec<A>::broadcast(A(1));
}
// The derivatives of tanh and sigmoid from their values.
template <class A>
FASTDL_INLINE Vec<A> tanh_slope(Vec<A> y) {
  return fnma(y, y, one<A>());
}
template <class A>
FASTDL_INLINE Vec<A> sigmoid_slope(Vec<A> y) {
  return y * (one<A>() - y);
}

template <class S, bool kRelu>
void rnn(const RnnBackwardStep<S>& s) {
  using A = compute_t<S>;
  each_vector<A>(s.rows, s.units, [&](int lanes, auto vectors, int64_t r, int64_t j0) FASTDL_FORCE_INLINE {
    constexpr int N = decltype(vectors)::count;
    FASTDL_EACH {
      const int64_t j = j0 + i * Vec<A>::width;
      const Vec<A> h = load(s.h + r * s.ld_h + j, lanes), dh = grad_h(s, lanes, r, j);
      // relu as torch: the gradient passes where the output is not <= 0, so also where it is NaN.
      store(kRelu ? select(h <= Vec<A>::zero(), Vec<A>::zero(), dh) : dh * tanh_slope(h),
            s.grad_gates_x + r * s.ld_grad_gates + j, lanes);
    }
  });
}

template <class S>
void gru(const RnnBackwardStep<S>& s) {
  using A = compute_t<S>;
  using V = Vec<A>;
  const int64_t hidden = s.hidden;
  each_vector<A>(s.rows, s.units, [&](int lanes, auto vectors, int64_t r, int64_t j0) FASTDL_FORCE_INLINE {
    constexpr int N = decltype(vectors)::count;
    FASTDL_EACH {
      const int64_t j = j0 + i * Vec<A>::width;
      const A* gates = s.gates + r * 3 * hidden + j;
      A* carry = s.carry + r * hidden + j;
      const V reset = load(gates, lanes), update = load(gates + hidden, lanes),
              fresh = load(gates + 2 * hidden, lanes);
      const V before = load(s.h + r * s.ld_h + j, lanes), part = load(s.state + r * hidden + j, lanes);
      const V dh = grad_h(s, lanes, r, j) + load(carry, lanes);
      const V d_fresh = dh * (one<A>() - update) * tanh_slope(fresh);
      const V d_update = dh * (before - fresh) * sigmoid_slope(update);
      const V d_reset = d_fresh * part * sigmoid_slope(reset);
      store(dh * update, carry, lanes);
      S* x = s.grad_gates_x + r * s.ld_grad_gates + j;
      S* h = s.grad_gates_h + r * s.ld_grad_gates + j;
      store(d_reset, x, lanes);
      store(d_reset, h, lanes);
      store(d_update, x + hidden, lanes);
      store(d_update, h + hidden, lanes);
      store(d_fresh, x + 2 * hidden, lanes);
      store(d_fresh * reset, h + 2 * hidden, lanes);
    }
  });
}

template <class S>
void lstm(const RnnBackwardStep<S>& s) {
  using A = compute_t<S>;
  using V = Vec<A>;
  const int64_t hidden = s.hidden;
  each_vector<A>(s.rows, s.units, [&](int lanes, auto vectors, int64_t r, int64_t j0) FASTDL_FORCE_INLINE {
    constexpr int N = decltype(vectors)::count;
    V tanh_c[N];
    FASTDL_EACH {
      const int64_t j = j0 + i * Vec<A>::width;
      tanh_c[i] = load(s.state + r * hidden + j, lanes);
    }
    gate_tanh(tanh_c);
    FASTDL_EACH {
      const int64_t j = j0 + i * Vec<A>::width;
      const A* gates = s.gates + r * 4 * hidden + j;
      A* carry = s.carry + r * hidden + j;
      const V input = load(gates, lanes), forget = load(gates + hidden, lanes);
      const V cell = load(gates + 2 * hidden, lanes), output = load(gates + 3 * hidden, lanes);
      const V dh = grad_h(s, lanes, r, j);
      const V dc = fma(dh * output, tanh_slope(tanh_c[i]), load(carry, lanes));
      store(dc * forget, carry, lanes);
      S* d = s.grad_gates_x + r * s.ld_grad_gates + j;
      store(dc * cell * sigmoid_slope(input), d, lanes);
      store(dc * load(s.state_before + r * hidden + j, lanes) * sigmoid_slope(forget), d + hidden, lanes);
      store(dc * input * tanh_slope(cell), d + 2 * hidden, lanes);
      store(dh * tanh_c[i] * sigmoid_slope(output), d + 3 * hidden, lanes);
    }
  });
}

template <class S>
void plain(const RnnPlainStep<S>& s) {
  using A = compute_t<S>;
  each_vector<A>(s.rows, s.units, [&](int lanes, auto vectors, int64_t r, int64_t j0) FASTDL_FORCE_INLINE {
    constexpr int N = decltype(vectors)::count;
    FASTDL_EACH {
      const int64_t j = j0 + i * Vec<A>::width;
      Vec<A> sum = s.sums ? Vec<A>::load(s.sums + r * kPanel<A> + j) : Vec<A>::zero();
      if (s.add[0]) sum = sum + load(s.add[0] + r * s.ld_add[0] + j, lanes);
      if (s.add[1]) sum = sum + load(s.add[1] + r * s.ld_add[1] + j, lanes);
      if (s.add_wide) sum = sum + load(s.add_wide + r * s.ld_wide + j, lanes);
      store(sum, s.out + r * s.ld_out + j, lanes);
    }
  });
}

template <class S>
void column_sums(const S* a, int64_t ld, int64_t rows, int64_t columns, compute_t<S>* out) {
  using A = compute_t<S>;
  constexpr int W = Vec<A>::width, kVectors = 4;
  int64_t j = 0;
  for (; j + kVectors * W <= columns; j += kVectors * W) {
    Vec<A> sums[kVectors];
    FASTDL_UNROLL for (int v = 0; v < kVectors; ++v) sums[v] = Vec<A>::zero();
    for (int64_t r = 0; r < rows; ++r) {
      FASTDL_UNROLL for (int v = 0; v < kVectors; ++v) sums[v] = sums[v] + load_as<A>(a + r * ld + j + v * W);
    }
    FASTDL_UNROLL for (int v = 0; v < kVectors; ++v) sums[v].store(out + j + v * W);
  }
  for (; j < columns; j += W) {
    const int lanes = static_cast<int>(columns - j < W ? columns - j : W);
    Vec<A> sum = Vec<A>::zero();
    for (int64_t r = 0; r < rows; ++r) sum = sum + load(a + r * ld + j, lanes);
    store(sum, out + j, lanes);
  }
}

template <class S>
constexpr RnnBackwardTable<S> make_table() {
  return {{rnn<S, false>, rnn<S, true>, gru<S>, lstm<S>}, plain<S>, column_sums<S>};
}

}  // namespace

extern const RnnBackwardTable<float> rnn_backward_f32;
extern const RnnBackwardTable<double> rnn_backward_f64;
extern const RnnBackwardTable<bfloat16> rnn_backward_bf16;
const RnnBackwardTable<float> rnn_backward_f32 = make_table<float>();
const RnnBackwardTable<double> rnn_backward_f64 = make_table<double>();
const RnnBackwardTable<bfloat16> rnn_backward_bf16 = make_table<bfloat16>();

}  // namespace fastdl::cpu::FASTDL_ISA
