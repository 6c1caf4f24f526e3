// Kernels of the rnn family: one step of one direction, the recurrent product and the gate math in one pass.
//
// The recurrent weights are packed once per call into panels: a panel holds, for every k, the columns of
// `units` neighbouring outputs, all gates of them side by side, so that the sums a gate needs meet in
// registers.
#pragma once

#include <cstdint>

#include "fastdl/rnn.h"

namespace fastdl::cpu {

// How a matrix of gates * count columns and `depth` rows is packed. Element (k, g, j) comes from
// source[(g * count + j) * column_stride + k * row_stride]; columns beyond `count` are zero.
struct RnnPanels {
  int64_t gates = 1, count = 0, depth = 0, units = 0;
  int64_t panels() const { return (count + units - 1) / units; }
  int64_t panel_size() const { return gates * units * depth; }
  int64_t size() const { return panels() * panel_size(); }
};

// The left operand of the recurrent product: `rows` rows of `depth` elements; depth 0 for no product
// (forward: it has been added to the gates already).
template <class T>
struct RnnOperand {
  const T* data;
  int64_t ld, depth, rows;
};

template <class T>
struct RnnForwardStep {
  RnnOperand<T> h_prev;
  int64_t hidden;
  const T*
      bias_hn;  // GRU, or NULL: rows ld_bias_hn apart (0: one for all) are added to the sums of the new gate
  int64_t ld_bias_hn;
  const T* c_prev;  // LSTM: [rows, hidden]
  T* c;             // LSTM: [rows, hidden], may be c_prev
  T* gates;         // [rows, gates * hidden]: W_ih x + b before, the activated gates after if `save`
  T* new_part;      // GRU with `save`: W_hn h + b_hn, [rows, hidden]
  T* h;
  int64_t ld_h;
  bool save;
};

template <class T>
struct RnnBackwardStep {
  RnnOperand<T> next;  // gradients of the recurrent gates one step later
  int64_t hidden;
  const T* grad_y;  // [rows, hidden] of row stride ld_grad_y, or NULL
  int64_t ld_grad_y;
  const T* grad_h_n;  // [rows, hidden], or NULL
  T* carry;  // [rows, hidden]: what reaches the previous step elementwise (LSTM: grad of c; GRU: z grad_h)
  const T *gates, *new_part, *c, *c_prev;  // as forward saved them
  const T* h;                              // RNN: this step's h; GRU: the previous one
  int64_t ld_h;
  T* grad_gates_x;  // [rows, gates * hidden]
  T* grad_gates_h;  // GRU: the same for the recurrent side; others: the same array as grad_gates_x
};

// out = product + add[0] + add[1] (NULL: nothing).
template <class T>
struct RnnPlainStep {
  RnnOperand<T> a;
  int64_t count;
  const T* add[2];
  int64_t ld_add[2];
  T* out;
  int64_t ld_out;
};

// Each runs every row of the step and panels [begin, end) of the packed weights.
template <class T>
struct RnnBackwardTable {
  void (*cell[4])(const RnnBackwardStep<T>& step, const T* packed, int64_t begin, int64_t end);
  void (*plain)(const RnnPlainStep<T>& step, const T* packed, int64_t begin, int64_t end);
};

template <class T>
struct RnnTable {
  int64_t forward_units[4];  // hidden units of one panel, by fastdl_rnn_kind
  int64_t plain_units;       // columns of a panel of everything else
  // Packs one panel.
  void (*pack)(const RnnPanels& layout, const T* source, int64_t column_stride, int64_t row_stride,
               int64_t panel, T* packed);
  void (*forward[4])(const RnnForwardStep<T>& step, const T* packed, int64_t begin, int64_t end);
  const RnnBackwardTable<T>* backward;
};

struct RnnKernels {
  RnnTable<float> f32;
  RnnTable<double> f64;
};

template <class T>
const RnnTable<T>& table_for(const RnnKernels& k) {
  if constexpr (sizeof(T) == 4) return k.f32;
  else return k.f64;
}

}  // namespace fastdl::cpu
