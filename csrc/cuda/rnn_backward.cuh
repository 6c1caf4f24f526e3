// Backward: step by step from the end the gates' gradients, then one product over all rows each for the
// gradients of the inputs and the weights.
#pragma once

#include "cuda/matmul.h"
#include "cuda/rnn_layer.cuh"

namespace fastdl::cuda {

template <class S>
class RnnBackwardLayer {
 public:
  using T = compute_t<S>;

  RnnBackwardLayer(Context* context, const RnnBackward<S>& p, const RnnPlaces& places, int64_t layer,
                   const S* x, const S* y, const S* grad_y)
      : context_(context),
        p_(p),
        s_(p.shape),
        rows_(p.rows),
        places_(places),
        layer_(layer),
        x_(x),
        y_(y),
        grad_y_(grad_y) {}

  // grad_x: NULL if not wanted.
  void run(S* grad_x) {
    const int64_t n = rows_.rows, batch = rows_.sequences, directions = s_.directions;
    gates_stride_ = padded<S>(s_.gates * s_.hidden), grad_h_stride_ = padded<S>(s_.state);
    const RnnReserve reserve(s_, n);
    const Workspace gates_x = space<S>(context_, directions * n * gates_stride_);
    const Workspace gates_h = space<S>(context_, s_.gru() ? directions * n * gates_stride_ : 0);
    const Workspace grad_h = space<S>(context_, s_.projection ? directions * n * grad_h_stride_ : 0);
    const Workspace carry = space<T>(context_, directions * batch * s_.hidden);
    if (!p_.grad_c_n) fill_zero(context_, carry.as<T>(), directions * batch * s_.hidden);
    for (int64_t d = 0; d < directions; ++d) {
      Direction& dir = direction_[d];
      dir.index = layer_ * directions + d;
      const RnnWeights<S>& w = p_.weights[static_cast<size_t>(dir.index)];
      dir.gates = p_.reserve + reserve.gates(layer_, d);
      dir.state = p_.reserve + reserve.state(layer_, d);
      dir.unprojected = rnn_stored<S>(p_.reserve + reserve.unprojected(layer_, d));
      dir.gates_x = gates_x.as<S>() + d * n * gates_stride_;
      dir.gates_h = s_.gru() ? gates_h.as<S>() + d * n * gates_stride_ : dir.gates_x;
      dir.grad_h = grad_h.as<S>() + d * n * grad_h_stride_;
      dir.carry = carry.as<T>() + d * batch * s_.hidden;
      dir.grad_h_n = p_.grad_h_n ? p_.grad_h_n + dir.index * batch * s_.state : nullptr;
      const S* const first = s_.lstm() ? p_.c0 : s_.gru() ? p_.h0 : nullptr;
      dir.first_state = first ? first + dir.index * batch * s_.hidden : nullptr;
      dir.recurrent.emplace(context_, w.hh, s_.state, s_.gates * s_.hidden, true);
      dir.hh = dir.recurrent->product(1);
      if (s_.projection) dir.projected.emplace(context_, w.hr, s_.hidden, s_.state, true);
      if (p_.grad_c_n) {
        convert_rows(context_,
                     matrix(p_.grad_c_n + dir.index * batch * s_.hidden, batch, s_.hidden, s_.hidden),
                     matrix(dir.carry, batch, s_.hidden, s_.hidden));
      }
    }
    steps();
    for (int64_t d = 0; d < directions; ++d) {
      first_states(d);
      weight_gradients(d);
    }
    if (grad_x) input_gradient(grad_x);
  }

 private:
  struct Direction : BackwardDirection<S> {
    int64_t index;
    const S* unprojected;
    S* grad_h;  // with a projection: [N, grad_h_stride], the gradient of its result
    std::optional<StepWeights<S>> recurrent, projected;
  };

  void steps() const {
    BackwardSteps<S> plan{};
    plan.kind = s_.kind;
    plan.projection = s_.projection;
    plan.hidden = s_.hidden, plan.state = s_.state, plan.count = s_.gates * s_.hidden,
    plan.width = s_.width();
    plan.gates_stride = gates_stride_;
    plan.y = y_, plan.grad_y = grad_y_;
    for (int64_t d = 0; d < s_.directions; ++d) plan.direction[d] = direction_[d];
    const RnnPlaces host = places_of(rows_);
    if (!s_.projection) {
      if constexpr (sizeof(S) == 2) {
        if (steps_by_cluster(context_, plan, places_, s_.directions)) return;
      }
      for (int64_t d = 0; d < s_.directions; ++d)
        fill_unset(context_, direction_[d].gates_h, rows_.rows * gates_stride_);
      return each_step<S>(context_, plan, places_, host, s_.directions, true, [](Context*, int64_t) {});
    }
    StepProduct<S> projected[2]{};
    const S* grad_h[2]{};
    for (int64_t d = 0; d < s_.directions; ++d)
      projected[d] = direction_[d].projected->product(1), grad_h[d] = direction_[d].grad_h;
    const LoopKey key = loop_key(plan, host, s_.directions, projected, grad_h, grad_h_stride_);
    launch_loop(context_, key, 2 * rows_.steps, [&](Context* context) {
      for (int64_t index = 0; index < rows_.steps; ++index) through_projection(context, plan, host, index);
    });
  }

  // The gradient of the projected h, which then goes through the projection to the cell.
  void through_projection(Context* context, const BackwardSteps<S>& plan, const RnnPlaces& host,
                          int64_t index) const {
    Both<StepProduct<S>> recurrent{}, projected{};
    Both<PlainCell<S>> sums{};
    Both<BackwardCell<S>> cells{};
    for (int64_t d = 0; d < s_.directions; ++d) {
      const Direction& dir = direction_[d];
      plan.prepare(host, index, d, recurrent.of[d], cells.of[d]);
      const int64_t t = plan.time(host, index, d), row = host.row(t);
      S* const grad_h = dir.grad_h + row * grad_h_stride_;
      PlainCell<S>& sum = sums.of[d];
      sum.add = grad_y_ ? grad_y_ + row * s_.width() + d * s_.state : nullptr, sum.add_stride = s_.width();
      sum.add_last = dir.grad_h_n, sum.add_last_stride = s_.state;
      sum.out.y = grad_h, sum.out.y_stride = grad_h_stride_;
      sum.out.ends_from = host.batch_at(d == 0 ? t + 1 : t - 1);
      StepProduct<S>& q = projected.of[d] = dir.projected->product(1);
      q.rows = q.a_rows = recurrent.of[d].rows, q.a = grad_h, q.a_stride = grad_h_stride_;
    }
    step(context, recurrent, sums, s_.directions);
    step(context, projected, cells, s_.directions);
  }

  // What is left before each sequence's first step is the gradient of its initial states.
  void first_states(int64_t d) const {
    const Direction& dir = direction_[d];
    const int64_t batch = rows_.sequences;
    if (p_.grad_c0) {
      convert_rows(context_, matrix(dir.carry, batch, s_.hidden, s_.hidden),
                   matrix(p_.grad_c0 + dir.index * batch * s_.hidden, batch, s_.hidden, s_.hidden));
    }
    if (!p_.grad_h0) return;
    S* const grad_h0 = p_.grad_h0 + dir.index * batch * s_.state;
    for (int64_t t = 0; t < rows_.steps; ++t) {
      each_run(rows_, t, d == 1, 0, batch, [&](const RnnRun& run) {
        if (run.has_before) return;
        Both<StepProduct<S>> product{{dir.hh, {}}};
        StepProduct<S>& p = product.of[0];
        p.rows = p.a_rows = run.end - run.begin;
        p.a = dir.gates_h + rows_.row(t, run.begin) * gates_stride_, p.a_stride = gates_stride_;
        Both<PlainCell<S>> sum{};
        sum.of[0].wide = s_.gru() ? dir.carry + run.begin * s_.hidden : nullptr;
        sum.of[0].wide_stride = s_.hidden;
        sum.of[0].out.y = grad_h0 + run.begin * s_.state, sum.of[0].out.y_stride = s_.state;
        step(context_, product, sum, 1);
      });
    }
  }

  void weight_gradients(int64_t d) const {
    const Direction& dir = direction_[d];
    const RnnWeights<S>& g = p_.grads[static_cast<size_t>(dir.index)];
    const int64_t n = rows_.rows, count = s_.gates * s_.hidden, input = s_.input_of(layer_);
    // out [m, k] = a^T b over the rows: a [n, m], b [n, k].
    const auto outer = [&](int64_t m, const S* a, int64_t a_stride, int64_t k, const S* b, int64_t b_stride,
                           S* out) {
      gemm(context_, rows_product(m, k, n, a, 1, a_stride, b, b_stride, 1, out));
    };
    const auto column_sums = [&](const S* a, S* out) {
      sum_rows<S>(context_, n, count, a, gates_stride_, 1, matrix(out, count, 1, 1));
    };
    if (g.ih) outer(count, dir.gates_x, gates_stride_, input, x_, input, g.ih);
    if (g.bias_ih) column_sums(dir.gates_x, g.bias_ih);
    if (g.bias_hh) column_sums(dir.gates_h, g.bias_hh);
    if (g.hr) outer(s_.state, dir.grad_h, grad_h_stride_, s_.hidden, dir.unprojected, s_.hidden, g.hr);
    if (!g.hh) return;
    const int64_t stride = padded<S>(s_.state);
    const Workspace h_prev = space<S>(context_, n * stride);
    const S* const h0 = p_.h0 ? p_.h0 + dir.index * rows_.sequences * s_.state : nullptr;
    rnn_previous(context_, sizeof(S), places_,
                 {y_ + d * s_.state, h0, s_.width(), s_.state, d == 1, h_prev.as<void>(), stride});
    outer(count, dir.gates_h, gates_stride_, s_.state, h_prev.as<S>(), stride, g.hh);
  }

  // Where S is narrow, two directions are added before they are rounded.
  void input_gradient(S* grad_x) const {
    const int64_t n = rows_.rows, count = s_.gates * s_.hidden, columns = s_.input_of(layer_);
    const bool wide = sizeof(S) == 2 && s_.directions == 2;
    const Workspace sum = space<T>(context_, wide ? n * columns : 0);
    for (int64_t d = 0; d < s_.directions; ++d) {
      const Direction& dir = direction_[d];
      const S* const weight = p_.weights[static_cast<size_t>(dir.index)].ih;
      const auto add = [&](auto* out) {
        auto g = rows_product(n, columns, count, static_cast<const S*>(dir.gates_x), gates_stride_, 1, weight,
                              columns, 1, out);
        g.beta = d;
        gemm(context_, g);
      };
      wide ? add(sum.as<T>()) : add(grad_x);
    }
    if (wide) {
      convert_rows(context_, matrix(sum.as<T>(), n, columns, columns), matrix(grad_x, n, columns, columns));
    }
  }

  Context* context_;
  const RnnBackward<S>& p_;
  const RnnShape& s_;
  const RnnRows& rows_;
  const RnnPlaces& places_;
  const int64_t layer_;
  const S *x_, *y_, *grad_y_;
  int64_t gates_stride_ = 0, grad_h_stride_ = 0;
  Direction direction_[2]{};
};

template <class S>
void rnn_backward(Context* context, const RnnBackward<S>& p, const RnnPlaces& places) {
  const RnnShape& s = p.shape;
  const int64_t rows = p.rows.rows, size = rows * s.width();
  if (rows == 0) {  // the gradients of the weights are zero and the others are empty
    return rnn_for_weight_gradients(p, [&](S* g, int64_t n) { fill_zero(context, g, n); });
  }
  const RnnReserve reserve(s, rows);
  const Workspace between = space<S>(context, s.layers > 1 ? 2 * size : 0);
  const S* grad_y = p.grad_y;
  for (int64_t layer = s.layers - 1; layer >= 0; --layer) {
    const S* const y = layer + 1 == s.layers ? p.y : rnn_stored<S>(p.reserve + reserve.y(layer));
    const S* const x = layer == 0      ? p.x
                       : s.dropout > 0 ? rnn_stored<S>(p.reserve + reserve.dropped(layer - 1))
                                       : rnn_stored<S>(p.reserve + reserve.y(layer - 1));
    S* const grad_x = layer == 0 ? p.grad_x : between.template as<S>() + layer % 2 * size;
    RnnBackwardLayer<S>(context, p, places, layer, x, y, grad_y).run(grad_x);
    if (layer > 0 && s.dropout > 0) layer_dropout(context, s, layer - 1, rows, grad_x, grad_x);
    grad_y = grad_x;
  }
}

}  // namespace fastdl::cuda
