#include <cstring>

#include "cpu/gemm.h"
#include "cpu/kernels.h"
#include "cpu/parallel_steps.h"
#include "cpu/rnn_layout.h"

namespace fastdl::cpu {
namespace {

// out[j] (+)= sum over rows of a[r, j], rows in order: out does not depend on how columns are shared out.
template <class T>
void column_sums(Context* context, int64_t rows, int64_t columns, const T* a, bool add, T* out) {
  constexpr int64_t kColumns = 256;  // 1 KiB of float32 a row
  parallel_ranges(context, columns, kColumns, static_cast<double>(rows) / 4, [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end && !add; ++j) out[j] = T(0);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t j = begin; j < end; ++j) out[j] += a[r * columns + j];
    }
  });
}

// One layer, both directions: the loop over steps for the gradients of the gates, then products over all
// steps.
template <class T>
class BackwardLayer {
 public:
  BackwardLayer(Context* context, const RnnBackward<T>& p, int64_t layer, const T* x, const T* y,
                const T* grad_y)
      : context_(context),
        p_(p),
        shape_(p.shape),
        rows_(p.rows),
        layer_(layer),
        x_(x),
        y_(y),
        grad_y_(grad_y) {}

  struct Scratch {
    T *gates_x, *gates_h, *carry, *grad_h, *packed, *h_prev;
    const T* zeros;
  };

  void run(const Scratch& scratch, T* grad_x) {
    const RnnShape& s = shape_;
    const auto& table = table_for<T>(*kernels().rnn);
    table_ = &table;
    recurrent_ = {1, s.state, s.gates * s.hidden, table.plain_units};
    projection_ = {1, s.hidden, s.state, table.plain_units};
    const RnnReserve reserve(s, rows_.rows);
    const int64_t sequences = rows_.sequences, gates_size = rows_.rows * s.gates * s.hidden;
    T* packed = scratch.packed;
    for (int64_t d = 0; d < s.directions; ++d) {
      Direction& dir = direction_[d];
      const int64_t index = layer_ * s.directions + d;
      const RnnWeights<T>& w = p_.weights[static_cast<size_t>(index)];
      dir.gates = p_.reserve + reserve.gates(layer_, d);
      dir.state = p_.reserve + reserve.state(layer_, d);
      dir.unprojected = p_.reserve + reserve.unprojected(layer_, d);
      dir.h0 = p_.h0 ? p_.h0 + index * sequences * s.state : scratch.zeros;
      dir.c0 = p_.c0 ? p_.c0 + index * sequences * s.hidden : scratch.zeros;
      dir.grad_h_n = p_.grad_h_n ? p_.grad_h_n + index * sequences * s.state : nullptr;
      dir.gates_x = scratch.gates_x + d * gates_size;
      dir.gates_h = s.gru() ? scratch.gates_h + d * gates_size : dir.gates_x;
      dir.carry = scratch.carry + d * sequences * s.hidden;
      dir.grad_h = s.projection ? scratch.grad_h + d * rows_.rows * s.state : nullptr;
      dir.packed = packed;
      // A single step has no product but that for h0, which first_states() leaves to the general one.
      if (rows_.steps > 1 || s.projection) rnn_pack(context_, recurrent_, w.hh, 1, s.state, packed);
      packed += recurrent_.size();
      if (s.projection) {
        dir.packed_hr = packed;
        rnn_pack(context_, projection_, w.hr, 1, s.hidden, packed);
        packed += projection_.size();
      }
      const size_t carry_bytes = sizeof(T) * static_cast<size_t>(sequences * s.hidden);
      if (carry_bytes == 0) continue;
      if (s.lstm() && p_.grad_c_n) {
        std::memcpy(dir.carry, p_.grad_c_n + index * sequences * s.hidden, carry_bytes);
      } else {
        std::memset(dir.carry, 0, carry_bytes);
      }
    }
    if (grad_x && s.directions == 2 && rows_.rows > 0) {
      std::memset(grad_x, 0, sizeof(T) * static_cast<size_t>(rows_.rows * s.input_of(layer_)));
    }
    const int64_t block = rnn_block_steps(s, rows_, sizeof(T));
    for (int64_t begin = 0; begin < rows_.steps; begin += block) {
      const int64_t end = begin + block < rows_.steps ? begin + block : rows_.steps;
      steps(begin, end);
      for (int64_t d = 0; d < s.directions; ++d) {
        const auto span = rows_.span(d == 0 ? rows_.steps - end : begin, d == 0 ? rows_.steps - begin : end);
        if (grad_x) input_gradient(d, span, s.directions == 2, grad_x);
        weight_gradients(d, begin, end, span, begin > 0, scratch.h_prev);
      }
    }
    for (int64_t d = 0; d < s.directions; ++d) first_states(d);
  }

 private:
  struct Direction {
    const T *gates, *state, *unprojected, *h0, *c0, *grad_h_n, *packed, *packed_hr;
    T *gates_x, *gates_h, *carry;
    T* grad_h;  // with a projection: [rows, P]
  };

  void steps(int64_t first, int64_t last) {
    const RnnShape& s = shape_;
    const int64_t directions = s.directions;
    const int64_t elements = recurrent_.size() + (s.projection ? projection_.size() : 0);
    const double row_cost = (rows_.steps == 1 ? 0.0 : static_cast<double>(elements) / 8) +
                            16.0 * static_cast<double>(s.gates * s.hidden);
    const RnnSplit split = rnn_split(context_, rows_.sequences, directions, recurrent_.panels(),
                                     elements * static_cast<int64_t>(sizeof(T)),
                                     row_cost * static_cast<double>(rows_.sequences));
    const int64_t count = last - first;
    const double task_cost = row_cost * static_cast<double>(rows_.rows) * static_cast<double>(count) /
                             static_cast<double>(split.chunks * rows_.steps);
    if (split.by_rows) {
      parallel_for(context_, directions * split.chunks, task_cost, [&](int64_t task) {
        const int64_t d = task % directions, begin = task / directions * split.chunk;
        for (int64_t step = first; step < last; ++step) {
          if (s.projection) through_projection(d, step, begin, begin + split.chunk, 0, recurrent_.panels());
          cells(d, step, begin, begin + split.chunk, 0, cell_panels().panels());
        }
      });
      return;
    }
    const int64_t phases = s.projection ? 2 : 1, all = rows_.sequences;
    parallel_steps(context_, count * phases, directions * split.chunks,
                   task_cost / static_cast<double>(count), [&](int64_t step, int64_t task) {
                     const int64_t d = task / split.chunks, chunk = task % split.chunks;
                     const auto share = [&](int64_t panels, int64_t i) { return panels * i / split.chunks; };
                     if (step % phases + 1 == phases) {
                       const int64_t n = cell_panels().panels();
                       cells(d, first + step / phases, 0, all, share(n, chunk), share(n, chunk + 1));
                     } else {
                       const int64_t n = recurrent_.panels();
                       through_projection(d, first + step / phases, 0, all, share(n, chunk),
                                          share(n, chunk + 1));
                     }
                   });
  }

  const RnnPanels& cell_panels() const { return shape_.projection ? projection_ : recurrent_; }

  // The step of time t, counted against the direction.
  int64_t time(int64_t d, int64_t step) const { return d == 0 ? rows_.steps - 1 - step : step; }
  int64_t row_of(int64_t t, int64_t sequence) const { return rows_.offset_at(t) + sequence; }

  RnnOperand<T> next_gates(int64_t d, int64_t t, const RnnRun& run) const {
    const int64_t depth = shape_.gates * shape_.hidden, count = run.end - run.begin;
    if (!run.has_after) return {nullptr, 0, 0, count};
    return {direction_[d].gates_h + row_of(d == 0 ? t + 1 : t - 1, run.begin) * depth, depth, depth, count};
  }

  void cells(int64_t d, int64_t step, int64_t begin, int64_t end, int64_t first, int64_t last) const {
    const RnnShape& s = shape_;
    const Direction& dir = direction_[d];
    const int64_t t = time(d, step), ld = s.width(), hidden = s.hidden;
    each_run(rows_, t, d == 1, begin, end, [&](const RnnRun& run) {
      const int64_t row = row_of(t, run.begin);
      const int64_t before = run.has_before ? row_of(d == 0 ? t - 1 : t + 1, run.begin) : 0;
      RnnBackwardStep<T> b{};
      b.hidden = hidden;
      if (s.projection) {
        b.next = {dir.grad_h + row * s.state, s.state, s.state, run.end - run.begin};
      } else {
        b.next = next_gates(d, t, run);
        b.grad_y = grad_y_ ? grad_y_ + row * ld + d * s.state : nullptr;
        b.ld_grad_y = ld;
        b.grad_h_n = !run.has_after && dir.grad_h_n ? dir.grad_h_n + run.begin * hidden : nullptr;
      }
      b.carry = dir.carry + run.begin * hidden;
      b.gates = dir.gates + row * s.gates * hidden;
      b.new_part = b.c = dir.state + row * hidden;
      b.c_prev = run.has_before ? dir.state + before * hidden : dir.c0 + run.begin * hidden;
      if (s.gru() && !run.has_before) {
        b.h = dir.h0 + run.begin * hidden;
        b.ld_h = hidden;
      } else {
        b.h = y_ + (s.gru() ? before : row) * ld + d * s.state;
        b.ld_h = ld;
      }
      b.grad_gates_x = dir.gates_x + row * s.gates * hidden;
      b.grad_gates_h = dir.gates_h + row * s.gates * hidden;
      table_->backward->cell[s.kind](b, dir.packed_hr ? dir.packed_hr : dir.packed, first, last);
    });
  }

  // With a projection: the gradient of the projected h, which then goes through the projection to the cell.
  void through_projection(int64_t d, int64_t step, int64_t begin, int64_t end, int64_t first,
                          int64_t last) const {
    const RnnShape& s = shape_;
    const Direction& dir = direction_[d];
    const int64_t t = time(d, step);
    each_run(rows_, t, d == 1, begin, end, [&](const RnnRun& run) {
      const int64_t row = row_of(t, run.begin);
      RnnPlainStep<T> f{};
      f.a = next_gates(d, t, run);
      f.count = s.state;
      f.add[0] = grad_y_ ? grad_y_ + row * s.width() + d * s.state : nullptr;
      f.ld_add[0] = s.width();
      f.add[1] = !run.has_after && dir.grad_h_n ? dir.grad_h_n + run.begin * s.state : nullptr;
      f.ld_add[1] = s.state;
      f.out = dir.grad_h + row * s.state;
      f.ld_out = s.state;
      table_->backward->plain(f, dir.packed, first, last);
    });
  }

  // What is left before each sequence's first step is the gradient of its initial states.
  void first_states(int64_t d) const {
    const RnnShape& s = shape_;
    const Direction& dir = direction_[d];
    const int64_t index = (layer_ * s.directions + d) * rows_.sequences;
    if (p_.grad_c0 && rows_.sequences > 0) {
      std::memcpy(p_.grad_c0 + index * s.hidden, dir.carry,
                  sizeof(T) * static_cast<size_t>(rows_.sequences * s.hidden));
    }
    if (!p_.grad_h0 || rows_.sequences == 0) return;
    const int64_t depth = s.gates * s.hidden;
    if (rows_.steps == 1 && !s.projection) {
      const T* weight = p_.weights[static_cast<size_t>(layer_ * s.directions + d)].hh;
      Gemm<T> g{rows_.sequences,
                s.state,
                depth,
                dir.gates_h,
                depth,
                1,
                weight,
                s.state,
                1,
                p_.grad_h0 + index * s.state,
                s.state};
      g.end.residual = s.gru() ? dir.carry : nullptr;
      g.end.ld_residual = s.hidden;
      return gemm(context_, g);
    }
    for (int64_t t = 0; t < rows_.steps; ++t) {
      each_run(rows_, t, d == 1, 0, rows_.sequences, [&](const RnnRun& run) {
        if (run.has_before) return;
        RnnPlainStep<T> f{};
        f.a = {dir.gates_h + row_of(t, run.begin) * depth, depth, depth, run.end - run.begin};
        f.count = s.state;
        f.add[0] = s.gru() ? dir.carry + run.begin * s.hidden : nullptr;
        f.ld_add[0] = s.hidden;
        f.out = p_.grad_h0 + (index + run.begin) * s.state;
        f.ld_out = s.state;
        parallel_for(context_, recurrent_.panels(),
                     static_cast<double>(recurrent_.panel_size() * f.a.rows) / 8,
                     [&](int64_t panel) { table_->backward->plain(f, dir.packed, panel, panel + 1); });
      });
    }
  }

  void input_gradient(int64_t d, RnnRows::Span span, bool add, T* grad_x) const {
    const int64_t depth = shape_.gates * shape_.hidden, columns = shape_.input_of(layer_);
    const T* weight = p_.weights[static_cast<size_t>(layer_ * shape_.directions + d)].ih;
    Gemm<T> g{span.count, columns,
              depth,      direction_[d].gates_x + span.row * depth,
              depth,      1,
              weight,     columns,
              1,          grad_x + span.row * columns,
              columns};
    g.end.beta = add ? T(1) : T(0);
    gemm(context_, g);
  }

  // out [m, n] (+)= a^T b over the rows of a span: a [rows, m], b [rows, n].
  void outer_product(int64_t rows, int64_t m, const T* a, int64_t n, const T* b, bool add, T* out) const {
    Gemm<T> g{m, n, rows, a, 1, m, b, n, 1, out, n};
    g.end.beta = add ? T(1) : T(0);
    gemm(context_, g);
  }

  // What the rows of steps [begin, end) (those of `span`) add to the gradients of the weights.
  void weight_gradients(int64_t d, int64_t begin, int64_t end, RnnRows::Span span, bool add,
                        T* h_prev) const {
    const RnnShape& s = shape_;
    const Direction& dir = direction_[d];
    const RnnWeights<T>& g = p_.grads[static_cast<size_t>(layer_ * s.directions + d)];
    const int64_t n = span.count, columns = s.gates * s.hidden, input = s.input_of(layer_);
    const T *x = dir.gates_x + span.row * columns, *h = dir.gates_h + span.row * columns;
    if (g.ih) outer_product(n, columns, x, input, x_ + span.row * input, add, g.ih);
    if (g.bias_ih) column_sums(context_, n, columns, x, add, g.bias_ih);
    if (g.bias_hh && g.bias_ih && !s.gru()) {
      std::memcpy(g.bias_hh, g.bias_ih, sizeof(T) * static_cast<size_t>(columns));
    } else if (g.bias_hh) {
      column_sums(context_, n, columns, h, add, g.bias_hh);
    }
    if (g.hh) {
      gather_previous(d, begin, end, span.row, h_prev);
      outer_product(n, columns, h, s.state, h_prev, add, g.hh);
    }
    if (g.hr) {
      outer_product(n, s.state, dir.grad_h + span.row * s.state, s.hidden,
                    dir.unprojected + span.row * s.hidden, add, g.hr);
    }
  }

  // h_prev[row - first_row] = the state that row's step began with, for the rows of steps [begin, end).
  void gather_previous(int64_t d, int64_t begin, int64_t end, int64_t first_row, T* h_prev) const {
    const RnnShape& s = shape_;
    const int64_t ld = s.width();
    const double cost = static_cast<double>(rows_.sequences * s.state) / 4;
    parallel_for(context_, end - begin, cost, [&](int64_t i) {
      const int64_t t = time(d, begin + i);
      each_run(rows_, t, d == 1, 0, rows_.sequences, [&](const RnnRun& run) {
        for (int64_t k = run.begin; k < run.end; ++k) {
          const T* from = run.has_before ? y_ + row_of(d == 0 ? t - 1 : t + 1, k) * ld + d * s.state
                                         : direction_[d].h0 + k * s.state;
          std::memcpy(h_prev + (row_of(t, k) - first_row) * s.state, from,
                      sizeof(T) * static_cast<size_t>(s.state));
        }
      });
    });
  }

  Context* context_;
  const RnnBackward<T>& p_;
  const RnnShape& shape_;
  const RnnRows& rows_;
  const int64_t layer_;
  const T *x_, *y_, *grad_y_;
  const RnnTable<T>* table_ = nullptr;
  RnnPanels recurrent_, projection_;
  Direction direction_[2]{};
};

// Without a single row, the gradients of the weights are zero and the others are empty.
template <class T>
void no_rows(const RnnBackward<T>& p) {
  const RnnShape& s = p.shape;
  const auto zero = [](T* g, int64_t n) {
    if (g) std::memset(g, 0, sizeof(T) * static_cast<size_t>(n));
  };
  const int64_t rows = s.gates * s.hidden;
  for (size_t i = 0; i < p.grads.size(); ++i) {
    const RnnWeights<T>& g = p.grads[i];
    zero(g.ih, rows * s.input_of(static_cast<int64_t>(i) / s.directions));
    zero(g.hh, rows * s.state);
    zero(g.bias_ih, rows);
    zero(g.bias_hh, rows);
    zero(g.hr, s.state * s.hidden);
  }
}

}  // namespace

template <class T>
void rnn_backward(Context* context, const RnnBackward<T>& p) {
  const RnnShape& s = p.shape;
  if (p.rows.rows == 0) return no_rows(p);
  const auto& table = table_for<T>(*kernels().rnn);
  const auto bytes = [](int64_t n) { return sizeof(T) * static_cast<size_t>(n); };
  const RnnReserve reserve(s, p.rows.rows);
  const int64_t rows = p.rows.rows, sequences = p.rows.sequences,
                gates = s.directions * rows * s.gates * s.hidden;
  const RnnPanels recurrent{1, s.state, s.gates * s.hidden, table.plain_units};
  const RnnPanels projection{1, s.hidden, s.state, table.plain_units};
  const Workspace gates_x(context, bytes(gates)), gates_h(context, s.gru() ? bytes(gates) : 0);
  const Workspace carry(context, bytes(s.directions * sequences * s.hidden));
  const Workspace grad_h(context, s.projection ? bytes(s.directions * rows * s.state) : 0);
  const Workspace packed(context,
                         bytes(s.directions * (recurrent.size() + (s.projection ? projection.size() : 0))));
  const Workspace h_prev(context, bytes(rnn_block_steps(s, p.rows, sizeof(T)) * sequences * s.state));
  const Workspace between(context, s.layers > 1 ? bytes(2 * rows * s.width()) : 0);
  const int64_t zero_count =
      p.h0 && (p.c0 || !s.lstm()) ? 0 : sequences * (s.hidden > s.state ? s.hidden : s.state);
  const Workspace zeros(context, bytes(zero_count));
  if (zero_count > 0) std::memset(zeros.as<void>(), 0, bytes(zero_count));
  const typename BackwardLayer<T>::Scratch scratch{gates_x.as<T>(), gates_h.as<T>(), carry.as<T>(),
                                                   grad_h.as<T>(),  packed.as<T>(),  h_prev.as<T>(),
                                                   zeros.as<T>()};
  const T* grad_y = p.grad_y;
  for (int64_t layer = s.layers - 1; layer >= 0; --layer) {
    const T* y = layer + 1 == s.layers ? p.y : p.reserve + reserve.y(layer);
    const T* x = layer == 0      ? p.x
                 : s.dropout > 0 ? p.reserve + reserve.dropped(layer - 1)
                                 : p.reserve + reserve.y(layer - 1);
    T* grad_x = layer == 0 ? p.grad_x : between.as<T>() + layer % 2 * rows * s.width();
    BackwardLayer<T>(context, p, layer, x, y, grad_y).run(scratch, grad_x);
    if (layer > 0 && s.dropout > 0) rnn_dropout(context, s, rows, layer - 1, grad_x, grad_x);
    grad_y = grad_x;
  }
}

template void rnn_backward(Context*, const RnnBackward<float>&);
template void rnn_backward(Context*, const RnnBackward<double>&);

}  // namespace fastdl::cpu
