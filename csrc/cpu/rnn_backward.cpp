#include <cstring>

#include "cpu/parallel_steps.h"
#include "cpu/rnn_layout.h"
#include "cpu/rnn_product.h"
#include "cpu/rnn_row_products.h"

namespace fastdl::cpu {
namespace {

template <class S>
struct BackwardScratch {
  S *gates_x, *gates_h, *grad_h, *packed, *h_prev;
  compute_t<S>*carry, *wide, *c0;
  const S* zeros;
};

// One layer, both directions: the loop over steps for the gradients of the gates, then products over all
// steps.
template <class S>
class BackwardLayer {
 public:
  using A = compute_t<S>;

  BackwardLayer(Context* context, const RnnBackward<S>& p, int64_t layer, const S* x, const S* y,
                const S* grad_y)
      : context_(context),
        p_(p),
        shape_(p.shape),
        rows_(p.rows),
        layer_(layer),
        ld_gates_(rnn_skewed<S>(p.shape.gates * p.shape.hidden)),
        x_(x),
        y_(y),
        grad_y_(grad_y) {}

  void run(const BackwardScratch<S>& scratch, S* grad_x) {
    const RnnShape& s = shape_;
    table_ = rnn_table(*kernels().rnn, S{}).backward;
    one_step_ = rows_.steps == 1 && !s.projection;
    const RnnReserve reserve(s, rows_.rows);
    const int64_t sequences = rows_.sequences, gates_size = rows_.rows * ld_gates_;
    S* packed = scratch.packed;
    const auto pack = [&](RnnMatrix<S>& m, const S* weight) {
      m.pack(context_, weight, 1, m.count, packed);
      packed += m.size();
    };
    for (int64_t d = 0; d < s.directions; ++d) {
      Direction& dir = direction_[d];
      const int64_t index = layer_ * s.directions + d, states = sequences * s.hidden;
      const RnnWeights<S>& w = p_.weights[static_cast<size_t>(index)];
      dir.gates = p_.reserve + reserve.gates(layer_, d);
      dir.state = p_.reserve + reserve.state(layer_, d);
      dir.unprojected = rnn_stored<S>(p_.reserve + reserve.unprojected(layer_, d));
      dir.h0 = p_.h0 ? p_.h0 + index * sequences * s.state : scratch.zeros;
      if (s.lstm()) {
        A* const c0 = scratch.c0 + d * states;
        rnn_widen(p_.c0 ? p_.c0 + index * states : scratch.zeros, c0, states);
        dir.c0 = c0;
      }
      dir.grad_h_n = p_.grad_h_n ? p_.grad_h_n + index * sequences * s.state : nullptr;
      dir.gates_x = scratch.gates_x + d * gates_size;
      dir.gates_h = s.gru() ? scratch.gates_h + d * gates_size : dir.gates_x;
      dir.carry = scratch.carry + d * states;
      dir.grad_h = s.projection ? scratch.grad_h + d * rows_.rows * s.state : nullptr;
      dir.hh = {1, s.state, s.gates * s.hidden};
      dir.hr = {1, s.hidden, s.state};
      // A single step has no product but that for h0, which first_states() leaves to the general one.
      if (!one_step_) pack(dir.hh, w.hh);
      if (s.projection) pack(dir.hr, w.hr);
      if (s.lstm() && p_.grad_c_n) rnn_widen(p_.grad_c_n + index * states, dir.carry, states);
      else if (states > 0) std::memset(dir.carry, 0, sizeof(A) * static_cast<size_t>(states));
    }
    steps();
    const RnnRowProducts<S> products(context_, p_, layer_, x_, y_, direction_);
    for (int64_t d = 0; d < s.directions; ++d) {
      products.weight_gradients(d, scratch.h_prev);
      first_states(d);
    }
    if (grad_x) products.input_gradient(scratch.wide, grad_x);
  }

 private:
  using Direction = RnnBackwardDirection<S>;

  void steps() {
    const RnnShape& s = shape_;
    const int64_t directions = s.directions, count = rows_.steps, groups = cell_groups();
    const int64_t elements = direction_[0].hh.size() + (s.projection ? direction_[0].hr.size() : 0);
    const double row_cost =
        (one_step_ ? 0.0 : static_cast<double>(elements) / 32) + static_cast<double>(s.gates * s.hidden);
    const RnnSplit split =
        rnn_split(context_, rows_.sequences, directions, groups, elements * static_cast<int64_t>(sizeof(S)));
    const double task_cost =
        row_cost * static_cast<double>(rnn_cost_rows(rows_)) / static_cast<double>(split.chunks);
    if (split.by_rows) {
      parallel_for(context_, directions * split.chunks, task_cost, [&](int64_t task) {
        const typename RnnTiles<S>::Unit unit;
        const int64_t d = task % directions, begin = task / directions * split.chunk,
                      end = begin + split.chunk;
        for (int64_t step = 0; step < count; ++step) {
          if (s.projection) through_projection(d, step, begin, end, 0, direction_[d].hh.groups());
          cells(d, step, begin, end, 0, groups);
        }
      });
      return;
    }
    const int64_t phases = s.projection ? 2 : 1, all = rows_.sequences;
    parallel_steps(context_, count * phases, directions * split.chunks,
                   task_cost / static_cast<double>(count), [&](int64_t phase, int64_t task) {
                     const typename RnnTiles<S>::Unit unit;
                     const int64_t d = task / split.chunks, chunk = task % split.chunks;
                     const auto share = [&](int64_t n, int64_t i) { return n * i / split.chunks; };
                     if (phase % phases + 1 == phases) {
                       cells(d, phase / phases, 0, all, share(groups, chunk), share(groups, chunk + 1));
                     } else {
                       const int64_t n = direction_[d].hh.groups();
                       through_projection(d, phase / phases, 0, all, share(n, chunk), share(n, chunk + 1));
                     }
                   });
  }

  int64_t cell_groups() const { return (shape_.projection ? direction_[0].hr : direction_[0].hh).groups(); }

  // The step of time t, counted against the direction.
  int64_t time(int64_t d, int64_t step) const { return d == 0 ? rows_.steps - 1 - step : step; }

  // Calls finish(group, row, count, sums) with the product of the next step's gradients of the gates; sums is
  // NULL where there is no next step.
  template <class Finish>
  void through_recurrence(int64_t d, int64_t t, int64_t step, const RnnRun& run, int64_t first, int64_t last,
                          Finish&& finish) const {
    const Direction& dir = direction_[d];
    const int64_t count = run.end - run.begin;
    if (!run.has_after) {
      for (int64_t u = first; u < last; ++u) finish(u, int64_t{0}, count, nullptr, int64_t{0});
      return;
    }
    // Every other step backwards: what a cache smaller than the weights still holds of them is then used
    // first.
    dir.hh.each_group(dir.gates_h + rows_.row(d == 0 ? t + 1 : t - 1, run.begin) * ld_gates_, ld_gates_,
                      count, first, last, step % 2 != 0, finish);
  }

  void cells(int64_t d, int64_t step, int64_t begin, int64_t end, int64_t first, int64_t last) const {
    const RnnShape& s = shape_;
    const Direction& dir = direction_[d];
    const int64_t t = time(d, step);
    each_run(rows_, t, d == 1, begin, end, [&](const RnnRun& run) {
      const auto finish = [&](int64_t u, int64_t r, int64_t count, const A* sums, int64_t) {
        cell_group(d, t, run, u, r, count, sums);
      };
      if (s.projection) {
        dir.hr.each_group(dir.grad_h + rows_.row(t, run.begin) * s.state, s.state, run.end - run.begin, first,
                          last, false, finish);
      } else {
        through_recurrence(d, t, step, run, first, last, finish);
      }
    });
  }

  // The units of a group, sequences [run.begin + r, run.begin + r + count).
  void cell_group(int64_t d, int64_t t, const RnnRun& run, int64_t group, int64_t r, int64_t count,
                  const A* sums) const {
    const RnnShape& s = shape_;
    const Direction& dir = direction_[d];
    const int64_t ld = s.width(), hidden = s.hidden, unit = group * RnnMatrix<S>::nr();
    const int64_t sequence = run.begin + r, row = rows_.row(t, sequence);
    const int64_t before = run.has_before ? rows_.row(d == 0 ? t - 1 : t + 1, sequence) : 0;
    RnnBackwardStep<S> b{};
    b.rows = count;
    b.units = std::min(RnnMatrix<S>::nr(), hidden - unit);
    b.hidden = hidden;
    b.sums = sums;
    if (!s.projection) {
      b.grad_y = grad_y_ ? grad_y_ + row * ld + d * s.state + unit : nullptr;
      b.ld_grad_y = ld;
      b.grad_h_n = !run.has_after && dir.grad_h_n ? dir.grad_h_n + sequence * hidden + unit : nullptr;
    }
    b.carry = dir.carry + sequence * hidden + unit;
    b.gates = dir.gates + row * s.gates * hidden + unit;
    b.state = dir.state + row * hidden + unit;
    if (s.lstm()) {
      b.state_before = (run.has_before ? dir.state + before * hidden : dir.c0 + sequence * hidden) + unit;
    }
    if (s.gru() && !run.has_before) {
      b.h = dir.h0 + sequence * hidden + unit;
      b.ld_h = hidden;
    } else {
      b.h = y_ + (s.gru() ? before : row) * ld + d * s.state + unit;
      b.ld_h = ld;
    }
    b.grad_gates_x = dir.gates_x + row * ld_gates_ + unit;
    b.grad_gates_h = dir.gates_h + row * ld_gates_ + unit;
    b.ld_grad_gates = ld_gates_;
    table_->cell[s.kind](b);
  }

  // With a projection: the gradient of the projected h, which then goes through the projection to the cell.
  void through_projection(int64_t d, int64_t step, int64_t begin, int64_t end, int64_t first,
                          int64_t last) const {
    const RnnShape& s = shape_;
    const Direction& dir = direction_[d];
    const int64_t t = time(d, step), ld = s.width();
    each_run(rows_, t, d == 1, begin, end, [&](const RnnRun& run) {
      through_recurrence(
          d, t, step, run, first, last, [&](int64_t u, int64_t r, int64_t count, const A* sums, int64_t) {
            const int64_t unit = u * RnnMatrix<S>::nr(), row = rows_.row(t, run.begin + r);
            RnnPlainStep<S> f{};
            f.rows = count;
            f.units = dir.hh.units(u);
            f.sums = sums;
            f.add[0] = grad_y_ ? grad_y_ + row * ld + d * s.state + unit : nullptr;
            f.ld_add[0] = ld;
            f.add[1] =
                !run.has_after && dir.grad_h_n ? dir.grad_h_n + (run.begin + r) * s.state + unit : nullptr;
            f.ld_add[1] = s.state;
            f.out = dir.grad_h + row * s.state + unit;
            f.ld_out = s.state;
            table_->plain(f);
          });
    });
  }

  // What is left before each sequence's first step is the gradient of its initial states.
  void first_states(int64_t d) const {
    const RnnShape& s = shape_;
    const Direction& dir = direction_[d];
    const int64_t index = (layer_ * s.directions + d) * rows_.sequences;
    if (p_.grad_c0) rnn_narrow(dir.carry, p_.grad_c0 + index * s.hidden, rows_.sequences * s.hidden);
    if (!p_.grad_h0) return;
    S* const grad_h0 = p_.grad_h0 + index * s.state;
    if (one_step_) {
      const S* weight = p_.weights[static_cast<size_t>(layer_ * s.directions + d)].hh;
      gemm_wide<S>(context_, rows_.sequences, s.state, s.gates * s.hidden, dir.gates_h, ld_gates_, 1, weight,
                   s.state, 1, dir.carry, s.state, s.gru());
      return rnn_narrow(dir.carry, grad_h0, rows_.sequences * s.state);
    }
    for (int64_t t = 0; t < rows_.steps; ++t) {
      each_run(rows_, t, d == 1, 0, rows_.sequences, [&](const RnnRun& run) {
        if (run.has_before) return;
        const auto finish = [&](int64_t u, int64_t r, int64_t count, const A* sums, int64_t) {
          const int64_t unit = u * RnnMatrix<S>::nr(), sequence = run.begin + r;
          RnnPlainStep<S> f{};
          f.rows = count;
          f.units = dir.hh.units(u);
          f.sums = sums;
          f.add_wide = s.gru() ? dir.carry + sequence * s.hidden + unit : nullptr;
          f.ld_wide = s.hidden;
          f.out = grad_h0 + sequence * s.state + unit;
          f.ld_out = s.state;
          table_->plain(f);
        };
        const int64_t count = run.end - run.begin, groups = dir.hh.groups();
        constexpr int64_t kGroups = 4;
        parallel_for(context_, (groups + kGroups - 1) / kGroups,
                     static_cast<double>(kGroups * dir.hh.panel_size() * count) / 32, [&](int64_t task) {
                       const typename RnnTiles<S>::Unit unit;
                       dir.hh.each_group(dir.gates_h + rows_.row(t, run.begin) * ld_gates_, ld_gates_, count,
                                         task * kGroups, std::min(groups, (task + 1) * kGroups), false,
                                         finish);
                     });
      });
    }
  }

  Context* context_;
  const RnnBackward<S>& p_;
  const RnnShape& shape_;
  const RnnRows& rows_;
  const int64_t layer_, ld_gates_;
  const S *x_, *y_, *grad_y_;
  bool one_step_ = false;
  const RnnBackwardTable<S>* table_ = nullptr;
  Direction direction_[2]{};
};

}  // namespace

template <class S>
void rnn_backward(Context* context, const RnnBackward<S>& p) {
  using A = compute_t<S>;
  const RnnShape& s = p.shape;
  if (p.rows.rows == 0) {  // the gradients of the weights are zero and the others are empty
    return rnn_for_weight_gradients(
        p, [&](S* g, int64_t n) { std::memset(g, 0, sizeof(S) * static_cast<size_t>(n)); });
  }
  const auto bytes = [](int64_t n, size_t item) { return item * static_cast<size_t>(n); };
  const RnnReserve reserve(s, p.rows.rows);
  const int64_t rows = p.rows.rows, sequences = p.rows.sequences, directions = s.directions;
  const int64_t gates = directions * rows * rnn_skewed<S>(s.gates * s.hidden);
  const int64_t packed_size = RnnMatrix<S>{1, s.state, s.gates * s.hidden}.size() +
                              (s.projection ? RnnMatrix<S>{1, s.hidden, s.state}.size() : 0);
  const int64_t widest = s.layers > 1 ? std::max(s.input, s.width()) : s.input;
  const Workspace gates_x(context, bytes(gates, sizeof(S))),
      gates_h(context, bytes(s.gru() ? gates : 0, sizeof(S)));
  const Workspace carry(context, bytes(directions * sequences * s.hidden, sizeof(A)));
  const Workspace grad_h(context, bytes(s.projection ? directions * rows * s.state : 0, sizeof(S)));
  const Workspace packed(context, bytes(directions * packed_size, sizeof(S)));
  const Workspace h_prev(context, bytes(rows * rnn_skewed<S>(s.state), sizeof(S)));
  const Workspace wide(context, bytes(sizeof(S) == 2 && directions == 2 ? rows * widest : 0, sizeof(A)));
  const Workspace between(context, bytes(s.layers > 1 ? 2 * rows * s.width() : 0, sizeof(S)));
  const int64_t zero_count = p.h0 && (p.c0 || !s.lstm()) ? 0 : sequences * std::max(s.hidden, s.state);
  const Workspace zeros(context, bytes(zero_count, sizeof(S)));
  if (zero_count > 0) std::memset(zeros.as<void>(), 0, bytes(zero_count, sizeof(S)));
  const Workspace c0(context, bytes(s.lstm() ? directions * sequences * s.hidden : 0, sizeof(A)));
  const BackwardScratch<S> scratch{gates_x.as<S>(), gates_h.as<S>(), grad_h.as<S>(),
                                   packed.as<S>(),  h_prev.as<S>(),  carry.as<A>(),
                                   wide.as<A>(),    c0.as<A>(),      zeros.as<S>()};
  const S* grad_y = p.grad_y;
  for (int64_t layer = s.layers - 1; layer >= 0; --layer) {
    const S* y = layer + 1 == s.layers ? p.y : rnn_stored<S>(p.reserve + reserve.y(layer));
    const S* x = layer == 0      ? p.x
                 : s.dropout > 0 ? rnn_stored<S>(p.reserve + reserve.dropped(layer - 1))
                                 : rnn_stored<S>(p.reserve + reserve.y(layer - 1));
    S* grad_x = layer == 0 ? p.grad_x : between.as<S>() + layer % 2 * rows * s.width();
    BackwardLayer<S>(context, p, layer, x, y, grad_y).run(scratch, grad_x);
    if (layer > 0 && s.dropout > 0) rnn_dropout(context, s, rows, layer - 1, grad_x, grad_x);
    grad_y = grad_x;
  }
}

template void rnn_backward(Context*, const RnnBackward<float>&);
template void rnn_backward(Context*, const RnnBackward<double>&);
template void rnn_backward(Context*, const RnnBackward<bfloat16>&);

}  // namespace fastdl::cpu
