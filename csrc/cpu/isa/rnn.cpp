// Forward cells, packing, and the family's table.
#include "cpu/isa/rnn.h"

#include "cpu/isa/rnn_gates.h"
#include "cpu/isa/rnn_tile.h"

namespace fastdl::cpu::FASTDL_ISA {

extern const RnnBackwardTable<float> rnn_backward_f32;
extern const RnnBackwardTable<double> rnn_backward_f64;

namespace {

template <class T, bool kRelu>
struct RnnCell {
  static constexpr int kVectors = 4, kUnits = 4 * Vec<T>::width;
  static FASTDL_INLINE void row(const RnnForwardStep<T>& s, int64_t r, int64_t j, const T* sums) {
    using V = Vec<T>;
    for (int v = 0; v < kVectors && j < s.hidden; ++v, j += V::width) {
      const Lane<T> lane(s.hidden - j);
      const V a = lane.load(s.gates + r * s.hidden + j) + V::load(sums + v * V::width);
      lane.store(s.h + r * s.ld_h + j, kRelu ? select(a < V::zero(), V::zero(), a) : gate_tanh(a));
    }
  }
};

template <class T>
struct GruCell {
  static constexpr int kVectors = 3, kUnits = Vec<T>::width;
  static FASTDL_INLINE void row(const RnnForwardStep<T>& s, int64_t r, int64_t j, const T* sums) {
    using V = Vec<T>;
    const Lane<T> lane(s.hidden - j);
    const int64_t hidden = s.hidden;
    T* gates = s.gates + r * 3 * hidden + j;
    V part = V::load(sums + 2 * V::width);
    if (s.bias_hn) part = part + lane.load(s.bias_hn + r * s.ld_bias_hn + j);
    const V reset = gate_sigmoid(lane.load(gates) + V::load(sums));
    const V update = gate_sigmoid(lane.load(gates + hidden) + V::load(sums + V::width));
    const V fresh = gate_tanh(fma(reset, part, lane.load(gates + 2 * hidden)));
    const V before = lane.load(s.h_prev.data + r * s.h_prev.ld + j);
    lane.store(s.h + r * s.ld_h + j, fma(update, before - fresh, fresh));
    if (s.save) {
      lane.store(gates, reset);
      lane.store(gates + hidden, update);
      lane.store(gates + 2 * hidden, fresh);
      lane.store(s.new_part + r * hidden + j, part);
    }
  }
};

template <class T>
struct LstmCell {
  static constexpr int kVectors = 4, kUnits = Vec<T>::width;
  static FASTDL_INLINE void row(const RnnForwardStep<T>& s, int64_t r, int64_t j, const T* sums) {
    using V = Vec<T>;
    const Lane<T> lane(s.hidden - j);
    const int64_t hidden = s.hidden;
    T* gates = s.gates + r * 4 * hidden + j;
    const V input = gate_sigmoid(lane.load(gates) + V::load(sums));
    const V forget = gate_sigmoid(lane.load(gates + hidden) + V::load(sums + V::width));
    const V cell = gate_tanh(lane.load(gates + 2 * hidden) + V::load(sums + 2 * V::width));
    const V output = gate_sigmoid(lane.load(gates + 3 * hidden) + V::load(sums + 3 * V::width));
    const V c = fma(forget, lane.load(s.c_prev + r * hidden + j), input * cell);
    lane.store(s.c + r * hidden + j, c);
    lane.store(s.h + r * s.ld_h + j, output * gate_tanh(c));
    if (s.save) {
      lane.store(gates, input);
      lane.store(gates + hidden, forget);
      lane.store(gates + 2 * hidden, cell);
      lane.store(gates + 3 * hidden, output);
    }
  }
};

template <class T, class Cell>
void forward(const RnnForwardStep<T>& step, const T* packed, int64_t begin, int64_t end) {
  run_cell<T, Cell>(step.h_prev, step, packed, begin, end);
}

template <class T>
void pack(const RnnPanels& layout, const T* source, int64_t column_stride, int64_t row_stride, int64_t panel,
          T* packed) {
  const int64_t units = layout.units, width = layout.gates * units, depth = layout.depth;
  T* out = packed + panel * layout.panel_size();
  // Blocks of k of one cache line of the source, so that each line is read once and the output block stays in
  // L1.
  constexpr int64_t kBlock = 64 / sizeof(T);
  for (int64_t k0 = 0; k0 < depth; k0 += kBlock) {
    const int64_t k1 = k0 + kBlock < depth ? k0 + kBlock : depth;
    for (int64_t g = 0; g < layout.gates; ++g) {
      for (int64_t u = 0; u < units; ++u) {
        const int64_t j = panel * units + u;
        T* column = out + g * units + u;
        const T* from = source + (g * layout.count + j) * column_stride;
        if (j < layout.count) {
          for (int64_t k = k0; k < k1; ++k) column[k * width] = from[k * row_stride];
        } else {
          for (int64_t k = k0; k < k1; ++k) column[k * width] = T(0);
        }
      }
    }
  }
}

template <class T>
constexpr RnnTable<T> make_table(const RnnBackwardTable<T>* backward) {
  return {{RnnCell<T, false>::kUnits, RnnCell<T, true>::kUnits, GruCell<T>::kUnits, LstmCell<T>::kUnits},
          4 * Vec<T>::width,
          pack<T>,
          {forward<T, RnnCell<T, false>>, forward<T, RnnCell<T, true>>, forward<T, GruCell<T>>,
           forward<T, LstmCell<T>>},
          backward};
}

}  // namespace

extern const RnnKernels rnn_kernels;
const RnnKernels rnn_kernels = {make_table<float>(&rnn_backward_f32), make_table<double>(&rnn_backward_f64)};

}  // namespace fastdl::cpu::FASTDL_ISA
