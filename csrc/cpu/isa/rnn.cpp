// Forward cells, the product of a few rows, and the family's table.
#include "cpu/isa/rnn.h"

#include "cpu/isa/few_rows_inline.h"
#include "cpu/isa/rnn_cells.h"

namespace fastdl::cpu::FASTDL_ISA {

extern const RnnBackwardTable<float> rnn_backward_f32;
extern const RnnBackwardTable<double> rnn_backward_f64;
extern const RnnBackwardTable<bfloat16> rnn_backward_bf16;

namespace {

// The pre-activation of one gate.
template <class S, class A = compute_t<S>>
FASTDL_INLINE Vec<A> input_of(const RnnForwardStep<S>& s, int lanes, int64_t gate, int64_t r, int64_t j) {
  const Vec<A> pre = load(s.pre + gate * s.pre_gate + r * s.pre_row + j, lanes);
  return s.sums ? pre + Vec<A>::load(s.sums + gate * s.gate_stride + r * kPanel<A> + j) : pre;
}

template <class S, bool kRelu>
void rnn(const RnnForwardStep<S>& s) {
  using A = compute_t<S>;
  each_vector<A>(s.rows, s.units, [&](int lanes, auto vectors, int64_t r, int64_t j0) FASTDL_FORCE_INLINE {
    constexpr int N = decltype(vectors)::count;
    Vec<A> a[N];
    FASTDL_EACH {
      const int64_t j = j0 + i * Vec<A>::width;
      a[i] = input_of(s, lanes, 0, r, j);
      if (kRelu) a[i] = select(a[i] < Vec<A>::zero(), Vec<A>::zero(), a[i]);
    }
    if constexpr (!kRelu) gate_tanh(a);
    FASTDL_EACH {
      const int64_t j = j0 + i * Vec<A>::width;
      store(a[i], s.h + r * s.ld_h + j, lanes);
    }
  });
}

template <class S>
void gru(const RnnForwardStep<S>& s) {
  using A = compute_t<S>;
  using V = Vec<A>;
  const int64_t hidden = s.hidden;
  each_vector<A>(s.rows, s.units, [&](int lanes, auto vectors, int64_t r, int64_t j0) FASTDL_FORCE_INLINE {
    constexpr int N = decltype(vectors)::count;
    V sigmoids[2 * N], part[N], fresh[N];  // reset, update
    FASTDL_EACH {
      const int64_t j = j0 + i * Vec<A>::width;
      sigmoids[i] = input_of(s, lanes, 0, r, j);
      sigmoids[N + i] = input_of(s, lanes, 1, r, j);
      part[i] = s.sums ? V::load(s.sums + 2 * s.gate_stride + r * kPanel<A> + j) : V::zero();
      if (s.bias_hn) part[i] = part[i] + load(s.bias_hn + r * s.ld_bias_hn + j, lanes);
    }
    gate_sigmoid(sigmoids);
    FASTDL_EACH {
      const int64_t j = j0 + i * Vec<A>::width;
      fresh[i] = fma(sigmoids[i], part[i], load(s.pre + 2 * s.pre_gate + r * s.pre_row + j, lanes));
    }
    gate_tanh(fresh);
    FASTDL_EACH {
      const int64_t j = j0 + i * Vec<A>::width;
      A* state = s.state + r * hidden + j;
      const V h = fma(sigmoids[N + i], load(state, lanes) - fresh[i], fresh[i]);
      store(h, state, lanes);
      store(h, s.h + r * s.ld_h + j, lanes);
      if (s.gates) {
        A* gates = s.gates + r * 3 * hidden + j;
        store(sigmoids[i], gates, lanes);
        store(sigmoids[N + i], gates + hidden, lanes);
        store(fresh[i], gates + 2 * hidden, lanes);
        store(part[i], s.saved_state + r * hidden + j, lanes);
      }
    }
  });
}

template <class S>
void lstm(const RnnForwardStep<S>& s) {
  using A = compute_t<S>;
  using V = Vec<A>;
  const int64_t hidden = s.hidden;
  each_vector<A>(s.rows, s.units, [&](int lanes, auto vectors, int64_t r, int64_t j0) FASTDL_FORCE_INLINE {
    constexpr int N = decltype(vectors)::count;
    V sigmoids[3 * N], cell[N], c[N], tanh_c[N];  // input, forget, output
    FASTDL_EACH {
      const int64_t j = j0 + i * Vec<A>::width;
      sigmoids[i] = input_of(s, lanes, 0, r, j);
      sigmoids[N + i] = input_of(s, lanes, 1, r, j);
      sigmoids[2 * N + i] = input_of(s, lanes, 3, r, j);
      cell[i] = input_of(s, lanes, 2, r, j);
    }
    gate_sigmoid(sigmoids);
    gate_tanh(cell);
    FASTDL_EACH {
      const int64_t j = j0 + i * Vec<A>::width;
      A* state = s.state + r * hidden + j;
      tanh_c[i] = c[i] = fma(sigmoids[N + i], load(state, lanes), sigmoids[i] * cell[i]);
      store(c[i], state, lanes);
    }
    gate_tanh(tanh_c);
    FASTDL_EACH {
      const int64_t j = j0 + i * Vec<A>::width;
      store(sigmoids[2 * N + i] * tanh_c[i], s.h + r * s.ld_h + j, lanes);
      if (s.gates) {
        A* gates = s.gates + r * 4 * hidden + j;
        store(sigmoids[i], gates, lanes);
        store(sigmoids[N + i], gates + hidden, lanes);
        store(cell[i], gates + 2 * hidden, lanes);
        store(sigmoids[2 * N + i], gates + 3 * hidden, lanes);
        store(c[i], s.saved_state + r * hidden + j, lanes);
      }
    }
  });
}

// Each lane is one chain of multiply-adds in the order of k, as in the tiles.
template <class T>
struct MultiplyAdd {
  using Storage = T;
  using Sum = Vec<T>;
  using Factor = Vec<T>;
  static constexpr int kLanes = Vec<T>::width, kDepth = 1;
  static FASTDL_INLINE Sum zero() { return Vec<T>::zero(); }
  static FASTDL_INLINE Factor factor(const T* p) { return Vec<T>::load(p); }
  static FASTDL_INLINE Vec<T> row(const T* p) { return Vec<T>::broadcast(*p); }
  static FASTDL_INLINE Vec<T> last_row(const T* p) { return row(p); }
  static FASTDL_INLINE Sum add(Sum sum, Vec<T> row, Factor factor) { return fma(row, factor, sum); }
  static FASTDL_INLINE void store(Sum sum, T* p) { sum.store(p); }
};

// 32 registers hold 24 sums, 16 registers 12.
constexpr int kFit = Vec<float>::width == 16 ? 12 : 6;

template <class S>
constexpr RnnTable<S> make_table(const RnnBackwardTable<S>* backward, void (*few)(const FewRows<S>&)) {
  return {{rnn<S, false>, rnn<S, true>, gru<S>, lstm<S>}, few, backward};
}

}  // namespace

extern const RnnKernels rnn_kernels;
constexpr RnnKernels kTable = {make_table<float>(&rnn_backward_f32, few_rows<MultiplyAdd<float>, kFit>),
                               make_table<double>(&rnn_backward_f64, few_rows<MultiplyAdd<double>, kFit>),
                               make_table<bfloat16>(&rnn_backward_bf16, nullptr)};
const RnnKernels rnn_kernels = kTable;

}  // namespace fastdl::cpu::FASTDL_ISA
