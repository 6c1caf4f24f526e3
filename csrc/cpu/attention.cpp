// Attention by blocks of queries and keys: scores of one block at a time, softmax kept online, so that
// scratch does not grow with the lengths (Rabe, Staats 2021, "Self-attention Does Not Need O(n^2) Memory";
// Dao 2023, "FlashAttention-2"). Backward recomputes the probabilities from the saved log-sum-exp.
#include "fastdl/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "cpu/dropout.h"
#include "cpu/gemm.h"
#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/tensor.h"
#include "cpu/widen.h"

namespace fastdl::cpu {
namespace {

// A block's scores (128 x 64) with its operands at E = 64 take some 100 KiB in float32: they stay in the L2
// cache, and packing a block of keys is shared by enough queries. Both are multiples of every register tile's
// width.
constexpr int64_t kQueries = 128, kKeys = 64;

struct Problem {
  int64_t batch, heads, groups, queries, keys, e, ev;
  double scale;
  bool causal;
  double dropout;
  DropoutMask mask_of_weights;
  View q, k, v, out, mask;  // mask.data NULL: none

  int64_t group_size() const { return heads / groups; }
  int64_t query_blocks() const { return (queries + kQueries - 1) / kQueries; }
  int64_t key_blocks() const { return (keys + kKeys - 1) / kKeys; }
  // Key blocks that queries [i, i + rows) see: causal ones beyond the diagonal are skipped.
  int64_t key_end(int64_t i, int64_t rows) const { return causal ? std::min(keys, i + rows) : keys; }
  double cost() const {  // of one query block against all keys, two products forward
    return static_cast<double>(kQueries) * static_cast<double>(keys) * static_cast<double>(e + ev) / 16;
  }
};

// Row i of head h of sample b.
template <class T>
T* at(const View& x, int64_t b, int64_t h, int64_t i) {
  return x.as<T>() + b * x.strides[0] + h * x.strides[1] + i * x.strides[2];
}

// c[m x n] = alpha * a b + beta * c
template <class T>
void product(Context* context, int64_t m, int64_t n, int64_t k, const T* a, int64_t a_row, int64_t a_k,
             const T* b, int64_t b_k, int64_t b_n, T* c, int64_t ldc, double alpha, bool accumulate) {
  Gemm<T> g{m, n, k, a, a_row, a_k, b, b_k, b_n, c, ldc};
  g.end.alpha = static_cast<T>(alpha);
  g.end.beta = accumulate ? T(1) : T(0);
  gemm(context, g);
}

// The part of the mask that covers one block, with contiguous columns (copied if they are not).
template <class T>
class BlockMask {
 public:
  BlockMask(Context* context, const Problem& p)
      : p_(p),
        present_(p.mask.data != nullptr),
        keep_(present_ && p.mask.dtype == DType::kBool),
        copies_(present_ && p.mask.strides[3] != 1 && p.keys > 1),
        scratch_(context, copies_ ? kQueries * kKeys * sizeof(T) : 0) {}

  void set(ScoreBlock<T>& block, int64_t b, int64_t h, int64_t i, int64_t j) const {
    if (!present_) return;
    if (keep_) set_rows(block.keep, block.keep_row, block, b, h, i, j);
    else set_rows(block.bias, block.bias_row, block, b, h, i, j);
  }

 private:
  template <class M>
  void set_rows(const M*& rows, int64_t& row_stride, const ScoreBlock<T>& block, int64_t b, int64_t h,
                int64_t i, int64_t j) const {
    const M* from = at<const M>(p_.mask, b, h, i) + j * p_.mask.strides[3];
    rows = from;
    row_stride = p_.mask.strides[2];
    if (!copies_) return;
    M* to = scratch_.as<M>();
    for (int64_t r = 0; r < block.rows; ++r) {
      for (int64_t c = 0; c < block.cols; ++c)
        to[r * kKeys + c] = from[r * row_stride + c * p_.mask.strides[3]];
    }
    rows = to;
    row_stride = kKeys;
  }

  const Problem& p_;
  bool present_, keep_, copies_;
  Workspace scratch_;
};

// s = raw scores of queries [i, i + rows) and keys [j, j + cols).
template <class T>
ScoreBlock<T> scores(Context* context, const Problem& p, const BlockMask<T>& mask, int64_t b, int64_t h,
                     int64_t i, int64_t rows, int64_t j, int64_t cols, T* s) {
  const T* q = at<const T>(p.q, b, h, i);
  const T* k = at<const T>(p.k, b, h / p.group_size(), j);
  product<T>(context, rows, cols, p.e, q, p.q.strides[2], p.q.strides[3], k, p.k.strides[3], p.k.strides[2],
             s, kKeys, 1.0, false);
  ScoreBlock<T> block{s, rows, cols, kKeys, static_cast<T>(p.scale), nullptr, 0, nullptr, 0, cols};
  if (p.causal) block.visible = i + 1 - j;
  mask.set(block, b, h, i, j);
  return block;
}

// x *= dropout mask / (1 - p) for the block of probabilities at (b, h, i, j).
template <class T>
void drop(const Problem& p, int64_t b, int64_t h, int64_t i, int64_t rows, int64_t j, int64_t cols, T* x) {
  if (p.dropout == 0) return;
  const auto& table = table_for<T>(*kernels().dropout);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t first = ((b * p.heads + h) * p.queries + i + r) * p.keys + j;
    table.apply(p.mask_of_weights, first, cols, x + r * kKeys, x + r * kKeys);
  }
}

template <class T>
void forward(Context* context, const Problem& p, T* lse) {
  const auto& table = table_for<T>(*kernels().attention);
  const int64_t blocks = p.query_blocks();
  parallel_for(context, p.batch * p.heads * blocks, p.cost(), [&](int64_t task) {
    const int64_t b = task / (p.heads * blocks), h = task / blocks % p.heads, i = task % blocks * kQueries;
    const int64_t rows = std::min(kQueries, p.queries - i), end = p.key_end(i, rows);
    const BlockMask<T> mask(context, p);
    const Workspace space(context, static_cast<size_t>(kQueries * (kKeys + p.ev + 3)) * sizeof(T));
    T* s = space.as<T>();
    T* o = s + kQueries * kKeys;
    T *m = o + kQueries * p.ev, *l = m + kQueries, *decay = l + kQueries;
    std::fill(m, m + rows, -std::numeric_limits<T>::infinity());
    std::fill(l, l + rows, T(0));
    std::fill(o, o + rows * p.ev, T(0));
    for (int64_t j = 0; j < end; j += kKeys) {
      const int64_t cols = std::min(kKeys, end - j);
      table.softmax(scores<T>(context, p, mask, b, h, i, rows, j, cols, s), m, l, decay);
      drop<T>(p, b, h, i, rows, j, cols, s);
      if (j > 0) table.scale_rows(rows, p.ev, p.ev, decay, o);
      const T* v = at<const T>(p.v, b, h / p.group_size(), j);
      product<T>(context, rows, p.ev, cols, s, kKeys, 1, v, p.v.strides[2], p.v.strides[3], o, p.ev, 1.0,
                 j > 0);
    }
    for (int64_t r = 0; r < rows; ++r) {
      decay[r] = l[r] == 0 ? T(0) : T(1) / l[r];
      if (lse) lse[(b * p.heads + h) * p.queries + i + r] = m[r] + std::log(l[r]);
    }
    table.scale_rows(rows, p.ev, p.ev, decay, o);
    for (int64_t r = 0; r < rows; ++r) {
      std::memcpy(at<T>(p.out, b, h, i + r), o + r * p.ev, static_cast<size_t>(p.ev) * sizeof(T));
    }
  });
}

// -------------------------------------------------------------------------------------------------------
// backward

struct Gradients {
  View dout, dq, dk, dv, dmask;  // dmask.data NULL: not wanted
};

// What one block of (queries, keys) contributes, to whichever of dq and dk, dv is asked for.
template <class T>
class BackwardBlock {
 public:
  BackwardBlock(Context* context, const Problem& p, const Gradients& g, const T* lse, const T* delta)
      : context_(context),
        p_(p),
        g_(g),
        lse_(lse),
        delta_(delta),
        mask_(context, p),
        space_(context, 3 * kQueries * kKeys * sizeof(T)) {}

  void run(int64_t b, int64_t h, int64_t i, int64_t rows, int64_t j, int64_t cols, bool query_side,
           bool first_key, bool key_side, bool first_query) const {
    const auto& table = table_for<T>(*kernels().attention);
    const int64_t row0 = (b * p_.heads + h) * p_.queries + i, group = h / p_.group_size();
    T *prob = space_.as<T>(), *ds = prob + kQueries * kKeys, *dropped = ds + kQueries * kKeys;
    table.probabilities(scores<T>(context_, p_, mask_, b, h, i, rows, j, cols, prob), lse_ + row0);
    const T* dout = at<const T>(g_.dout, b, h, i);
    const T* v = at<const T>(p_.v, b, group, j);
    const int64_t d_row = g_.dout.strides[2], d_col = g_.dout.strides[3];
    product<T>(context_, rows, cols, p_.ev, dout, d_row, d_col, v, p_.v.strides[3], p_.v.strides[2], ds,
               kKeys, 1.0, false);
    drop<T>(p_, b, h, i, rows, j, cols, ds);
    if (key_side) {
      const T* weights = prob;
      if (p_.dropout > 0) {
        std::memcpy(dropped, prob, kQueries * kKeys * sizeof(T));
        drop<T>(p_, b, h, i, rows, j, cols, dropped);
        weights = dropped;
      }
      product<T>(context_, cols, p_.ev, rows, weights, 1, kKeys, dout, d_row, d_col,
                 at<T>(g_.dv, b, group, j), g_.dv.strides[2], 1.0, !first_query);
    }
    table.score_gradient(rows, cols, kKeys, prob, delta_ + row0, ds);
    if (query_side) {
      if (g_.dmask.data) {
        for (int64_t r = 0; r < rows; ++r) {
          std::memcpy(at<T>(g_.dmask, b, h, i + r) + j, ds + r * kKeys,
                      static_cast<size_t>(cols) * sizeof(T));
        }
      }
      product<T>(context_, rows, p_.e, cols, ds, kKeys, 1, at<const T>(p_.k, b, group, j), p_.k.strides[2],
                 p_.k.strides[3], at<T>(g_.dq, b, h, i), g_.dq.strides[2], p_.scale, !first_key);
    }
    if (key_side) {
      product<T>(context_, cols, p_.e, rows, ds, 1, kKeys, at<const T>(p_.q, b, h, i), p_.q.strides[2],
                 p_.q.strides[3], at<T>(g_.dk, b, group, j), g_.dk.strides[2], p_.scale, !first_query);
    }
  }

 private:
  Context* context_;
  const Problem& p_;
  const Gradients& g_;
  const T *lse_, *delta_;
  BlockMask<T> mask_;
  Workspace space_;
};

// delta = rowsum(dout * out), which is rowsum(p * dp) (FlashAttention-2, section 3.1).
template <class T>
void row_deltas(Context* context, const Problem& p, const Gradients& g, T* delta) {
  const auto& table = table_for<T>(*kernels().attention);
  const int64_t rows = p.batch * p.heads * p.queries;
  parallel_ranges(context, rows, 64, static_cast<double>(p.ev) / 8, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t b = row / (p.heads * p.queries), h = row / p.queries % p.heads, i = row % p.queries;
      delta[row] = table.dot(p.ev, at<const T>(g.dout, b, h, i), at<const T>(p.out, b, h, i));
    }
  });
}

template <class T>
void zero_rows(const View& x, int64_t b, int64_t h, int64_t begin, int64_t end, int64_t cols) {
  for (int64_t i = begin; i < end; ++i)
    std::memset(at<T>(x, b, h, i), 0, static_cast<size_t>(cols) * sizeof(T));
}

// First query block that sees key j.
int64_t first_query_block(const Problem& p, int64_t j) { return p.causal ? j / kQueries : 0; }

template <class T>
void backward_queries(const Problem& p, const Gradients& g, const BackwardBlock<T>& block, int64_t b,
                      int64_t h, int64_t i) {
  const int64_t rows = std::min(kQueries, p.queries - i), end = p.key_end(i, rows);
  if (end == 0) zero_rows<T>(g.dq, b, h, i, i + rows, p.e);
  for (int64_t j = 0; j < end; j += kKeys) {
    block.run(b, h, i, rows, j, std::min(kKeys, end - j), true, j == 0, false, false);
  }
}

template <class T>
void backward_keys(const Problem& p, const Gradients& g, const BackwardBlock<T>& block, int64_t b,
                   int64_t group, int64_t j, bool query_side) {
  const int64_t cols = std::min(kKeys, p.keys - j);
  bool first = true;
  for (int64_t h = group * p.group_size(); h < (group + 1) * p.group_size(); ++h) {
    for (int64_t at_block = first_query_block(p, j); at_block < p.query_blocks(); ++at_block) {
      const int64_t i = at_block * kQueries, rows = std::min(kQueries, p.queries - i);
      const int64_t seen = std::min(cols, p.key_end(i, rows) - j);
      if (seen <= 0) continue;
      if (seen < cols && first) {  // later keys of this block are seen by later queries only
        zero_rows<T>(g.dk, b, group, j + seen, j + cols, p.e);
        zero_rows<T>(g.dv, b, group, j + seen, j + cols, p.ev);
      }
      block.run(b, h, i, rows, j, seen, query_side, j == 0, true, first);
      first = false;
    }
  }
  if (first) {  // no query sees these keys
    zero_rows<T>(g.dk, b, group, j, j + cols, p.e);
    zero_rows<T>(g.dv, b, group, j, j + cols, p.ev);
  }
}

template <class T>
void backward(Context* context, const Problem& p, const Gradients& g, const T* lse) {
  const Workspace space(context, static_cast<size_t>(p.batch * p.heads * p.queries) * sizeof(T));
  T* delta = space.as<T>();
  row_deltas<T>(context, p, g, delta);
  if (g.dmask.data)
    std::memset(g.dmask.data, 0, static_cast<size_t>(g.dmask.nbytes()));  // masked blocks are skipped
  const int64_t pairs = p.batch * p.groups;
  // One pass (five products a block) where samples and groups are enough to share out; else queries and keys
  // in two passes (seven products) that split finer. The shape alone decides, and both add in the same order.
  constexpr int64_t kEnough = 8;
  if (pairs >= kEnough || p.query_blocks() * p.group_size() + p.key_blocks() <= 4) {
    const double cost = p.cost() * 2.5 * static_cast<double>(p.group_size() * p.query_blocks());
    parallel_for(context, pairs, cost, [&](int64_t task) {
      const BackwardBlock<T> block(context, p, g, lse, delta);
      const int64_t b = task / p.groups, group = task % p.groups;
      if (p.keys == 0) {
        for (int64_t h = group * p.group_size(); h < (group + 1) * p.group_size(); ++h) {
          zero_rows<T>(g.dq, b, h, 0, p.queries, p.e);
        }
      }
      for (int64_t j = 0; j < p.keys; j += kKeys) backward_keys<T>(p, g, block, b, group, j, true);
    });
    return;
  }
  const int64_t query_tasks = p.batch * p.heads * p.query_blocks();
  parallel_for(context, query_tasks, p.cost() * 1.5, [&](int64_t task) {
    const BackwardBlock<T> block(context, p, g, lse, delta);
    const int64_t row = task / p.query_blocks(), i = task % p.query_blocks() * kQueries;
    backward_queries<T>(p, g, block, row / p.heads, row % p.heads, i);
  });
  const double key_cost = p.cost() * 2 * static_cast<double>(p.group_size() * p.query_blocks() * kKeys) /
                          static_cast<double>(std::max<int64_t>(1, p.keys));
  parallel_for(context, pairs * p.key_blocks(), key_cost, [&](int64_t task) {
    const BackwardBlock<T> block(context, p, g, lse, delta);
    const int64_t pair = task / p.key_blocks(), j = task % p.key_blocks() * kKeys;
    backward_keys<T>(p, g, block, pair / p.groups, pair % p.groups, j, false);
  });
}

// ---------------------------------------------------------------------------------------------------------
// checks

void check_shape(const View& x, int64_t a, int64_t b, int64_t c, int64_t d, const char* op,
                 const char* name) {
  FASTDL_CHECK(x.ndim == 4 && x.shape[0] == a && x.shape[1] == b && x.shape[2] == c && x.shape[3] == d,
               FASTDL_ERROR_SHAPE, "%s: expected %s of shape (%lld, %lld, %lld, %lld), got %s", op, name,
               static_cast<long long>(a), static_cast<long long>(b), static_cast<long long>(c),
               static_cast<long long>(d), shape_string(x).c_str());
}

Problem check(const fastdl_tensor* q, const fastdl_tensor* k, const fastdl_tensor* v,
              const fastdl_tensor* mask, const fastdl_attention_options* options, const char* op) {
  const auto o = read_options(options, fastdl_attention_options FASTDL_ATTENTION_OPTIONS_INIT, op);
  Problem p;
  p.q = float_view(q, op, "q");
  p.k = view_like(k, p.q.dtype, op, "k");
  p.v = view_like(v, p.q.dtype, op, "v");
  check_ndim(p.q, 4, op, "q");
  check_ndim(p.k, 4, op, "k");
  check_ndim(p.v, 4, op, "v");
  p.batch = p.q.shape[0];
  p.heads = p.q.shape[1];
  p.queries = p.q.shape[2];
  p.e = p.q.shape[3];
  p.groups = p.k.shape[1];
  p.keys = p.k.shape[2];
  p.ev = p.v.shape[3];
  check_shape(p.k, p.batch, p.groups, p.keys, p.e, op, "k");
  check_shape(p.v, p.batch, p.groups, p.keys, p.ev, op, "v");
  FASTDL_CHECK(p.groups > 0 ? p.heads % p.groups == 0 : p.heads == 0, FASTDL_ERROR_SHAPE,
               "%s: the number of query heads, %lld, is not a multiple of the number of key heads, %lld", op,
               static_cast<long long>(p.heads), static_cast<long long>(p.groups));
  if (mask) {
    p.mask = view(mask, op, "mask");
    FASTDL_CHECK(p.mask.dtype == DType::kBool || p.mask.dtype == p.q.dtype, FASTDL_ERROR_DTYPE,
                 "%s: expected mask to be bool or %s, got %s", op, name_of(p.q.dtype), name_of(p.mask.dtype));
    check_shape(p.mask, p.batch, p.heads, p.queries, p.keys, op, "mask");
  }
  FASTDL_CHECK(o.dropout_p >= 0 && o.dropout_p < 1, FASTDL_ERROR_VALUE,
               "%s: dropout_p must be at least 0 and less than 1, got %g", op, o.dropout_p);
  p.scale = o.scale_given ? o.scale : 1 / std::sqrt(static_cast<double>(std::max<int64_t>(1, p.e)));
  p.causal = o.is_causal != 0;
  p.dropout = o.dropout_p;
  p.mask_of_weights = dropout_mask(o.dropout_p, o.seed, o.offset, op);
  return p;
}

// NULL or C-contiguous (B, H, L).
View log_sum_exp(const fastdl_tensor* t, const Problem& p, const char* op) {
  View v;
  if (!t) return v;
  v = view_like(t, p.q.dtype, op, "lse");
  FASTDL_CHECK(v.ndim == 3 && v.shape[0] == p.batch && v.shape[1] == p.heads && v.shape[2] == p.queries &&
                   v.contiguous(),
               FASTDL_ERROR_SHAPE, "%s: expected lse to be C-contiguous of shape (%lld, %lld, %lld), got %s",
               op, static_cast<long long>(p.batch), static_cast<long long>(p.heads),
               static_cast<long long>(p.queries), shape_string(v).c_str());
  return v;
}

}  // namespace
}  // namespace fastdl::cpu

using namespace fastdl::cpu;

extern "C" {

fastdl_status fastdl_attention_forward(fastdl_context* context, const fastdl_tensor* q,
                                       const fastdl_tensor* k, const fastdl_tensor* v,
                                       const fastdl_tensor* mask, const fastdl_tensor* out_,
                                       const fastdl_tensor* lse_, const fastdl_attention_options* options) {
  if (is_narrow(q)) {
    return in_float32("scaled_dot_product_attention", fastdl_attention_forward, context, reads(q, "q"),
                      reads(k, "k"), reads(v, "v"), of_any_dtype(reads(mask, "mask")), writes(out_, "out"),
                      lse_, options);
  }
  return guarded([&] {
    const char* op = "scaled_dot_product_attention";
    Problem p = check(q, k, v, mask, options, op);
    const View out = out_view(out_, p.q.dtype, op, "out");
    check_shape(out, p.batch, p.heads, p.queries, p.ev, op, "out");
    const View lse = log_sum_exp(lse_, p, op);
    ContiguousOut oc(context, out);
    p.out = *oc;
    dispatch_float(p.q.dtype, [&](auto zero) {
      using T = decltype(zero);
      forward<T>(context, p, lse_ ? lse.as<T>() : nullptr);
    });
    oc.write_back();
  });
}

fastdl_status fastdl_attention_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                        const fastdl_tensor* q, const fastdl_tensor* k,
                                        const fastdl_tensor* v, const fastdl_tensor* mask,
                                        const fastdl_tensor* out_, const fastdl_tensor* lse_,
                                        const fastdl_tensor* grad_q, const fastdl_tensor* grad_k,
                                        const fastdl_tensor* grad_v, const fastdl_tensor* grad_mask,
                                        const fastdl_attention_options* options) {
  if (is_narrow(q)) {
    return in_float32("scaled_dot_product_attention_backward", fastdl_attention_backward, context,
                      reads(grad_out, "grad_out"), reads(q, "q"), reads(k, "k"), reads(v, "v"),
                      of_any_dtype(reads(mask, "mask")), reads(out_, "out"), lse_, writes(grad_q, "grad_q"),
                      writes(grad_k, "grad_k"), writes(grad_v, "grad_v"),
                      or_float32(writes(grad_mask, "grad_mask")), options);
  }
  return guarded([&] {
    const char* op = "scaled_dot_product_attention_backward";
    Problem p = check(q, k, v, mask, options, op);
    const View out = view_like(out_, p.q.dtype, op, "out"),
               dout = view_like(grad_out, p.q.dtype, op, "grad_out");
    const View dq = out_view(grad_q, p.q.dtype, op, "grad_q"), dk = out_view(grad_k, p.q.dtype, op, "grad_k");
    const View dv = out_view(grad_v, p.q.dtype, op, "grad_v");
    check_shape(out, p.batch, p.heads, p.queries, p.ev, op, "out");
    check_shape(dout, p.batch, p.heads, p.queries, p.ev, op, "grad_out");
    check_same_shape(p.q, "q", dq, "grad_q", op);
    check_same_shape(p.k, "k", dk, "grad_k", op);
    check_same_shape(p.v, "v", dv, "grad_v", op);
    FASTDL_CHECK(lse_, FASTDL_ERROR_VALUE, "%s: lse of the forward call is required", op);
    const View lse = log_sum_exp(lse_, p, op);
    Gradients g;
    if (grad_mask) {
      g.dmask = out_view(grad_mask, p.q.dtype, op, "grad_mask");
      check_shape(g.dmask, p.batch, p.heads, p.queries, p.keys, op, "grad_mask");
      FASTDL_CHECK(g.dmask.contiguous(), FASTDL_ERROR_SHAPE, "%s: grad_mask must be C-contiguous", op);
    }
    const Contiguous oc(context, out), doc(context, dout);
    ContiguousOut dqc(context, dq), dkc(context, dk), dvc(context, dv);
    p.out = *oc;
    g.dout = *doc;
    g.dq = *dqc;
    g.dk = *dkc;
    g.dv = *dvc;
    dispatch_float(p.q.dtype, [&](auto zero) {
      using T = decltype(zero);
      backward<T>(context, p, g, lse.as<T>());
    });
    dqc.write_back();
    dkc.write_back();
    dvc.write_back();
  });
}
}
