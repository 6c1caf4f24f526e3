// Attention of a few queries: limited by the memory traffic of keys and values, which are read once as they
// lie.
#include "cpu/isa/attention.h"
#include "cpu/isa/narrow.h"
#include "cpu/isa/vectors.h"

namespace fastdl::cpu::FASTDL_ISA {
namespace {

// So far ahead of their use rows are asked for: the prefetchers of the machine stop at every 4 KiB page.
constexpr int64_t kAhead = 4096;

template <class S>
FASTDL_INLINE void prefetch_ahead(const S* p) {
  prefetch(reinterpret_cast<const char*>(p) + kAhead);
}

// R rows against N keys at a time: independent sums enough to hide the latency of a multiply-add.
template <class S, int R, int N>
FASTDL_INLINE void score_block(int64_t e, const compute_t<S>* q, const S* k, int64_t k_row, compute_t<S>* s,
                               int64_t ld) {
  using T = compute_t<S>;
  using V = Vec<T>;
  V sum[R][N];
  FASTDL_UNROLL for (int r = 0; r < R; ++r) {
    FASTDL_UNROLL for (int j = 0; j < N; ++j) sum[r][j] = V::zero();
  }
  int64_t i = 0;
  for (; i + V::width <= e; i += V::width) {
    V qv[R];
    FASTDL_UNROLL for (int r = 0; r < R; ++r) qv[r] = V::load(q + r * e + i);
    FASTDL_UNROLL for (int j = 0; j < N; ++j) {
      const V kv = load_as(k + j * k_row + i);
      prefetch_ahead(k + j * k_row + i);
      FASTDL_UNROLL for (int r = 0; r < R; ++r) sum[r][j] = fma(qv[r], kv, sum[r][j]);
    }
  }
  if (i < e) {
    const int n = static_cast<int>(e - i);
    FASTDL_UNROLL for (int j = 0; j < N; ++j) {
      const V kv = load_as(k + j * k_row + i, n);
      FASTDL_UNROLL for (int r = 0; r < R; ++r) sum[r][j] = fma(V::load(q + r * e + i, n), kv, sum[r][j]);
    }
  }
  FASTDL_UNROLL for (int r = 0; r < R; ++r) {
    FASTDL_UNROLL for (int j = 0; j < N; ++j) s[r * ld + j] = reduce_add(sum[r][j]);
  }
}

template <class S, int R>
void score_rows(int64_t e, const compute_t<S>* q, int64_t cols, const S* k, int64_t k_row, compute_t<S>* s,
                int64_t ld) {
  constexpr int N = R == 1 ? 8 : R == 2 || FASTDL_ISA_ID == FASTDL_ISA_ID_avx512 ? 4 : 2;
  int64_t j = 0;
  for (; j + N <= cols; j += N) score_block<S, R, N>(e, q, k + j * k_row, k_row, s + j, ld);
  for (; j < cols; ++j) score_block<S, R, 1>(e, q, k + j * k_row, k_row, s + j, ld);
}

template <class S>
void scores(int rows, int64_t e, const compute_t<S>* q, int64_t cols, const S* k, int64_t k_row,
            compute_t<S>* s, int64_t ld) {
  if (rows == 1) return score_rows<S, 1>(e, q, cols, k, k_row, s, ld);
  if (rows == 2) return score_rows<S, 2>(e, q, cols, k, k_row, s, ld);
  if (rows == 3) return score_rows<S, 3>(e, q, cols, k, k_row, s, ld);
  score_rows<S, 4>(e, q, cols, k, k_row, s, ld);
}

// NV vectors of R output rows stay in registers while the values pass. Masked: the last vector is not whole.
// Of each row `ahead` elements are asked for in advance.
template <class S, int R, int NV, bool Masked>
FASTDL_INLINE void weigh_columns(int64_t ev, const compute_t<S>* p, int64_t ld, int64_t cols, const S* v,
                                 int64_t v_row, int64_t ahead, int tail, compute_t<S>* o) {
  using T = compute_t<S>;
  using V = Vec<T>;
  constexpr int W = V::width;
  V sum[R][NV];
  FASTDL_UNROLL for (int r = 0; r < R; ++r) {
    FASTDL_UNROLL for (int n = 0; n < NV; ++n) {
      sum[r][n] = Masked && n == NV - 1 ? V::load(o + r * ev + n * W, tail) : V::load(o + r * ev + n * W);
    }
  }
  for (int64_t j = 0; j < cols; ++j) {
    V vv[NV];
    const S* row = v + j * v_row;
    for (int64_t i = 0; i < ahead; i += 64 / static_cast<int64_t>(sizeof(S))) prefetch_ahead(row + i);
    FASTDL_UNROLL for (int n = 0; n < NV; ++n) {
      vv[n] = Masked && n == NV - 1 ? load_as(row + n * W, tail) : load_as(row + n * W);
    }
    FASTDL_UNROLL for (int r = 0; r < R; ++r) {
      const V pv = V::broadcast(p[r * ld + j]);
      FASTDL_UNROLL for (int n = 0; n < NV; ++n) sum[r][n] = fma(pv, vv[n], sum[r][n]);
    }
  }
  FASTDL_UNROLL for (int r = 0; r < R; ++r) {
    FASTDL_UNROLL for (int n = 0; n < NV; ++n) {
      if (Masked && n == NV - 1) sum[r][n].store(o + r * ev + n * W, tail);
      else sum[r][n].store(o + r * ev + n * W);
    }
  }
}

// Keys whose values are in the L1 cache for every pass over columns: 16 KiB of 128 floats.
constexpr int64_t kPassKeys = 32;

template <class S, int R>
void weigh_rows(int64_t ev, const compute_t<S>* p, int64_t ld, int64_t cols, const S* v, int64_t v_row,
                compute_t<S>* o) {
  constexpr int W = Vec<compute_t<S>>::width, N = FASTDL_ISA_ID == FASTDL_ISA_ID_avx512 ? 4 : 2;
  for (int64_t j = 0; j < cols; j += kPassKeys) {
    const int64_t keys = cols - j < kPassKeys ? cols - j : kPassKeys;
    const compute_t<S>* pj = p + j;
    const S* vj = v + j * v_row;
    int64_t c = 0, ahead = ev;  // the first pass asks for whole rows
    for (; c + N * W <= ev; c += N * W, ahead = 0)
      weigh_columns<S, R, N, false>(ev, pj, ld, keys, vj + c, v_row, ahead, W, o + c);
    for (; c + W <= ev; c += W, ahead = 0)
      weigh_columns<S, R, 1, false>(ev, pj, ld, keys, vj + c, v_row, ahead, W, o + c);
    if (c < ev)
      weigh_columns<S, R, 1, true>(ev, pj, ld, keys, vj + c, v_row, ahead, static_cast<int>(ev - c), o + c);
  }
}

template <class S>
void weighted(int rows, int64_t ev, const compute_t<S>* p, int64_t ld, int64_t cols, const S* v,
              int64_t v_row, compute_t<S>* o) {
  if (rows == 1) return weigh_rows<S, 1>(ev, p, ld, cols, v, v_row, o);
  if (rows == 2) return weigh_rows<S, 2>(ev, p, ld, cols, v, v_row, o);
  if (rows == 3) return weigh_rows<S, 3>(ev, p, ld, cols, v, v_row, o);
  weigh_rows<S, 4>(ev, p, ld, cols, v, v_row, o);
}

// B vectors of a row at a time.
template <class S, int B>
FASTDL_INLINE void outer_block(int64_t rows, int64_t n, const compute_t<S>* w, int64_t ld,
                               const compute_t<S>* x, S* out, int tail) {
  using V = Vec<compute_t<S>>;
  V sum[B];
  FASTDL_UNROLL for (int b = 0; b < B; ++b) sum[b] = V::zero();
  for (int64_t r = 0; r < rows; ++r) {
    const V factor = V::broadcast(w[r * ld]);
    FASTDL_UNROLL for (int b = 0; b < B; ++b) {
      const compute_t<S>* from = x + r * n + b * V::width;
      sum[b] = fma(factor, load(from, b + 1 == B ? tail : V::width), sum[b]);
    }
  }
  FASTDL_UNROLL for (int b = 0; b < B; ++b) store(sum[b], out + b * V::width, b + 1 == B ? tail : V::width);
}

template <class S>
void outer(int64_t rows, int64_t n, const compute_t<S>* w, int64_t ld, int64_t cols, const compute_t<S>* x,
           S* out, int64_t out_row) {
  for (int64_t j = 0; j < cols; ++j) {
    for_blocks<S>(n, [&](int64_t c, auto block, int tail) FASTDL_FORCE_INLINE {
      outer_block<S, decltype(block)::value>(rows, n, w + j, ld, x + c, out + j * out_row + c, tail);
    });
  }
}

template <class S>
compute_t<S> dot(int64_t n, const S* a, const S* b) {
  using V = Vec<compute_t<S>>;
  V sum = V::zero();
  int64_t i = 0;
  for (; i + V::width <= n; i += V::width) sum = fma(load_as(a + i), load_as(b + i), sum);
  if (i < n) {
    const int left = static_cast<int>(n - i);
    sum = fma(load_as(a + i, left), load_as(b + i, left), sum);
  }
  return reduce_add(sum);
}

}  // namespace

extern const DecodeTable<float, float> decode_f32;
extern const DecodeTable<double, double> decode_f64;
extern const DecodeTable<bfloat16, float> decode_bf16;
const DecodeTable<float, float> decode_f32 = {scores<float>, weighted<float>, outer<float>, dot<float>};
const DecodeTable<double, double> decode_f64 = {scores<double>, weighted<double>, outer<double>, dot<double>};
const DecodeTable<bfloat16, float> decode_bf16 = {scores<bfloat16>, weighted<bfloat16>, outer<bfloat16>,
                                                  dot<bfloat16>};

}  // namespace fastdl::cpu::FASTDL_ISA
