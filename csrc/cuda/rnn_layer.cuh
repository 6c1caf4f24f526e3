// What forward and backward of a layer share: weights as the products of a step read them, and small copies.
#pragma once

#include <optional>

#include "common/dropout.h"
#include "cuda/dropout.h"
#include "cuda/gemm.h"
#include "cuda/launch_loop.h"
#include "cuda/rnn.h"
#include "cuda/rnn_sm90.h"
#include "cuda/rnn_whole.cuh"

namespace fastdl::cuda {

// A row of n elements with what makes the next one begin at a multiple of 16 bytes.
template <class S>
constexpr int64_t padded(int64_t n) {
  constexpr int64_t kPerChunk = 16 / static_cast<int64_t>(sizeof(S));
  return (n + kPerChunk - 1) / kPerChunk * kPerChunk;
}

template <class S>
View matrix(const S* data, int64_t rows, int64_t columns, int64_t row, int64_t column = 1) {
  View v;
  v.data = const_cast<S*>(data);
  v.dtype = DTypeOf<S>::value;
  v.ndim = 2;
  v.shape[0] = rows, v.shape[1] = columns;
  v.strides[0] = row, v.strides[1] = column;
  return v;
}

template <class T>
void fill_zero(Context* context, T* data, int64_t n) {
  if (n > 0)
    check_cuda(cudaMemsetAsync(data, 0, static_cast<size_t>(n) * sizeof(T), stream_of(context)), "rnn");
}

// As what blocks of one kernel are to hand to each other begins (rnn_exchange.cuh).
template <class S>
void fill_unset(Context* context, S* data, int64_t n) {
  if (sizeof(S) < 8 && n > 0)
    check_cuda(cudaMemsetAsync(data, 0xFF, static_cast<size_t>(n) * sizeof(S), stream_of(context)), "rnn");
}

// A copy, or a conversion where the dtypes differ.
inline void convert_rows(Context* context, const View& from, const View& to) {
  if (from.dtype == to.dtype) copy(context, from, to);
  else convert(context, from, to);
}

template <class T>
Workspace space(Context* context, int64_t n) {
  return Workspace(context, static_cast<size_t>(n) * sizeof(T));
}

// rows [count, k], aligned: those of `weight` where it can be, else a copy. transposed: its columns.
template <class S>
class StepWeights {
 public:
  StepWeights(Context* context, const S* weight, int64_t count, int64_t k, bool transposed = false)
      : count_(count), k_(k), data_(weight), stride_(k) {
    if (!transposed && k % padded<S>(1) == 0 && reinterpret_cast<uintptr_t>(weight) % 16 == 0) return;
    stride_ = padded<S>(k);
    copy_.emplace(context, static_cast<size_t>(count * stride_) * sizeof(S));
    data_ = copy_->template as<S>();
    copy(context, transposed ? matrix(weight, count, k, 1, count) : matrix(weight, count, k, k),
         matrix(data_, count, k, stride_));
  }
  // Without rows of a yet.
  StepProduct<S> product(int64_t gates) const {
    StepProduct<S> p{};
    p.gates = gates, p.units = count_ / gates, p.k = k_;
    p.b = data_, p.b_stride = stride_;
    return p;
  }

 private:
  int64_t count_, k_;
  const S* data_;
  int64_t stride_;
  std::optional<Workspace> copy_;
};

// out = x after the dropout of a layer's outputs, [rows, width]; the same call on gradients is its backward.
template <class S>
void layer_dropout(Context* context, const RnnShape& s, int64_t layer, int64_t rows, S* x, S* out) {
  const DropoutMask mask = check::dropout_mask(s.dropout, s.seed, s.offset, "rnn");
  const int64_t count = rnn_dropout_numbers(s, rows);
  dropout(context, mask, layer * count, matrix(x, 1, count, count), matrix(out, 1, count, count));
}

// What a layer's loop over its steps is made from; `more`: beside the plan and the rows of the steps.
template <class Steps, class... More>
LoopKey loop_key(const Steps& plan, const RnnPlaces& host, int64_t directions, const More&... more) {
  static char kernels;  // one address for each type of steps
  LoopKey key;
  key.add(&kernels);
  key.add(plan);
  key.add(directions);
  key.add(host.steps), key.add(host.sequences);
  if (host.batch) key.add(host.batch, host.steps);  // and with them the offsets
  (key.add(more), ...);
  return key;
}

// All steps of a layer in their order, by one kernel where that can be, else by one each; then(context, step)
// after each, which `alone` says is nothing. device, host: where rows lie; more: what `then` is made from.
template <class S, class Steps, class Then, class... More>
void each_step(Context* context, const Steps& plan, const RnnPlaces& device, const RnnPlaces& host,
               int64_t directions, bool alone, Then&& then, const More&... more) {
  if constexpr (sizeof(S) < 8) {
    if (alone && all_steps<S>(context, plan, device, directions)) return;
  }
  launch_loop(context, loop_key(plan, host, directions, more...), host.steps, [&](Context* in) {
    Both<StepProduct<S>> products{};
    Both<typename Steps::Cell> cells{};
    for (int64_t index = 0; index < host.steps; ++index) {
      for (int64_t d = 0; d < directions; ++d) plan.prepare(host, index, d, products.of[d], cells.of[d]);
      step(in, products, cells, directions);
      then(in, index);
    }
  });
}

// x W^T or the like over all rows at once, into out of S or float32.
template <class S, class Out>
Gemm<S> rows_product(int64_t m, int64_t n, int64_t k, const S* a, int64_t a_row, int64_t a_column, const S* b,
                     int64_t b_row, int64_t b_column, Out* out) {
  Gemm<S> g{m, n, k, a, a_row, a_column, b, b_row, b_column, out, n, 1};
  g.c_float32 = sizeof(S) == 2 && sizeof(Out) == 4;
  return g;
}

}  // namespace fastdl::cuda
