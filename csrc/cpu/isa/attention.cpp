#include "cpu/isa/attention.h"

#include "cpu/isa/simd.h"
#include "cpu/isa/vecmath.h"

namespace fastdl::cpu::FASTDL_ISA {
namespace {

// Scores [c, c + lanes) of row r: scaled, biased, -inf where a mask forbids and in lanes past the end.
template <class T>
FASTDL_INLINE Vec<T> score(const ScoreBlock<T>& b, int64_t r, int64_t c, int lanes, int64_t visible) {
  using V = Vec<T>;
  const V forbidden = V::broadcast(T(-__builtin_inf()));
  const bool whole = lanes == V::width;
  V s = (whole ? V::load(b.s + r * b.ld + c) : V::load(b.s + r * b.ld + c, lanes)) * V::broadcast(b.scale);
  if (b.bias) s = s + V::load(b.bias + r * b.bias_row + c, lanes);
  if (b.keep) s = select(load_mask<T>(b.keep + r * b.keep_row + c, lanes), s, forbidden);
  const int64_t seen = visible - c < lanes ? visible - c : lanes;
  if (seen < V::width) s = select(Mask<T>::first(seen > 0 ? static_cast<int>(seen) : 0), s, forbidden);
  return s;
}

template <class T>
FASTDL_INLINE void put(Vec<T> v, T* p, int lanes) {
  if (lanes == Vec<T>::width) v.store(p);
  else v.store(p, lanes);
}

template <class T, class Body>
FASTDL_INLINE void for_vectors(int64_t n, Body body) {
  constexpr int kWidth = Vec<T>::width;
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) body(i, kWidth);
  if (i < n) body(i, static_cast<int>(n - i));
}

template <class T>
void softmax(const ScoreBlock<T>& b, T* m, T* l, T* decay) {
  using V = Vec<T>;
  const T lowest = T(-__builtin_inf());
  for (int64_t r = 0; r < b.rows; ++r) {
    T* row = b.s + r * b.ld;
    const int64_t visible = b.visible + r;
    V top = V::broadcast(m[r]);
    for_vectors<T>(b.cols, [&](int64_t c, int lanes) {
      const V s = score(b, r, c, lanes, visible);
      put(s, row + c, lanes);
      top = max_nan(top, s);
    });
    T high = reduce_max(top);
    if (any(top != top)) high = T(__builtin_nan(""));
    // Nothing seen so far: any finite number serves as the maximum, and every weight below is exp(-inf) = 0.
    const V shift = V::broadcast(high == lowest ? T(0) : high);
    V sum = V::zero();
    for_vectors<T>(b.cols, [&](int64_t c, int lanes) {
      V p;
      if (lanes == V::width) {
        p = exp(V::load(row + c) - shift);
      } else {
        p = select(Mask<T>::first(lanes), exp(V::load(row + c, lanes) - shift), V::zero());
      }
      put(p, row + c, lanes);
      sum = sum + p;
    });
    T before[V::width];
    exp(V::broadcast(m[r]) - shift).store(before);
    decay[r] = m[r] == lowest ? T(1) : before[0];
    l[r] = l[r] * decay[r] + reduce_add(sum);
    m[r] = high;
  }
}

template <class T>
void probabilities(const ScoreBlock<T>& b, const T* lse) {
  using V = Vec<T>;
  const T lowest = T(-__builtin_inf());
  for (int64_t r = 0; r < b.rows; ++r) {
    const V shift = V::broadcast(lse[r] == lowest ? T(0) : lse[r]);
    for_vectors<T>(b.cols, [&](int64_t c, int lanes) {
      put(exp(score(b, r, c, lanes, b.visible + r) - shift), b.s + r * b.ld + c, lanes);
    });
  }
}

template <class T>
void score_gradient(int64_t rows, int64_t cols, int64_t ld, const T* p, const T* delta, T* dp) {
  using V = Vec<T>;
  for (int64_t r = 0; r < rows; ++r) {
    const V d = V::broadcast(delta[r]);
    for_vectors<T>(cols, [&](int64_t c, int lanes) {
      const int64_t at = r * ld + c;
      put(V::load(p + at, lanes) * (V::load(dp + at, lanes) - d), dp + at, lanes);
    });
  }
}

template <class T>
void scale_rows(int64_t rows, int64_t cols, int64_t ld, const T* factor, T* x) {
  using V = Vec<T>;
  for (int64_t r = 0; r < rows; ++r) {
    if (factor[r] == T(1)) continue;
    const V f = V::broadcast(factor[r]);
    for_vectors<T>(
        cols, [&](int64_t c, int lanes) { put(V::load(x + r * ld + c, lanes) * f, x + r * ld + c, lanes); });
  }
}

template <class T>
T dot(int64_t n, const T* a, const T* b) {
  using V = Vec<T>;
  V sum = V::zero();
  for_vectors<T>(n,
                 [&](int64_t i, int lanes) { sum = fma(V::load(a + i, lanes), V::load(b + i, lanes), sum); });
  return reduce_add(sum);
}

template <class T>
constexpr AttentionTable<T> table_of() {
  return {softmax<T>, probabilities<T>, score_gradient<T>, scale_rows<T>, dot<T>};
}

}  // namespace

extern const AttentionKernels attention_kernels;
const AttentionKernels attention_kernels = {table_of<float>(), table_of<double>()};

}  // namespace fastdl::cpu::FASTDL_ISA
