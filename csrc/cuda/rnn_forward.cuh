// Forward: per layer one product of all inputs with W, then step by step the product with R and the gates.
#pragma once

#include "cuda/rnn_layer.cuh"

namespace fastdl::cuda {

template <class S>
class RnnForwardLayer {
 public:
  using T = compute_t<S>;

  RnnForwardLayer(Context* context, const RnnForward<S>& p, const RnnPlaces& places, int64_t layer,
                  const S* x, S* y)
      : context_(context), p_(p), s_(p.shape), rows_(p.rows), places_(places), layer_(layer), x_(x), y_(y) {}

  void run() {
    const int64_t batch = rows_.sequences, directions = s_.directions;
    const RnnReserve reserve(s_, rows_.rows);
    state_stride_ = padded<S>(s_.state), unprojected_stride_ = padded<S>(s_.hidden);
    const bool keeps_state = s_.lstm() || s_.gru();
    const Workspace gates =
        space<T>(context_, p_.reserve ? 0 : directions * rows_.rows * s_.gates * s_.hidden);
    const Workspace states = space<S>(context_, directions * rows_.rows * state_stride_);
    const Workspace cells = space<T>(context_, keeps_state ? directions * batch * s_.hidden : 0);
    const Workspace unprojected =
        space<S>(context_, s_.projection ? directions * batch * unprojected_stride_ : 0);
    for (int64_t d = 0; d < directions; ++d) {
      Direction& dir = direction_[d];
      const int64_t index = layer_ * directions + d;
      const RnnWeights<S>& w = p_.weights[static_cast<size_t>(index)];
      dir.gates = p_.reserve ? p_.reserve + reserve.gates(layer_, d)
                             : gates.as<T>() + d * rows_.rows * s_.gates * s_.hidden;
      dir.saved = p_.reserve && keeps_state ? p_.reserve + reserve.state(layer_, d) : nullptr;
      dir.saved_unprojected =
          p_.reserve && s_.projection ? rnn_stored<S>(p_.reserve + reserve.unprojected(layer_, d)) : nullptr;
      dir.bias = w.bias_hh;
      dir.states = states.as<S>() + d * rows_.rows * state_stride_;
      dir.cell = cells.as<T>() + d * batch * s_.hidden;
      dir.unprojected = unprojected.as<S>() + d * batch * unprojected_stride_;
      dir.first = p_.h0 ? p_.h0 + index * batch * s_.state : nullptr;
      dir.h_n = p_.h_n ? p_.h_n + index * batch * s_.state : nullptr;
      dir.c_n = p_.c_n ? p_.c_n + index * batch * s_.hidden : nullptr;
      dir.recurrent.emplace(context_, w.hh, s_.gates * s_.hidden, s_.state);
      dir.hh = dir.recurrent->product(s_.gates);
      if (s_.projection) dir.projected.emplace(context_, w.hr, s_.state, s_.hidden);
      first_cells(dir, index);
      const int64_t input = s_.input_of(layer_);
      Gemm<S> g =
          rows_product(rows_.rows, s_.gates * s_.hidden, input, x_, input, 1, w.ih, 1, input, dir.gates);
      g.bias = w.bias_ih;
      gemm(context_, g);
    }
    if (s_.lstm() || s_.gru()) steps<GatesCell<S>>();
    else steps<PlainCell<S>>();
  }

 private:
  struct Direction : ForwardDirection<S> {
    std::optional<StepWeights<S>> recurrent, projected;
  };

  // Memory of all states as the kernels of many blocks and of one step want it: where sequences begin, h0.
  void first_states() const {
    for (int64_t d = 0; d < s_.directions; ++d) {
      const Direction& dir = direction_[d];
      if (!s_.projection) fill_unset(context_, dir.states, rows_.rows * state_stride_);
      for (int64_t t = 0; dir.first && t < rows_.steps; ++t) {
        const int64_t begun = rows_.batch_at(d == 0 ? t - 1 : t + 1), count = rows_.batch_at(t) - begun;
        if (count <= 0) continue;
        rnn_first_states(context_, sizeof(S), count, s_.state, dir.first + begun * s_.state,
                         dir.states + rows_.row(t, begun) * state_stride_, state_stride_);
      }
    }
  }
  void first_cells(const Direction& dir, int64_t index) const {
    const int64_t batch = rows_.sequences;
    if (!s_.lstm() && !s_.gru()) return;
    const S* const first = s_.lstm() ? p_.c0 : p_.h0;
    if (!first) return fill_zero(context_, dir.cell, batch * s_.hidden);
    convert_rows(context_, matrix(first + index * batch * s_.hidden, batch, s_.hidden, s_.hidden),
                 matrix(dir.cell, batch, s_.hidden, s_.hidden));
  }

  template <class Cell>
  void steps() const {
    ForwardSteps<S, Cell> plan{};
    plan.kind = s_.kind;
    plan.projection = s_.projection, plan.has_first = p_.h0 != nullptr;
    plan.hidden = s_.hidden, plan.state = s_.state, plan.count = s_.gates * s_.hidden,
    plan.width = s_.width();
    plan.state_stride = state_stride_, plan.unprojected_stride = unprojected_stride_;
    plan.y = y_;
    for (int64_t d = 0; d < s_.directions; ++d) plan.direction[d] = direction_[d];
    if constexpr (sizeof(S) == 2) {
      if (!s_.projection && steps_by_cluster(context_, plan, places_, s_.directions)) return;
    }
    first_states();
    StepProduct<S> projected[2]{};
    for (int64_t d = 0; s_.projection && d < s_.directions; ++d)
      projected[d] = direction_[d].projected->product(1);
    each_step<S>(
        context_, plan, places_, places_of(rows_), s_.directions, !s_.projection,
        [&](Context* context, int64_t index) {
          if (!s_.projection) return;
          Both<StepProduct<S>> products{{projected[0], projected[1]}};
          Both<PlainCell<S>> cells{};
          for (int64_t d = 0; d < s_.directions; ++d) {
            StepProduct<S>& p = products.of[d];
            p.rows = p.a_rows = rows_.batch_at(d == 0 ? index : rows_.steps - 1 - index);
            p.a = direction_[d].unprojected, p.a_stride = unprojected_stride_;
            cells.of[d].out = plan.output(places_of(rows_), index, d);
          }
          step(context, products, cells, s_.directions);
        },
        projected);
  }

  Context* context_;
  const RnnForward<S>& p_;
  const RnnShape& s_;
  const RnnRows& rows_;
  const RnnPlaces& places_;
  const int64_t layer_;
  const S* x_;
  S* y_;
  int64_t state_stride_ = 0, unprojected_stride_ = 0;
  Direction direction_[2]{};
};

template <class S>
void rnn_forward(Context* context, const RnnForward<S>& p, const RnnPlaces& places) {
  const RnnShape& s = p.shape;
  const int64_t rows = p.rows.rows, size = rows * s.width();
  if (rows == 0) return;
  const RnnReserve reserve(s, rows);
  // Without a reserve, layers take turns with two arrays between them.
  const Workspace between = space<S>(context, p.reserve || s.layers == 1 ? 0 : 2 * size);
  const S* x = p.x;
  for (int64_t layer = 0; layer < s.layers; ++layer) {
    const bool last = layer + 1 == s.layers;
    S* y = last        ? p.y
           : p.reserve ? rnn_stored<S>(p.reserve + reserve.y(layer))
                       : between.template as<S>() + layer % 2 * size;
    RnnForwardLayer<S>(context, p, places, layer, x, y).run();
    x = y;
    if (last || s.dropout == 0) continue;
    S* const dropped = p.reserve ? rnn_stored<S>(p.reserve + reserve.dropped(layer)) : y;
    layer_dropout(context, s, layer, rows, y, dropped);
    x = dropped;
  }
}

}  // namespace fastdl::cuda
