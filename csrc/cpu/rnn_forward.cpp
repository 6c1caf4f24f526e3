#include <cstring>

#include "cpu/gemm.h"
#include "cpu/kernels.h"
#include "cpu/parallel_steps.h"
#include "cpu/rnn_layout.h"

namespace fastdl::cpu {
namespace {

// One layer, both directions: block by block, one product for x W_ih^T, then the steps.
template <class T>
class ForwardLayer {
 public:
  ForwardLayer(Context* context, const RnnForward<T>& p, int64_t layer, const T* x, T* y)
      : context_(context),
        p_(p),
        shape_(p.shape),
        rows_(p.rows),
        layer_(layer),
        one_step_(p.rows.steps == 1 && !p.shape.projection),
        x_(x),
        y_(y) {}

  // gates, cells, unprojected: scratch for every direction where there is no reserve.
  void run(T* gates, T* cells, T* unprojected, T* packed, const T* zeros) {
    const RnnShape& s = shape_;
    const int64_t columns = s.gates * s.hidden, depth = s.input_of(layer_);
    const int64_t block = rnn_block_steps(s, rows_, sizeof(T)), blocks = (rows_.steps + block - 1) / block;
    const Workspace biases(context_, s.bias ? bytes(s.directions * columns) : 0);
    const Workspace inputs(context_, blocks > 1 ? bytes(s.directions * packed_b_size<T>(depth, columns)) : 0);
    const Workspace new_parts(
        context_, one_step_ && s.gru() && !p_.reserve ? bytes(s.directions * rows_.sequences * s.hidden) : 0);
    const auto& table = table_for<T>(*kernels().rnn);
    table_ = &table;
    panels_ = {s.gates, s.hidden, s.state, table.forward_units[s.kind]};
    projection_ = {1, s.state, s.hidden, table.plain_units};
    const RnnReserve reserve(s, rows_.rows);
    for (int64_t d = 0; d < s.directions; ++d) {
      Direction& dir = direction_[d];
      const int64_t index = layer_ * s.directions + d;
      const RnnWeights<T>& w = p_.weights[static_cast<size_t>(index)];
      dir.saved = p_.reserve != nullptr;
      dir.gates =
          dir.saved ? p_.reserve + reserve.gates(layer_, d) : gates + d * block * rows_.sequences * columns;
      dir.cell = dir.saved ? p_.reserve + reserve.state(layer_, d) : cells + d * rows_.sequences * s.hidden;
      dir.unprojected = dir.saved ? p_.reserve + reserve.unprojected(layer_, d)
                                  : unprojected + d * rows_.sequences * s.hidden;
      dir.h0 = p_.h0 ? p_.h0 + index * rows_.sequences * s.state : zeros;
      dir.c0 = p_.c0 ? p_.c0 + index * rows_.sequences * s.hidden : zeros;
      dir.bias_hn = s.gru() && s.bias ? w.bias_hh + 2 * s.hidden : nullptr;
      dir.packed = packed;
      if (!one_step_) rnn_pack(context_, panels_, w.hh, s.state, 1, packed);
      packed += panels_.size();
      if (s.projection) {
        dir.packed_hr = packed;
        rnn_pack(context_, projection_, w.hr, s.hidden, 1, packed);
        packed += projection_.size();
      }
      if (s.lstm() && !dir.saved && rows_.sequences > 0) {
        std::memcpy(dir.cell, dir.c0, sizeof(T) * static_cast<size_t>(rows_.sequences * s.hidden));
      }
      dir.bias = s.bias ? biases.as<T>() + d * columns : nullptr;
      if (s.bias) add_biases(w, biases.as<T>() + d * columns);
      dir.ih = w.ih;
      if (blocks > 1) {
        T* packed_ih = inputs.as<T>() + d * packed_b_size<T>(depth, columns);
        pack_b<T>(context_, w.ih, 1, depth, depth, columns, packed_ih);
        dir.packed_ih = packed_ih;
      }
    }
    for (int64_t begin = 0; begin < rows_.steps; begin += block) {
      const int64_t end = begin + block < rows_.steps ? begin + block : rows_.steps;
      for (int64_t d = 0; d < s.directions; ++d) input_product(d, begin, end);
      if (one_step_) one_step_products(new_parts.as<T>());
      steps(begin, end);
    }
    for (int64_t d = 0; d < s.directions; ++d) last_states(d);
  }

 private:
  struct Direction {
    bool saved;
    T *gates, *cell, *unprojected;
    int64_t first_row;  // the row `gates` begins with
    int64_t ld_bias_hn;
    const T *h0, *c0, *bias, *bias_hn, *packed, *packed_hr, *ih, *packed_ih;
  };

  static size_t bytes(int64_t n) { return sizeof(T) * static_cast<size_t>(n); }

  // The GRU's b_hn is multiplied by the reset gate, so it stays with the recurrent part.
  void add_biases(const RnnWeights<T>& w, T* sum) const {
    const int64_t columns = shape_.gates * shape_.hidden, both = shape_.gru() ? 2 * shape_.hidden : columns;
    for (int64_t i = 0; i < columns; ++i) sum[i] = i < both ? w.bias_ih[i] + w.bias_hh[i] : w.bias_ih[i];
  }

  // gates = x W_ih^T + biases for the rows of steps [begin, end).
  void input_product(int64_t d, int64_t begin, int64_t end) {
    Direction& dir = direction_[d];
    const int64_t columns = shape_.gates * shape_.hidden, depth = shape_.input_of(layer_);
    const auto [row, count] =
        rows_.span(d == 0 ? begin : rows_.steps - end, d == 0 ? end : rows_.steps - begin);
    dir.first_row = dir.saved ? 0 : row;
    if (count == 0) return;
    Gemm<T> g{count,  columns,
              depth,  x_ + row * depth,
              depth,  1,
              dir.ih, 1,
              depth,  dir.gates + (row - dir.first_row) * columns,
              columns};
    g.packed_b = dir.packed_ih;
    g.end.bias = dir.bias;
    gemm(context_, g);
  }

  // A single step is not worth packing the recurrent weights for: its product is added to the gates here.
  void one_step_products(T* new_parts) {
    const RnnShape& s = shape_;
    const int64_t n = rows_.sequences, columns = s.gates * s.hidden;
    const int64_t into_gates = s.gru() ? 2 * s.hidden : columns;
    for (int64_t d = 0; d < s.directions && n > 0; ++d) {
      Direction& dir = direction_[d];
      const T* weight = p_.weights[static_cast<size_t>(layer_ * s.directions + d)].hh;
      Gemm<T> g{n, into_gates, s.state, dir.h0, s.state, 1, weight, 1, s.state, dir.gates, columns};
      g.end.beta = T(1);
      gemm(context_, g);
      if (!s.gru()) continue;
      T* part = dir.saved ? dir.cell : new_parts + d * n * s.hidden;
      Gemm<T> r{n, s.hidden, s.state, dir.h0,  s.state, 1, weight + into_gates * s.state,
                1, s.state,  part,    s.hidden};
      r.end.bias = dir.bias_hn;
      gemm(context_, r);
      dir.bias_hn = part;
      dir.ld_bias_hn = s.hidden;
    }
  }

  void steps(int64_t first, int64_t last) {
    const RnnShape& s = shape_;
    const int64_t directions = s.directions;
    const double row_cost = (one_step_ ? 0.0 : static_cast<double>(panels_.size()) / 8) +
                            16.0 * static_cast<double>(s.gates * s.hidden);
    const RnnSplit split = rnn_split(context_, rows_.sequences, directions, panels_.panels(),
                                     panels_.size() * static_cast<int64_t>(sizeof(T)),
                                     row_cost * static_cast<double>(rows_.sequences));
    const int64_t count = last - first;
    const double task_cost = row_cost * static_cast<double>(rows_.rows) * static_cast<double>(count) /
                             static_cast<double>(split.chunks * rows_.steps);
    if (split.by_rows) {
      parallel_for(context_, directions * split.chunks, task_cost, [&](int64_t task) {
        const int64_t d = task % directions, begin = task / directions * split.chunk;
        for (int64_t step = first; step < last; ++step) {
          cells(d, step, begin, begin + split.chunk, 0, panels_.panels());
          if (s.projection) project(d, step, begin, begin + split.chunk, 0, projection_.panels());
        }
      });
      return;
    }
    const int64_t phases = s.projection ? 2 : 1, all = rows_.sequences;
    parallel_steps(context_, count * phases, directions * split.chunks,
                   task_cost / static_cast<double>(count), [&](int64_t step, int64_t task) {
                     const int64_t d = task / split.chunks, chunk = task % split.chunks;
                     const auto share = [&](int64_t panels, int64_t i) { return panels * i / split.chunks; };
                     if (step % phases == 0) {
                       const int64_t n = panels_.panels();
                       cells(d, first + step / phases, 0, all, share(n, chunk), share(n, chunk + 1));
                     } else {
                       const int64_t n = projection_.panels();
                       project(d, first + step / phases, 0, all, share(n, chunk), share(n, chunk + 1));
                     }
                   });
  }

  int64_t time(int64_t d, int64_t step) const { return d == 0 ? step : rows_.steps - 1 - step; }

  // Sequences [begin, end), panels [first, last) of one step.
  void cells(int64_t d, int64_t step, int64_t begin, int64_t end, int64_t first, int64_t last) const {
    const RnnShape& s = shape_;
    const Direction& dir = direction_[d];
    const int64_t t = time(d, step), ld = s.width(), hidden = s.hidden;
    each_run(rows_, t, d == 1, begin, end, [&](const RnnRun& run) {
      const int64_t row = rows_.offset_at(t) + run.begin;
      const int64_t before = run.has_before ? rows_.offset_at(d == 0 ? t - 1 : t + 1) + run.begin : 0;
      RnnForwardStep<T> f{};
      if (run.has_before) f.h_prev = {y_ + before * ld + d * s.state, ld, s.state, run.end - run.begin};
      else f.h_prev = {dir.h0 + run.begin * s.state, s.state, s.state, run.end - run.begin};
      f.hidden = hidden;
      if (one_step_) f.h_prev.depth = 0;
      f.bias_hn = dir.bias_hn ? dir.bias_hn + run.begin * dir.ld_bias_hn : nullptr;
      f.ld_bias_hn = dir.ld_bias_hn;
      f.gates = dir.gates + (row - dir.first_row) * s.gates * hidden;
      f.save = dir.saved;
      if (dir.saved) {
        f.c = f.new_part = dir.cell + row * hidden;
        f.c_prev = run.has_before ? dir.cell + before * hidden : dir.c0 + run.begin * hidden;
      } else {
        f.c = dir.cell + run.begin * hidden;
        f.c_prev = f.c;
      }
      if (s.projection) {
        f.h = unprojected(dir, t, run.begin);
        f.ld_h = hidden;
      } else {
        f.h = y_ + row * ld + d * s.state;
        f.ld_h = ld;
      }
      table_->forward[s.kind](f, dir.packed, first, last);
    });
  }

  void project(int64_t d, int64_t step, int64_t begin, int64_t end, int64_t first, int64_t last) const {
    const int64_t t = time(d, step), ld = shape_.width();
    if (end > rows_.batch_at(t)) end = rows_.batch_at(t);
    if (begin >= end) return;
    const Direction& dir = direction_[d];
    RnnPlainStep<T> f{};
    f.a = {unprojected(dir, t, begin), shape_.hidden, shape_.hidden, end - begin};
    f.count = shape_.state;
    f.out = y_ + (rows_.offset_at(t) + begin) * ld + d * shape_.state;
    f.ld_out = ld;
    table_->backward->plain(f, dir.packed_hr, first, last);
  }

  T* unprojected(const Direction& dir, int64_t t, int64_t sequence) const {
    return dir.unprojected + (dir.saved ? rows_.offset_at(t) + sequence : sequence) * shape_.hidden;
  }

  void last_states(int64_t d) const {
    const RnnShape& s = shape_;
    const Direction& dir = direction_[d];
    const int64_t index = (layer_ * s.directions + d) * rows_.sequences;
    for (int64_t i = 0; i < rows_.sequences; ++i) {
      const int64_t row = rows_.offset_at(d == 0 ? rows_.length[static_cast<size_t>(i)] - 1 : 0) + i;
      if (p_.h_n) {
        std::memcpy(p_.h_n + (index + i) * s.state, y_ + row * s.width() + d * s.state,
                    sizeof(T) * static_cast<size_t>(s.state));
      }
      if (p_.c_n) {
        std::memcpy(p_.c_n + (index + i) * s.hidden, dir.cell + (dir.saved ? row : i) * s.hidden,
                    sizeof(T) * static_cast<size_t>(s.hidden));
      }
    }
  }

  Context* context_;
  const RnnForward<T>& p_;
  const RnnShape& shape_;
  const RnnRows& rows_;
  const int64_t layer_;
  const bool one_step_;
  const T* x_;
  T* y_;
  const RnnTable<T>* table_ = nullptr;
  RnnPanels panels_, projection_;
  Direction direction_[2]{};
};

}  // namespace

template <class T>
void rnn_forward(Context* context, const RnnForward<T>& p) {
  const RnnShape& s = p.shape;
  const auto& table = table_for<T>(*kernels().rnn);
  const auto bytes = [](int64_t n) { return sizeof(T) * static_cast<size_t>(n); };
  const RnnReserve reserve(s, p.rows.rows);
  const int64_t rows = p.rows.rows, sequences = p.rows.sequences;
  const bool inference = p.reserve == nullptr;
  const Workspace gates(context, inference ? bytes(s.directions * rnn_block_steps(s, p.rows, sizeof(T)) *
                                                   sequences * s.gates * s.hidden)
                                           : 0);
  const Workspace cells(context, inference && s.lstm() ? bytes(s.directions * sequences * s.hidden) : 0);
  const Workspace unprojected(context,
                              inference && s.projection ? bytes(s.directions * sequences * s.hidden) : 0);
  const Workspace between(context, inference && s.layers > 1 ? bytes(2 * rows * s.width()) : 0);
  const RnnPanels panels{s.gates, s.hidden, s.state, table.forward_units[s.kind]};
  const RnnPanels projection{1, s.state, s.hidden, table.plain_units};
  const Workspace packed(context,
                         bytes(s.directions * (panels.size() + (s.projection ? projection.size() : 0))));
  const int64_t zero_count =
      p.h0 && (p.c0 || !s.lstm()) ? 0 : sequences * (s.hidden > s.state ? s.hidden : s.state);
  const Workspace zeros(context, bytes(zero_count));
  if (zero_count > 0) std::memset(zeros.as<void>(), 0, bytes(zero_count));

  const T* x = p.x;
  for (int64_t layer = 0; layer < s.layers; ++layer) {
    const bool last = layer + 1 == s.layers;
    T* y = last        ? p.y
           : inference ? between.as<T>() + layer % 2 * rows * s.width()
                       : p.reserve + reserve.y(layer);
    ForwardLayer<T>(context, p, layer, x, y)
        .run(gates.as<T>(), cells.as<T>(), unprojected.as<T>(), packed.as<T>(), zeros.as<T>());
    x = y;
    if (!last && s.dropout > 0) {
      T* dropped = inference ? y : p.reserve + reserve.dropped(layer);
      rnn_dropout(context, s, rows, layer, y, dropped);
      x = dropped;
    }
  }
}

template void rnn_forward(Context*, const RnnForward<float>&);
template void rnn_forward(Context*, const RnnForward<double>&);

}  // namespace fastdl::cpu
