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
template <class S, class Lanes, class A = compute_t<S>>
FASTDL_INLINE Vec<A> input_of(const RnnForwardStep<S>& s, const Lanes& lane, int64_t gate, int64_t r,
                              int64_t j) {
  const Vec<A> pre = lane.load(s.pre + gate * s.pre_gate + r * s.pre_row + j);
  return s.sums ? pre + Vec<A>::load(s.sums + gate * s.gate_stride + r * kPanel<A> + j) : pre;
}

#define FASTDL_EACH FASTDL_UNROLL for (int i = 0; i < N; ++i, j += Vec<A>::width)

template <class S, bool kRelu>
void rnn(const RnnForwardStep<S>& s) {
  using A = compute_t<S>;
  each_vector<A>(s.rows, s.units, [&](auto lane, auto vectors, int64_t r, int64_t j0) FASTDL_FORCE_INLINE {
    constexpr int N = decltype(vectors)::count;
    Vec<A> a[N];
    int64_t j = j0;
    FASTDL_EACH {
      a[i] = input_of(s, lane, 0, r, j);
      if (kRelu) a[i] = select(a[i] < Vec<A>::zero(), Vec<A>::zero(), a[i]);
    }
    if constexpr (!kRelu) gate_tanh(a);
    j = j0;
    FASTDL_EACH lane.store(s.h + r * s.ld_h + j, a[i]);
  });
}

template <class S>
void gru(const RnnForwardStep<S>& s) {
  using A = compute_t<S>;
  using V = Vec<A>;
  const int64_t hidden = s.hidden;
  each_vector<A>(s.rows, s.units, [&](auto lane, auto vectors, int64_t r, int64_t j0) FASTDL_FORCE_INLINE {
    constexpr int N = decltype(vectors)::count;
    V sigmoids[2 * N], part[N], fresh[N];  // reset, update
    int64_t j = j0;
    FASTDL_EACH {
      sigmoids[i] = input_of(s, lane, 0, r, j);
      sigmoids[N + i] = input_of(s, lane, 1, r, j);
      part[i] = s.sums ? V::load(s.sums + 2 * s.gate_stride + r * kPanel<A> + j) : V::zero();
      if (s.bias_hn) part[i] = part[i] + lane.load(s.bias_hn + r * s.ld_bias_hn + j);
    }
    gate_sigmoid(sigmoids);
    j = j0;
    FASTDL_EACH fresh[i] = fma(sigmoids[i], part[i], lane.load(s.pre + 2 * s.pre_gate + r * s.pre_row + j));
    gate_tanh(fresh);
    j = j0;
    FASTDL_EACH {
      A* state = s.state + r * hidden + j;
      const V h = fma(sigmoids[N + i], lane.load(state) - fresh[i], fresh[i]);
      lane.store(state, h);
      lane.store(s.h + r * s.ld_h + j, h);
      if (s.gates) {
        A* gates = s.gates + r * 3 * hidden + j;
        lane.store(gates, sigmoids[i]);
        lane.store(gates + hidden, sigmoids[N + i]);
        lane.store(gates + 2 * hidden, fresh[i]);
        lane.store(s.saved_state + r * hidden + j, part[i]);
      }
    }
  });
}

template <class S>
void lstm(const RnnForwardStep<S>& s) {
  using A = compute_t<S>;
  using V = Vec<A>;
  const int64_t hidden = s.hidden;
  each_vector<A>(s.rows, s.units, [&](auto lane, auto vectors, int64_t r, int64_t j0) FASTDL_FORCE_INLINE {
    constexpr int N = decltype(vectors)::count;
    V sigmoids[3 * N], cell[N], c[N], tanh_c[N];  // input, forget, output
    int64_t j = j0;
    FASTDL_EACH {
      sigmoids[i] = input_of(s, lane, 0, r, j);
      sigmoids[N + i] = input_of(s, lane, 1, r, j);
      sigmoids[2 * N + i] = input_of(s, lane, 3, r, j);
      cell[i] = input_of(s, lane, 2, r, j);
    }
    gate_sigmoid(sigmoids);
    gate_tanh(cell);
    j = j0;
    FASTDL_EACH {
      A* state = s.state + r * hidden + j;
      tanh_c[i] = c[i] = fma(sigmoids[N + i], lane.load(state), sigmoids[i] * cell[i]);
      lane.store(state, c[i]);
    }
    gate_tanh(tanh_c);
    j = j0;
    FASTDL_EACH {
      lane.store(s.h + r * s.ld_h + j, sigmoids[2 * N + i] * tanh_c[i]);
      if (s.gates) {
        A* gates = s.gates + r * 4 * hidden + j;
        lane.store(gates, sigmoids[i]);
        lane.store(gates + hidden, sigmoids[N + i]);
        lane.store(gates + 2 * hidden, cell[i]);
        lane.store(gates + 3 * hidden, sigmoids[2 * N + i]);
        lane.store(s.saved_state + r * hidden + j, c[i]);
      }
    }
  });
}

#undef FASTDL_EACH

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
