// Kernels of the rnn family: what a step does around its matrix product.
//
// The products run on the tiles of isa/gemm.h, over panels of `nr` columns packed per gate, so that one unit
// group (the nr hidden units of one panel of every gate) is computed from start to end by one thread while
// its sums lie in the L1 cache. S is the type elements are stored in; sums, states and gate math are
// compute_t<S>.
#pragma once

#include <cstdint>

#include "common/narrow.h"
#include "cpu/isa/few_rows.h"
#include "fastdl/rnn.h"

namespace fastdl::cpu {

// `rows` rows of one unit group, `units` <= nr of its units; every pointer is that of the group's first unit.
// Sums: element (gate, row, unit) at sums[gate * gate_stride + row * nr + unit].
template <class S>
struct RnnForwardStep {
  using A = compute_t<S>;
  int64_t rows, units, hidden;
  const A* sums;  // the recurrent product, or NULL: pre has it already
  int64_t gate_stride;
  const A* pre;  // W_ih x + b, element (gate, row, unit) at pre[gate * pre_gate + row * pre_row + unit]
  int64_t pre_gate, pre_row;
  const A*
      bias_hn;  // GRU, or NULL: rows ld_bias_hn apart (0: one for all) are added to the sums of the new gate
  int64_t ld_bias_hn;
  A* state;  // [rows, hidden]: c (LSTM), h (GRU) in full precision; of the step before, then of this one
  A* gates;  // [rows, gates * hidden]: activated, or NULL: not saved
  A* saved_state;  // with gates: c (LSTM), W_hn h + b_hn (GRU), [rows, hidden]
  S* h;
  int64_t ld_h;
};

template <class S>
struct RnnBackwardStep {
  using A = compute_t<S>;
  int64_t rows, units, hidden;
  const A* sums;    // gradient of h through the step after: rows nr apart, or NULL
  const S* grad_y;  // rows ld_grad_y apart, or NULL
  int64_t ld_grad_y;
  const S* grad_h_n;  // [rows, hidden], or NULL
  A* carry;  // [rows, hidden]: what reaches the previous step elementwise (LSTM: grad of c; GRU: z grad_h)
  const A *gates, *state, *state_before;  // as forward saved them; state_before: LSTM
  const S* h;                             // RNN: this step's h; GRU: the previous one
  int64_t ld_h;
  S* grad_gates_x;  // [rows, gates * hidden], rows ld_grad_gates apart
  S* grad_gates_h;  // GRU: the same for the recurrent side; others: the same array as grad_gates_x
  int64_t ld_grad_gates;
};

// out = sums + add[0] + add[1] (NULL: nothing).
template <class S>
struct RnnPlainStep {
  using A = compute_t<S>;
  int64_t rows, units;
  const A* sums;  // rows nr apart, or NULL
  const S* add[2];
  int64_t ld_add[2];
  const A* add_wide;  // rows ld_wide apart, or NULL
  int64_t ld_wide;
  S* out;
  int64_t ld_out;
};

template <class S>
struct RnnBackwardTable {
  void (*cell[4])(const RnnBackwardStep<S>&);
  void (*plain)(const RnnPlainStep<S>&);
  // out[j] = sum over rows of a[r * ld + j], rows in order.
  void (*column_sums)(const S* a, int64_t ld, int64_t rows, int64_t columns, compute_t<S>* out);
};

template <class S>
struct RnnTable {
  void (*forward[4])(const RnnForwardStep<S>&);  // by fastdl_rnn_kind
  void (*few_rows)(const FewRows<S>&);           // of float and double
  const RnnBackwardTable<S>* backward;
};

struct RnnKernels {
  RnnTable<float> f32;
  RnnTable<double> f64;
  RnnTable<bfloat16> bf16;
};

inline __attribute__((always_inline)) const RnnTable<float>& rnn_table(const RnnKernels& k, float) {
  return k.f32;
}
inline __attribute__((always_inline)) const RnnTable<double>& rnn_table(const RnnKernels& k, double) {
  return k.f64;
}
inline __attribute__((always_inline)) const RnnTable<bfloat16>& rnn_table(const RnnKernels& k, bfloat16) {
  return k.bf16;
}

}  // namespace fastdl::cpu
