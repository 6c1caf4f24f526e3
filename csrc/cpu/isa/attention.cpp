#include "cpu/isa/attention.h"

#include "cpu/isa/vectors.h"

namespace fastdl::cpu::FASTDL_ISA {
namespace {

// A running maximum may lag behind by 2^8: weights then reach 256 instead of 1, which costs a float nothing,
// and once the first block has been seen hardly any row needs its sums rescaled.
constexpr double kLag = 8;

template <class T>
constexpr T kLowest = T(-__builtin_inf());

template <class T>
void mask(const ScoreRows<T>& b, const ScoreMask<T>& m) {
  using V = Vec<T>;
  const V lowest = V::broadcast(kLowest<T>);
  const V log2e = V::broadcast(MathConstants<T>::log2e);
  for (int64_t r = 0; r < b.rows; ++r) {
    T* row = b.s + r * b.ld;
    const int64_t seen = m.visible + r < b.cols ? m.visible + r : b.cols;
    // Whole vectors of seen scores change only where there is a mask.
    int64_t c = m.bias || m.keep || seen < 0 ? 0 : seen / V::width * V::width;
    for (; c < b.cols; c += V::width) {
      const int lanes = b.cols - c < V::width ? static_cast<int>(b.cols - c) : V::width;
      V s = V::load(row + c, lanes);
      if (m.bias) s = fma(V::load(m.bias + r * m.bias_row + c, lanes), log2e, s);
      if (m.keep) s = select(load_mask<T>(m.keep + r * m.keep_row + c, lanes), s, lowest);
      const int64_t in = seen - c;
      if (in < V::width) s = select(Mask<T>::first(in > 0 ? static_cast<int>(in) : 0), s, lowest);
      s.store(row + c);
    }
  }
}

template <class T>
bool softmax(const ScoreRows<T>& b, T* top, T* sums, T* decay) {
  using V = Vec<T>;
  constexpr int W = V::width;
  bool moved = false;
  for (int64_t r = 0; r < b.rows; ++r) {
    T* row = b.s + r * b.ld;
    V high = V::load(row), more = high;
    int64_t c = W;
    for (; c + W < b.cols; c += 2 * W) {
      high = max(high, V::load(row + c));
      more = max(more, V::load(row + c + W));
    }
    if (c < b.cols) more = max(more, V::load(row + c));
    high = max(high, more);
    V sum = V::load(sums + r * W);
    decay[r] = T(1);
    if (any(high > V::broadcast(top[r] + T(kLag)))) {
      const T now = reduce_max(high);
      T factor[W];
      exp2_bounded(V::broadcast(top[r] - now)).store(factor);  // 0 from -inf
      decay[r] = factor[0];
      sum = sum * V::broadcast(factor[0]);
      top[r] = now;
      moved = true;
    }
    // Nothing seen so far: any finite number serves, and every weight below is 2^-inf = 0.
    const V shift = V::broadcast(top[r] == kLowest<T> ? T(0) : top[r]);
    V other = V::zero();
    for (c = 0; c + W < b.cols; c += 2 * W) {
      const V p = exp2_bounded(V::load(row + c) - shift), q = exp2_bounded(V::load(row + c + W) - shift);
      p.store(row + c);
      q.store(row + c + W);
      sum += p;
      other += q;
    }
    if (c < b.cols) {
      const V p = exp2_bounded(V::load(row + c) - shift);
      p.store(row + c);
      sum += p;
    }
    (sum + other).store(sums + r * W);
  }
  return moved;
}

template <class T>
void gradients(const ScoreRows<T>& b, const T* lse, const T* delta, const T* kept, T* dp) {
  using V = Vec<T>;
  for (int64_t r = 0; r < b.rows; ++r) {
    const V shift = V::broadcast(lse[r]), d = V::broadcast(delta[r]);
    T *row = b.s + r * b.ld, *out = dp + r * b.ld;
    const T* k = kept ? kept + r * b.ld : nullptr;
    for (int64_t c = 0; c < b.cols; c += V::width) {
      const V p = exp2_bounded(V::load(row + c) - shift);
      V grad = V::load(out + c), weight = p;
      if (k) {
        grad *= V::load(k + c);
        weight *= V::load(k + c);
      }
      weight.store(row + c);
      (p * (grad - d)).store(out + c);
    }
  }
}

template <class T>
void scale_rows(int64_t rows, int64_t n, const T* x, int64_t ldx, const T* factor, T* y, int64_t ldy) {
  using V = Vec<T>;
  for (int64_t r = 0; r < rows; ++r) {
    if (x == y && factor[r] == T(1)) continue;
    const V f = V::broadcast(factor[r]);
    for_vectors<T>(n, [&](int64_t c, int lanes) FASTDL_FORCE_INLINE {
      store(load(x + r * ldx + c, lanes) * f, y + r * ldy + c, lanes);
    });
  }
}

template <class T>
T dot(int64_t n, const T* a, const T* b) {
  using V = Vec<T>;
  V sum = V::zero();
  for_vectors<T>(n, [&](int64_t i, int lanes)
                        FASTDL_FORCE_INLINE { sum = fma(load(a + i, lanes), load(b + i, lanes), sum); });
  return reduce_add(sum);
}

template <class T>
T total(const T* x) {
  return reduce_add(Vec<T>::load(x));
}

template <class T>
constexpr AttentionTable<T> table_of() {
  return {Vec<T>::width, mask<T>, softmax<T>, gradients<T>, scale_rows<T>, dot<T>, total<T>};
}

}  // namespace

extern const DecodeTable<float, float> decode_f32;
extern const DecodeTable<double, double> decode_f64;
extern const DecodeTable<bfloat16, float> decode_bf16;

extern const AttentionKernels attention_kernels;
const AttentionKernels attention_kernels = {table_of<float>(), table_of<double>(), &decode_f32, &decode_f64,
                                            &decode_bf16};

}  // namespace fastdl::cpu::FASTDL_ISA
