// The second half of a layer's backward pass: one product over all rows each for the gradients of the input
// and of the weights, from the gates' gradients.
#pragma once

#include <cstring>

#include "cpu/rnn_layout.h"
#include "cpu/rnn_product.h"

namespace fastdl::cpu {

// What one direction of a layer works on.
template <class S>
struct RnnBackwardDirection {
  using A = compute_t<S>;
  const A *gates, *state, *c0;
  const S *unprojected, *h0, *grad_h_n;
  S *gates_x, *gates_h;  // [rows, G*H], skewed: the gradients of the gates' input and recurrent parts
  S* grad_h;             // with a projection: [rows, P]
  A* carry;
  RnnMatrix<S> hh, hr;
};

template <class S>
class RnnRowProducts {
 public:
  using A = compute_t<S>;

  RnnRowProducts(Context* context, const RnnBackward<S>& p, int64_t layer, const S* x, const S* y,
                 const RnnBackwardDirection<S>* directions)
      : context_(context),
        p_(p),
        shape_(p.shape),
        rows_(p.rows),
        layer_(layer),
        x_(x),
        y_(y),
        directions_(directions) {}

  void input_gradient(A* wide, S* grad_x) const {
    const int64_t depth = shape_.gates * shape_.hidden, columns = shape_.input_of(layer_);
    const int64_t ld = rnn_skewed<S>(depth);
    // Where S is narrow, two directions are added before they are rounded.
    A* const sum = shape_.directions == 2 ? wide_of(wide, grad_x) : nullptr;
    for (int64_t d = 0; d < shape_.directions; ++d) {
      const S* weight = p_.weights[static_cast<size_t>(layer_ * shape_.directions + d)].ih;
      const S* grad = directions_[d].gates_x;
      if (sum)
        gemm_wide<S>(context_, rows_.rows, columns, depth, grad, ld, 1, weight, columns, 1, sum, columns,
                     d > 0);
      else
        gemm_narrow<S>(context_, rows_.rows, columns, depth, grad, ld, 1, weight, columns, 1, grad_x,
                       columns);
    }
    if constexpr (sizeof(S) == 2) {
      if (sum) rnn_narrow(sum, grad_x, rows_.rows * columns);
    }
  }
  void weight_gradients(int64_t d, S* h_prev) const {
    const RnnShape& s = shape_;
    const RnnBackwardDirection<S>& dir = directions_[d];
    const RnnWeights<S>& g = p_.grads[static_cast<size_t>(layer_ * s.directions + d)];
    const int64_t n = rows_.rows, columns = s.gates * s.hidden, input = s.input_of(layer_);
    const int64_t ld_gates = rnn_skewed<S>(columns);
    // out [m, k] = a^T b over the rows: a [n, m], b [n, k].
    const auto outer = [&](int64_t m, const S* a, int64_t lda, int64_t k, const S* b, int64_t ldb, S* out) {
      gemm_narrow<S>(context_, m, k, n, a, 1, lda, b, ldb, 1, out, k);
    };
    if (g.ih) outer(columns, dir.gates_x, ld_gates, input, x_, input, g.ih);
    if (g.bias_ih) column_sums(columns, dir.gates_x, g.bias_ih);
    if (g.bias_hh && g.bias_ih && !s.gru()) {
      std::memcpy(g.bias_hh, g.bias_ih, sizeof(S) * static_cast<size_t>(columns));
    } else if (g.bias_hh) {
      column_sums(columns, dir.gates_h, g.bias_hh);
    }
    if (g.hh) {
      gather_previous(d, h_prev);
      outer(columns, dir.gates_h, ld_gates, s.state, h_prev, rnn_skewed<S>(s.state), g.hh);
    }
    if (g.hr) outer(s.state, dir.grad_h, s.state, s.hidden, dir.unprojected, s.hidden, g.hr);
  }

 private:
  static A* wide_of(A* wide, S* out) {
    if constexpr (sizeof(S) == 2) return wide;
    else return out;
  }

  void column_sums(int64_t columns, const S* a, S* out) const {
    constexpr int64_t kColumns = 256;  // 1 KiB of float32 a row
    const int64_t ld = rnn_skewed<S>(columns);
    parallel_ranges(
        context_, columns, kColumns, static_cast<double>(rows_.rows) / 4, [&](int64_t begin, int64_t end) {
          A sums[kColumns];
          rnn_table(*kernels().rnn, S{}).backward->column_sums(a + begin, ld, rows_.rows, end - begin, sums);
          rnn_narrow(sums, out + begin, end - begin);
        });
  }

  // h_prev[row] = the state that row's step began with.
  void gather_previous(int64_t d, S* h_prev) const {
    const RnnShape& s = shape_;
    const int64_t ld = s.width();
    const double cost = static_cast<double>(rows_.sequences * s.state) / 16;
    parallel_for(context_, rows_.steps, cost, [&](int64_t t) {
      each_run(rows_, t, d == 1, 0, rows_.sequences, [&](const RnnRun& run) {
        for (int64_t k = run.begin; k < run.end; ++k) {
          const S* from = run.has_before ? y_ + rows_.row(d == 0 ? t - 1 : t + 1, k) * ld + d * s.state
                                         : directions_[d].h0 + k * s.state;
          std::memcpy(h_prev + rows_.row(t, k) * rnn_skewed<S>(s.state), from,
                      sizeof(S) * static_cast<size_t>(s.state));
        }
      });
    });
  }

  Context* const context_;
  const RnnBackward<S>& p_;
  const RnnShape& shape_;
  const RnnRows& rows_;
  const int64_t layer_;
  const S *const x_, *const y_;
  const RnnBackwardDirection<S>* const directions_;
};

}  // namespace fastdl::cpu
