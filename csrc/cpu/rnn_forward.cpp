#include <cstring>

#include "cpu/parallel_steps.h"
#include "cpu/rnn_forward_plan.h"
#include "cpu/rnn_layout.h"
#include "cpu/rnn_product.h"

namespace fastdl::cpu {
namespace {

template <class S>
struct ForwardScratch {
  compute_t<S>*pre, *state, *biases, *new_parts;  // for every direction
  S *unprojected, *packed;
  const S* zeros;
};

// One layer, both directions. Per block of steps the gates' inputs, then step by step the recurrent product
// of one unit group and, while its sums are in the L1 cache, its gates.
template <class S>
class ForwardLayer {
 public:
  using A = compute_t<S>;

  ForwardLayer(Context* context, const RnnForward<S>& p, const RnnForwardPlan<S>& plan, int64_t layer,
               const S* x, S* y)
      : context_(context), p_(p), plan_(plan), shape_(p.shape), rows_(p.rows), layer_(layer), x_(x), y_(y) {}

  void run(const ForwardScratch<S>& scratch) {
    const RnnShape& s = shape_;
    const int64_t padded_hidden = plan_.padded_hidden, biases = (s.gates + 1) * padded_hidden;
    table_ = &rnn_table(*kernels().rnn, S{});
    const RnnReserve reserve(s, rows_.rows);
    S* packed = scratch.packed;
    for (int64_t d = 0; d < s.directions; ++d) {
      Direction& dir = direction_[d];
      const int64_t index = layer_ * s.directions + d, states = rows_.sequences * s.hidden;
      const RnnWeights<S>& w = p_.weights[static_cast<size_t>(index)];
      dir.saved = p_.reserve != nullptr;
      dir.pre = scratch.pre + d * plan_.block_rows * s.gates * padded_hidden;
      dir.gates = dir.saved ? p_.reserve + reserve.gates(layer_, d) : nullptr;
      dir.saved_state = dir.saved ? p_.reserve + reserve.state(layer_, d) : nullptr;
      dir.unprojected = dir.saved ? rnn_stored<S>(p_.reserve + reserve.unprojected(layer_, d))
                                  : scratch.unprojected + d * states;
      dir.h0 = p_.h0 ? p_.h0 + index * rows_.sequences * s.state : scratch.zeros;
      const S* c0 = s.gru() ? dir.h0 : p_.c0 ? p_.c0 + index * states : scratch.zeros;
      dir.state = scratch.state + d * states;
      if (s.lstm() || s.gru()) rnn_widen(c0, dir.state, states);
      if (s.bias) add_biases(dir, w, scratch.biases + d * biases, padded_hidden);
      dir.ih = {s.gates, s.hidden, s.input_of(layer_)};
      dir.hh = {s.gates, s.hidden, s.state};
      dir.weight_ih = w.ih;
      if (!plan_.ahead && !plan_.once) packed = pack(dir.ih, w.ih, packed);
      if (!plan_.one_step) packed = pack(dir.hh, w.hh, packed);
      dir.hr = {1, s.state, s.hidden};
      if (s.projection) packed = pack(dir.hr, w.hr, packed);
      if (plan_.ahead) input_ahead(d, w);
      if (plan_.one_step && p_.h0) one_step_products(d, w, scratch.new_parts + d * states);
    }
    steps();
    for (int64_t d = 0; d < s.directions; ++d) last_states(d);
  }

 private:
  struct Direction {
    bool saved;
    A *pre, *state, *gates, *saved_state;
    S* unprojected;
    const S *h0, *weight_ih;
    const A *bias, *bias_hn;  // bias: [gates][padded hidden]
    int64_t ld_bias_hn;
    RnnMatrix<S> ih, hh, hr;
  };

  S* pack(RnnMatrix<S>& m, const S* weight, S* out) const {
    m.pack(context_, weight, m.depth, 1, out);
    return out + m.size();
  }

  // The GRU's b_hn is multiplied by the reset gate, so it stays with the recurrent part.
  void add_biases(Direction& dir, const RnnWeights<S>& w, A* sums, int64_t padded_hidden) const {
    const int64_t hidden = shape_.hidden;
    std::memset(sums, 0, sizeof(A) * static_cast<size_t>((shape_.gates + 1) * padded_hidden));
    const Workspace wide(context_, sizeof(A) * static_cast<size_t>(hidden));
    for (int64_t g = 0; g < shape_.gates; ++g) {
      A *const to = sums + g * padded_hidden, *const other = wide.as<A>();
      rnn_widen(w.bias_ih + g * hidden, to, hidden);
      if (shape_.gru() && g == 2) {
        dir.bias_hn = sums + 3 * padded_hidden;
        rnn_widen(w.bias_hh + g * hidden, sums + 3 * padded_hidden, hidden);
      } else {
        rnn_widen(w.bias_hh + g * hidden, other, hidden);
        for (int64_t i = 0; i < hidden; ++i) to[i] += other[i];
      }
    }
    dir.bias = sums;
  }

  using Inputs = RnnGateInputs<A>;
  Inputs inputs_ahead(int64_t d) const {
    return {direction_[d].pre, RnnMatrix<S>::nr(), shape_.hidden, shape_.gates * shape_.hidden};
  }
  // Of a block of `rows` rows: one contiguous panel per group and gate.
  Inputs block_inputs(A* data, int64_t rows) const {
    const int64_t nr = RnnMatrix<S>::nr();
    return {data, shape_.gates * rows * nr, rows * nr, nr};
  }

  // c (+)= a W^T, in full precision.
  void product(int64_t m, int64_t n, int64_t k, const S* a, const S* weight, A* c, int64_t ldc,
               bool add) const {
    gemm_wide<S>(context_, m, n, k, a, k, 1, weight, 1, k, c, ldc, add);
  }

  // All inputs of the gates at once, W_ih as it lies.
  void input_ahead(int64_t d, const RnnWeights<S>& w) {
    const int64_t hidden = shape_.hidden, columns = shape_.gates * hidden, depth = shape_.input_of(layer_);
    Direction& dir = direction_[d];
    for (int64_t r = 0; r < rows_.rows && dir.bias; ++r) {
      for (int64_t g = 0; g < shape_.gates; ++g) {
        std::memcpy(dir.pre + r * columns + g * hidden, dir.bias + g * plan_.padded_hidden,
                    sizeof(A) * static_cast<size_t>(hidden));
      }
    }
    product(rows_.rows, columns, depth, x_, w.ih, dir.pre, columns, dir.bias != nullptr);
  }

  // A single step is not worth packing the recurrent weights for: its product is added to the gates here.
  void one_step_products(int64_t d, const RnnWeights<S>& w, A* part) {
    const RnnShape& s = shape_;
    Direction& dir = direction_[d];
    const int64_t n = rows_.sequences, into_gates = (s.gru() ? 2 : s.gates) * s.hidden;
    product(n, into_gates, s.state, dir.h0, w.hh, dir.pre, s.gates * s.hidden, true);
    if (!s.gru()) return;
    for (int64_t r = 0; r < n && dir.bias_hn; ++r) {
      std::memcpy(part + r * s.hidden, dir.bias_hn, sizeof(A) * static_cast<size_t>(s.hidden));
    }
    product(n, s.hidden, s.state, dir.h0, w.hh + into_gates * s.state, part, s.hidden,
            dir.bias_hn != nullptr);
    dir.bias_hn = part;
    dir.ld_bias_hn = s.hidden;
  }

  void steps() {
    const RnnShape& s = shape_;
    const int64_t directions = s.directions, groups = direction_[0].hh.groups(), count = rows_.steps;
    const double row_cost = static_cast<double>((plan_.one_step ? 0 : direction_[0].hh.size()) +
                                                (plan_.ahead ? 0 : direction_[0].ih.size())) /
                                32 +
                            static_cast<double>(s.gates * s.hidden);
    const RnnSplit split = rnn_split(context_, rows_.sequences, directions, groups,
                                     (direction_[0].hh.size() + (plan_.ahead ? 0 : direction_[0].ih.size())) *
                                         static_cast<int64_t>(sizeof(S)));
    const double task_cost =
        row_cost * static_cast<double>(rnn_cost_rows(rows_)) / static_cast<double>(split.chunks);
    if (split.by_rows) {
      parallel_for(context_, directions * split.chunks, task_cost, [&](int64_t task) {
        const typename RnnTiles<S>::Unit unit;
        const int64_t begin = std::min(task / directions * split.chunk, rows_.sequences);
        sequences(task % directions, begin, std::min(begin + split.chunk, rows_.sequences));
      });
      return;
    }
    const int64_t phases = s.projection ? 2 : 1, all = rows_.sequences;
    parallel_steps(context_, count * phases, directions * split.chunks,
                   task_cost / static_cast<double>(count > 0 ? count : 1), [&](int64_t phase, int64_t task) {
                     const typename RnnTiles<S>::Unit unit;
                     const int64_t d = task / split.chunks, chunk = task % split.chunks,
                                   step = phase / phases;
                     const auto share = [&](int64_t n, int64_t i) { return n * i / split.chunks; };
                     if (phase % phases == 0) {
                       const int64_t first = share(groups, chunk), last = share(groups, chunk + 1);
                       units(d, step, first, last);
                     } else {
                       const int64_t n = direction_[d].hr.groups();
                       project(d, step, 0, all, share(n, chunk), share(n, chunk + 1));
                     }
                   });
  }

  int64_t time(int64_t d, int64_t step) const { return d == 0 ? step : rows_.steps - 1 - step; }

  // The rows of the block that begins with `step`.
  RnnRows::Span block_span(int64_t d, int64_t step) const {
    const int64_t end = std::min(step + plan_.block, rows_.steps);
    return rows_.span(d == 0 ? step : rows_.steps - end, d == 0 ? end : rows_.steps - step);
  }

  // One step of groups [first, last), all sequences.
  void units(int64_t d, int64_t step, int64_t first, int64_t last) const {
    const int64_t row = rows_.offset_at(time(d, step));
    if (plan_.ahead) return cells(d, step, 0, rows_.sequences, first, last, inputs_ahead(d), row);
    const Inputs in = block_inputs(direction_[d].pre, plan_.block_rows);
    const auto span = block_span(d, step - step % plan_.block);
    if (step % plan_.block == 0)
      input_product(d, x_ + span.row * direction_[d].ih.depth, span.count, first, last, in);
    cells(d, step, 0, rows_.sequences, first, last, in, row - span.row);
  }

  // All steps of sequences [begin, end). Their rows of a block are brought together, so that the products
  // have full tiles.
  void sequences(int64_t d, int64_t begin, int64_t end) const {
    const RnnShape& s = shape_;
    const Direction& dir = direction_[d];
    const int64_t depth = dir.ih.depth, groups = dir.hh.groups(), most = (end - begin) * plan_.block;
    const auto count_at = [&](int64_t t) {
      return std::max<int64_t>(std::min(end, rows_.batch_at(t)) - begin, 0);
    };
    const Workspace rows(context_, plan_.ahead ? 0 : sizeof(S) * static_cast<size_t>(most * depth));
    const Inputs in = plan_.ahead
                          ? inputs_ahead(d)
                          : block_inputs(dir.pre + begin * plan_.block * s.gates * plan_.padded_hidden, most);
    for (int64_t first = 0; first < rows_.steps; first += plan_.block) {
      const int64_t last = std::min(first + plan_.block, rows_.steps);
      int64_t place = 0;
      for (int64_t step = first; step < last && !plan_.ahead; ++step) {
        const int64_t t = time(d, step), count = count_at(t);
        if (count > 0) {
          std::memcpy(rows.as<S>() + place * depth, x_ + (rows_.offset_at(t) + begin) * depth,
                      sizeof(S) * static_cast<size_t>(count * depth));
        }
        place += count;
      }
      if (!plan_.ahead) input_product(d, rows.as<S>(), place, 0, groups, in);
      place = 0;
      for (int64_t step = first; step < last; ++step) {
        const int64_t t = time(d, step);
        cells(d, step, begin, end, 0, groups, in, plan_.ahead ? rows_.offset_at(t) + begin : place);
        if (s.projection) project(d, step, begin, end, 0, dir.hr.groups());
        place += count_at(t);
      }
    }
  }

  // The gates' inputs of groups [first, last) for `count` rows of x.
  void input_product(int64_t d, const S* x, int64_t count, int64_t first, int64_t last,
                     const Inputs& in) const {
    const Direction& dir = direction_[d];
    const int64_t depth = dir.ih.depth, nr = RnnMatrix<S>::nr();
    const Workspace space(context_, plan_.once ? sizeof(S) * static_cast<size_t>(dir.ih.panel_size()) : 0);
    for (int64_t u = first; u < last; ++u) {
      for (int64_t g = 0; g < shape_.gates; ++g) {
        const S* panel = plan_.once ? space.as<S>() : dir.ih.panel(g, u);
        if (plan_.once) {
          pack_b<S>(context_, dir.weight_ih + (g * shape_.hidden + u * nr) * depth, 1, depth, depth,
                    dir.ih.units(u), space.as<S>());
        }
        const A* bias = dir.bias ? dir.bias + (g * dir.ih.groups() + u) * nr : nullptr;
        const int64_t then = g + 1 < shape_.gates ? u : u + 1;
        const GemmAhead next =
            plan_.once || then == last ? GemmAhead{} : dir.ih.ahead((g + 1) % shape_.gates, then);
        RnnTiles<S>::multiply(x, depth, count, depth, panel, dir.ih.units(u), bias, in.at(u, 0) + g * in.gate,
                              nr, next);
      }
    }
  }

  // One step of sequences [begin, end), groups [first, last); `place`: the row of `in` that belongs to
  // sequence `begin`.
  void cells(int64_t d, int64_t step, int64_t begin, int64_t end, int64_t first, int64_t last,
             const Inputs& in, int64_t place) const {
    const RnnShape& s = shape_;
    const Direction& dir = direction_[d];
    const int64_t t = time(d, step), ld = s.width();
    each_run(rows_, t, d == 1, begin, end, [&](const RnnRun& run) {
      const int64_t row = rows_.offset_at(t) + run.begin;
      const int64_t before = run.has_before ? rows_.offset_at(d == 0 ? t - 1 : t + 1) + run.begin : 0;
      const S* h_prev = run.has_before ? y_ + before * ld + d * s.state : dir.h0 + run.begin * s.state;
      const auto finish = [&](int64_t u, int64_t r, int64_t count, const A* sums, int64_t gate_stride) {
        step_group(dir, u, run.begin + r, count, row + r, in, place + run.begin + r - begin, sums,
                   gate_stride,
                   (s.projection ? unprojected(dir, t, run.begin + r) : y_ + (row + r) * ld + d * s.state) +
                       u * RnnMatrix<S>::nr());
      };
      if (plan_.one_step || (!run.has_before && !p_.h0)) {  // nothing to multiply here
        for (int64_t u = first; u < last; ++u) finish(u, 0, run.end - run.begin, nullptr, 0);
        return;
      }
      // Every other step goes through the groups backwards: what a cache smaller than the weights still holds
      // of them is then used first.
      dir.hh.each_group(h_prev, run.has_before ? ld : s.state, run.end - run.begin, first, last,
                        step % 2 != 0, finish);
    });
  }

  void step_group(const Direction& dir, int64_t group, int64_t sequence, int64_t count, int64_t row,
                  const Inputs& in, int64_t place, const A* sums, int64_t gate_stride, S* h) const {
    const RnnShape& s = shape_;
    const int64_t unit = group * RnnMatrix<S>::nr();
    RnnForwardStep<S> f{};
    f.rows = count;
    f.units = dir.hh.units(group);
    f.hidden = s.hidden;
    f.sums = sums;
    f.gate_stride = gate_stride;
    f.pre = in.at(group, place);
    f.pre_gate = in.gate;
    f.pre_row = in.row;
    f.bias_hn = dir.bias_hn ? dir.bias_hn + sequence * dir.ld_bias_hn + unit : nullptr;
    f.ld_bias_hn = dir.ld_bias_hn;
    f.state = dir.state + sequence * s.hidden + unit;
    if (dir.saved && (s.lstm() || s.gru())) {
      f.gates = dir.gates + row * s.gates * s.hidden + unit;
      f.saved_state = dir.saved_state + row * s.hidden + unit;
    }
    f.h = h;
    f.ld_h = s.projection ? s.hidden : s.width();
    table_->forward[s.kind](f);
  }

  void project(int64_t d, int64_t step, int64_t begin, int64_t end, int64_t first, int64_t last) const {
    const int64_t t = time(d, step), ld = shape_.width(), nr = RnnMatrix<S>::nr();
    const int64_t rows = std::min(end, rows_.batch_at(t)) - begin;
    const Direction& dir = direction_[d];
    S* const y = y_ + (rows_.offset_at(t) + begin) * ld + d * shape_.state;
    dir.hr.each_group(unprojected(dir, t, begin), shape_.hidden, rows, first, last, false,
                      [&](int64_t u, int64_t r, int64_t count, const A* sums, int64_t) {
                        RnnPlainStep<S> f{};
                        f.rows = count;
                        f.units = dir.hr.units(u);
                        f.sums = sums;
                        f.out = y + r * ld + u * nr;
                        f.ld_out = ld;
                        table_->backward->plain(f);
                      });
  }

  S* unprojected(const Direction& dir, int64_t t, int64_t sequence) const {
    return dir.unprojected + (dir.saved ? rows_.offset_at(t) + sequence : sequence) * shape_.hidden;
  }

  void last_states(int64_t d) const {
    const RnnShape& s = shape_;
    const int64_t index = (layer_ * s.directions + d) * rows_.sequences;
    for (int64_t i = 0; i < rows_.sequences && p_.h_n; ++i) {
      const int64_t row = rows_.offset_at(d == 0 ? rows_.length[static_cast<size_t>(i)] - 1 : 0) + i;
      std::memcpy(p_.h_n + (index + i) * s.state, y_ + row * s.width() + d * s.state,
                  sizeof(S) * static_cast<size_t>(s.state));
    }
    if (p_.c_n) rnn_narrow(direction_[d].state, p_.c_n + index * s.hidden, rows_.sequences * s.hidden);
  }

  Context* context_;
  const RnnForward<S>& p_;
  const RnnForwardPlan<S>& plan_;
  const RnnShape& shape_;
  const RnnRows& rows_;
  const int64_t layer_;
  const S* x_;
  S* y_;
  const RnnTable<S>* table_ = nullptr;
  Direction direction_[2]{};
};

}  // namespace

template <class S>
void rnn_forward(Context* context, const RnnForward<S>& p) {
  using A = compute_t<S>;
  const RnnShape& s = p.shape;
  const auto bytes = [](int64_t n, size_t item) { return item * static_cast<size_t>(n); };
  const RnnReserve reserve(s, p.rows.rows);
  const int64_t rows = p.rows.rows, sequences = p.rows.sequences, directions = s.directions;
  const RnnForwardPlan<S> plan(p);
  const bool inference = p.reserve == nullptr;
  const int64_t padded_hidden = plan.padded_hidden, states = directions * sequences * s.hidden;
  const int64_t widest = s.layers > 1 ? std::max(s.input, s.width()) : s.input;
  const int64_t packed_size = (plan.ahead || plan.once ? 0 : RnnMatrix<S>{s.gates, s.hidden, widest}.size()) +
                              (plan.one_step ? 0 : RnnMatrix<S>{s.gates, s.hidden, s.state}.size()) +
                              (s.projection ? RnnMatrix<S>{1, s.state, s.hidden}.size() : 0);
  const Workspace pre(context, bytes(directions * plan.block_rows * s.gates * padded_hidden, sizeof(A)));
  const Workspace state(context, bytes(s.lstm() || s.gru() ? states : 0, sizeof(A)));
  const Workspace biases(context, bytes(s.bias ? directions * (s.gates + 1) * padded_hidden : 0, sizeof(A)));
  const Workspace new_parts(context, bytes(plan.one_step && s.gru() ? states : 0, sizeof(A)));
  const Workspace unprojected(context, bytes(inference && s.projection ? states : 0, sizeof(S)));
  const Workspace packed(context, bytes(directions * packed_size, sizeof(S)));
  const Workspace between(context, bytes(inference && s.layers > 1 ? 2 * rows * s.width() : 0, sizeof(S)));
  const int64_t zero_count = p.h0 && (p.c0 || !s.lstm()) ? 0 : sequences * std::max(s.hidden, s.state);
  const Workspace zeros(context, bytes(zero_count, sizeof(S)));
  if (zero_count > 0) std::memset(zeros.as<void>(), 0, bytes(zero_count, sizeof(S)));
  const ForwardScratch<S> scratch{pre.as<A>(),         state.as<A>(),  biases.as<A>(), new_parts.as<A>(),
                                  unprojected.as<S>(), packed.as<S>(), zeros.as<S>()};
  const S* x = p.x;
  for (int64_t layer = 0; layer < s.layers; ++layer) {
    const bool last = layer + 1 == s.layers;
    S* y = last        ? p.y
           : inference ? between.as<S>() + layer % 2 * rows * s.width()
                       : rnn_stored<S>(p.reserve + reserve.y(layer));
    ForwardLayer<S>(context, p, plan, layer, x, y).run(scratch);
    x = y;
    if (!last && s.dropout > 0) {
      S* dropped = inference ? y : rnn_stored<S>(p.reserve + reserve.dropped(layer));
      rnn_dropout(context, s, rows, layer, y, dropped);
      x = dropped;
    }
  }
}

template void rnn_forward(Context*, const RnnForward<float>&);
template void rnn_forward(Context*, const RnnForward<double>&);
template void rnn_forward(Context*, const RnnForward<bfloat16>&);

}  // namespace fastdl::cpu
