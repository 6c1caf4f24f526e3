// Forward cells, the product of a few rows, and the family's table.
#include "cpu/isa/rnn.h"

#include "cpu/isa/rnn_cells.h"

namespace fastdl::cpu::FASTDL_ISA {

extern const RnnBackwardTable<float> rnn_backward_f32;
extern const RnnBackwardTable<double> rnn_backward_f64;
extern const RnnBackwardTable<bfloat16> rnn_backward_bf16;

namespace {

// The pre-activation of one gate.
template <class S, class A = compute_t<S>>
FASTDL_INLINE Vec<A> input_of(const RnnForwardStep<S>& s, const Lane<A>& lane, int64_t gate, int64_t r,
                              int64_t j) {
  const Vec<A> pre = lane.load(s.pre + gate * s.pre_gate + r * s.pre_row + j);
  return s.sums ? pre + Vec<A>::load(s.sums + gate * s.gate_stride + r * kPanel<A> + j) : pre;
}

template <class S, bool kRelu>
void rnn(const RnnForwardStep<S>& s) {
  using A = compute_t<S>;
  each_vector<A>(s.rows, s.units, [&](const Lane<A>& lane, int64_t r, int64_t j) FASTDL_FORCE_INLINE {
    const Vec<A> a = input_of(s, lane, 0, r, j);
    lane.store(s.h + r * s.ld_h + j, kRelu ? select(a < Vec<A>::zero(), Vec<A>::zero(), a) : gate_tanh(a));
  });
}

template <class S>
void gru(const RnnForwardStep<S>& s) {
  using A = compute_t<S>;
  using V = Vec<A>;
  const int64_t hidden = s.hidden;
  each_vector<A>(s.rows, s.units, [&](const Lane<A>& lane, int64_t r, int64_t j) FASTDL_FORCE_INLINE {
    V part = s.sums ? V::load(s.sums + 2 * s.gate_stride + r * kPanel<A> + j) : V::zero();
    if (s.bias_hn) part = part + lane.load(s.bias_hn + r * s.ld_bias_hn + j);
    const V reset = gate_sigmoid(input_of(s, lane, 0, r, j));
    const V update = gate_sigmoid(input_of(s, lane, 1, r, j));
    const V fresh = gate_tanh(fma(reset, part, lane.load(s.pre + 2 * s.pre_gate + r * s.pre_row + j)));
    A* state = s.state + r * hidden + j;
    const V h = fma(update, lane.load(state) - fresh, fresh);
    lane.store(state, h);
    lane.store(s.h + r * s.ld_h + j, h);
    if (s.gates) {
      S* gates = s.gates + r * 3 * hidden + j;
      lane.store(gates, reset);
      lane.store(gates + hidden, update);
      lane.store(gates + 2 * hidden, fresh);
      lane.store(s.saved_state + r * hidden + j, part);
    }
  });
}

template <class S>
void lstm(const RnnForwardStep<S>& s) {
  using A = compute_t<S>;
  using V = Vec<A>;
  const int64_t hidden = s.hidden;
  each_vector<A>(s.rows, s.units, [&](const Lane<A>& lane, int64_t r, int64_t j) FASTDL_FORCE_INLINE {
    const V input = gate_sigmoid(input_of(s, lane, 0, r, j));
    const V forget = gate_sigmoid(input_of(s, lane, 1, r, j));
    const V cell = gate_tanh(input_of(s, lane, 2, r, j));
    const V output = gate_sigmoid(input_of(s, lane, 3, r, j));
    A* state = s.state + r * hidden + j;
    const V c = fma(forget, lane.load(state), input * cell);
    lane.store(state, c);
    lane.store(s.h + r * s.ld_h + j, output * gate_tanh(c));
    if (s.gates) {
      S* gates = s.gates + r * 4 * hidden + j;
      lane.store(gates, input);
      lane.store(gates + hidden, forget);
      lane.store(gates + 2 * hidden, cell);
      lane.store(gates + 3 * hidden, output);
      lane.store(s.saved_state + r * hidden + j, c);
    }
  });
}

// Each lane is one chain of multiply-adds in the order of k, as in the tiles.
template <class T, int kRows, int kPanels>
void few(const RnnFewRows<T>& f) {
  using V = Vec<T>;
  constexpr int W = V::width;
  V sums[kPanels][kRows][2];
  FASTDL_UNROLL for (int p = 0; p < kPanels; ++p) {
    FASTDL_UNROLL for (int r = 0; r < kRows; ++r) sums[p][r][0] = sums[p][r][1] = V::zero();
  }
  const T* a = f.a;
  const T* w = f.packed;
  const int64_t ld = f.ld, stride = f.panel_stride;
  for (int64_t k = 0; k < f.depth; ++k, ++a, w += 2 * W) {
    FASTDL_UNROLL for (int p = 0; p < kPanels; ++p) {
      const V lo = V::load(w + p * stride), hi = V::load(w + p * stride + W);
      FASTDL_UNROLL for (int r = 0; r < kRows; ++r) {
        const V x = V::broadcast(a[r * ld]);
        sums[p][r][0] = fma(x, lo, sums[p][r][0]);
        sums[p][r][1] = fma(x, hi, sums[p][r][1]);
      }
    }
  }
  FASTDL_UNROLL for (int p = 0; p < kPanels; ++p) {
    FASTDL_UNROLL for (int r = 0; r < kRows; ++r) {
      sums[p][r][0].store(f.out + p * f.out_stride + r * 2 * W);
      sums[p][r][1].store(f.out + p * f.out_stride + r * 2 * W + W);
    }
  }
}

template <class T>
void few_rows(const RnnFewRows<T>& f) {
  using F = void (*)(const RnnFewRows<T>&);
  constexpr F table[4][4] = {{few<T, 1, 1>, few<T, 1, 2>, few<T, 1, 3>, few<T, 1, 4>},
                             {few<T, 2, 1>, few<T, 2, 2>, few<T, 2, 3>, few<T, 2, 4>},
                             {few<T, 3, 1>, few<T, 3, 2>, few<T, 3, 3>, few<T, 3, 4>}};
  // 32 registers hold 24 sums, 16 registers 12.
  const int fit = (Vec<float>::width == 16 ? 12 : 6) / f.rows, most = fit < 4 ? fit : 4;
  RnnFewRows<T> some = f;
  for (int64_t left = f.panels; left > 0;) {
    const int n = static_cast<int>(left < most ? left : most);
    table[f.rows - 1][n - 1](some);
    some.packed += n * f.panel_stride;
    some.out += n * f.out_stride;
    left -= n;
  }
}

template <class S>
constexpr RnnTable<S> make_table(const RnnBackwardTable<S>* backward, void (*few)(const RnnFewRows<S>&)) {
  return {{rnn<S, false>, rnn<S, true>, gru<S>, lstm<S>}, few, backward};
}

}  // namespace

extern const RnnKernels rnn_kernels;
constexpr RnnKernels kTable = {make_table<float>(&rnn_backward_f32, few_rows<float>),
                               make_table<double>(&rnn_backward_f64, few_rows<double>),
                               make_table<bfloat16>(&rnn_backward_bf16, nullptr)};
const RnnKernels rnn_kernels = kTable;

}  // namespace fastdl::cpu::FASTDL_ISA
