// What the files of attention share: the problem, its operands, and products of blocks on the register tiles.
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>
#include <type_traits>

#include "common/attention.h"
#include "cpu/kernels.h"
#include "cpu/round.h"
#include "cpu/tensor.h"

namespace fastdl::cpu {

// S: what operands and results are stored as: float, double or, where there are bfloat16 products, bfloat16.
template <class S>
void attention_forward(Context* context, const AttentionProblem& p, compute_t<S>* lse);
template <class S>
void attention_backward(Context* context, const AttentionProblem& p, const AttentionGradients& g,
                        const compute_t<S>* lse);

// Few queries: every key and value is read once and used little, so nothing is packed.
bool attention_is_decode(const AttentionProblem& p);
template <class S>
void attention_decode(Context* context, const AttentionProblem& p, compute_t<S>* lse);

constexpr double kLog2e = 1.44269504088896340736;

// ---------------------------------------------------------------------------------------------------------

// Row i of head h of sample b.
template <class T>
T* row_of(const View& x, int64_t b, int64_t h, int64_t i) {
  return x.as<T>() + b * x.strides[0] + h * x.strides[1] + i * x.strides[2];
}

// to[i] = from[i * stride], widened or rounded where the types differ.
template <class From, class To>
void copy_row(const From* from, int64_t stride, int64_t n, To* to) {
  if constexpr (std::is_same_v<From, To>) {
    if (stride == 1) {
      std::memcpy(to, from, static_cast<size_t>(n) * sizeof(To));
    } else {
      for (int64_t i = 0; i < n; ++i) to[i] = from[i * stride];
    }
  } else if constexpr (sizeof(From) < sizeof(To)) {
    convert_table(*kernels().convert, From{}).widen(n, from, stride, to, 1);
  } else {
    convert_table(*kernels().convert, To{}).narrow(n, from, stride, to, 1);
  }
}

// `count` things cut into the fewest parts of at most `most`, as even as can be: part i is [begin(i), begin(i
// + 1)).
struct EvenParts {
  int64_t count, parts;
  EvenParts(int64_t count, int64_t most) : count(count), parts(ceil_div(count, most)) {}
  int64_t begin(int64_t i) const { return count * i / parts; }
  int64_t size(int64_t i) const { return begin(i + 1) - begin(i); }
};

// The masks of one (batch, head), with contiguous columns of T (copied if they are not).
template <class T>
class ScoreMasks {
 public:
  ScoreMasks(Context* context, const AttentionProblem& p, int64_t rows, int64_t cols)
      : p_(p),
        width_(table_for<T>(*kernels().attention).width),
        keep_(p.mask.data && p.mask.dtype == DType::kBool),
        copies_(p.mask.data && ((p.mask.strides[3] != 1 && p.keys > 1) || p.mask.dtype == DType::kBFloat16)),
        cols_(cols),
        scratch_(context, copies_ ? static_cast<size_t>(rows * cols) * sizeof(T) : 0) {}

  // Masks the scores of queries i.. and keys j.. and pads their rows. Only a bias needs the scale applied
  // first (and a scale of 0, of which infinity would make NaN): the bits do not depend on which tiles have
  // something to mask.
  void apply(ScoreRows<T>& block, int64_t b, int64_t h, int64_t i, int64_t j) const {
    const bool diagonal = p_.causal && j + block.cols > i + 1, bias = p_.mask.data && !keep_;
    if (!p_.mask.data && !diagonal && block.cols % width_ == 0) return;
    constexpr T kInfinity = std::numeric_limits<T>::infinity();
    ScoreMask<T> m{T(1), block.scale < 0 ? kInfinity : -kInfinity, nullptr, 0, nullptr,
                   0,    diagonal ? i + 1 - j : block.cols};
    if (bias || !(block.scale < 0 || block.scale > 0)) {
      m.factor = block.scale;
      m.forbidden = -kInfinity;
      block.scale = T(1);
    }
    if (keep_) set<unsigned char>(m.keep, m.keep_row, block, b, h, i, j);
    else if (bias && p_.mask.dtype == DType::kBFloat16) set_rounded(m, block, b, h, i, j);
    else if (bias) set<T>(m.bias, m.bias_row, block, b, h, i, j);
    table_for<T>(*kernels().attention).mask(block, m);
  }

 private:
  void set_rounded(ScoreMask<T>& m, const ScoreRows<T>& block, int64_t b, int64_t h, int64_t i,
                   int64_t j) const {
    if constexpr (sizeof(T) == 4) set<bfloat16>(m.bias, m.bias_row, block, b, h, i, j);
  }

  template <class From, class To>
  void set(const To*& rows, int64_t& row_stride, const ScoreRows<T>& block, int64_t b, int64_t h, int64_t i,
           int64_t j) const {
    const From* from = row_of<const From>(p_.mask, b, h, i) + j * p_.mask.strides[3];
    if constexpr (std::is_same_v<From, To>) {
      rows = from;
      row_stride = p_.mask.strides[2];
      if (!copies_) return;
    }
    To* to = scratch_.as<To>();
    for (int64_t r = 0; r < block.rows; ++r)
      copy_row(from + r * p_.mask.strides[2], p_.mask.strides[3], block.cols, to + r * cols_);
    rows = to;
    row_stride = cols_;
  }

  const AttentionProblem& p_;
  int64_t width_;
  bool keep_, copies_;
  int64_t cols_;
  Workspace scratch_;
};

// Rows of weights times the dropout mask / (1 - p).
template <class T>
void drop_weights(const AttentionProblem& p, const ScoreRows<T>& block, int64_t b, int64_t h, int64_t i,
                  int64_t j) {
  if (p.dropout == 0) return;
  const auto& table = table_for<T>(*kernels().dropout);
  for (int64_t r = 0; r < block.rows; ++r) {
    const int64_t first = ((b * p.heads + h) * p.queries + i + r) * p.keys + j;
    table.apply(p.mask_of_weights, first, block.cols, block.s + r * block.ld, block.s + r * block.ld);
  }
}

}  // namespace fastdl::cpu
