#include "cpu/isa/attention.h"

#include "cpu/isa/narrow.h"
#include "cpu/isa/vectors.h"

namespace fastdl::cpu::FASTDL_ISA {
namespace {

// A running maximum may lag behind by 2^8: weights then reach 256 instead of 1, which costs a float nothing,
// and once the first block has been seen hardly any row needs its sums rescaled.
constexpr double kLag = 8;

template <class T>
constexpr T kLowest = T(-__builtin_inf());

// Two vectors of weights (not negative) rounded to the nearest bfloat16, ties away from zero: an addition of
// half a unit; the minimum keeps NaN from overflowing into zero.
FASTDL_INLINE void store_weights(Vec<float> p, Vec<float> q, bfloat16* to) {
#if FASTDL_ISA_ID == FASTDL_ISA_ID_avx512
  const __m512i nan = _mm512_set1_epi32(0x7fff0000), half = _mm512_set1_epi32(0x8000);
  const __m512i a = _mm512_add_epi32(_mm512_min_epu32(_mm512_castps_si512(p.v), nan), half);
  const __m512i b = _mm512_add_epi32(_mm512_min_epu32(_mm512_castps_si512(q.v), nan), half);
  const __m512i upper = _mm512_set_epi16(63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31,
                                         29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
  _mm512_storeu_si512(to, _mm512_permutex2var_epi16(a, upper, b));
#else
  store_as(p, to);
  store_as(q, to + Vec<float>::width);
#endif
}

template <class T>
void mask(const ScoreRows<T>& b, const ScoreMask<T>& m) {
  using V = Vec<T>;
  const V lowest = V::broadcast(m.forbidden);
  const V log2e = V::broadcast(MathConstants<T>::log2e), scale = V::broadcast(m.factor);
  for (int64_t r = 0; r < b.rows; ++r) {
    T* row = b.s + r * b.ld;
    const int64_t seen = m.visible + r < b.cols ? m.visible + r : b.cols;
    for (int64_t c = 0; c < b.cols; c += V::width) {
      const int lanes = b.cols - c < V::width ? static_cast<int>(b.cols - c) : V::width;
      V s = load(row + c, lanes) * scale;
      if (m.bias) s = fma(V::load(m.bias + r * m.bias_row + c, lanes), log2e, s);
      if (m.keep) s = select(load_mask<T>(m.keep + r * m.keep_row + c, lanes), s, lowest);
      const int64_t in = seen - c;
      if (in < V::width) s = select(Mask<T>::first(in > 0 ? static_cast<int>(in) : 0), s, lowest);
      s.store(row + c);
    }
  }
}

// Where weights go: back to the scores, or rounded.
template <class T>
struct InPlace {
  T* s;
  FASTDL_INLINE void store(Vec<T> p, int64_t at) const { p.store(s + at); }
  FASTDL_INLINE void store(Vec<T> p, Vec<T> q, int64_t at) const {
    p.store(s + at);
    q.store(s + at + Vec<T>::width);
  }
};
struct Rounded {
  bfloat16* to;
  FASTDL_INLINE void store(Vec<float> p, int64_t at) const { store_as(p, to + at); }
  FASTDL_INLINE void store(Vec<float> p, Vec<float> q, int64_t at) const { store_weights(p, q, to + at); }
};

template <class T, class Out>
FASTDL_INLINE bool softmax_to(const ScoreRows<T>& b, T* top, T* sums, T* decay, Out out) {
  using V = Vec<T>;
  constexpr int W = V::width;
  const V scale = V::broadcast(b.scale);
  bool moved = false;
  for (int64_t r = 0; r < b.rows; ++r) {
    const int64_t at = r * b.ld;
    const T* row = b.s + at;
    V high = V::load(row) * scale, more = high;
    int64_t c = W;
    for (; c + W < b.cols; c += 2 * W) {
      high = max(high, V::load(row + c) * scale);
      more = max(more, V::load(row + c + W) * scale);
    }
    if (c < b.cols) more = max(more, V::load(row + c) * scale);
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
    const V shift = V::broadcast(top[r] == kLowest<T> ? T(0) : -top[r]);
    V other = V::zero();
    for (c = 0; c + W < b.cols; c += 2 * W) {
      const V p = exp2_bounded(fma(V::load(row + c), scale, shift));
      const V q = exp2_bounded(fma(V::load(row + c + W), scale, shift));
      out.store(p, q, at + c);
      sum += p;
      other += q;
    }
    if (c < b.cols) {
      const V p = exp2_bounded(fma(V::load(row + c), scale, shift));
      out.store(p, at + c);
      sum += p;
    }
    (sum + other).store(sums + r * W);
  }
  return moved;
}

template <class T>
bool softmax(const ScoreRows<T>& b, T* top, T* sums, T* decay, bfloat16* rounded) {
  if constexpr (sizeof(T) == 4) {
    if (rounded) return softmax_to(b, top, sums, decay, Rounded{rounded});
  }
  return softmax_to(b, top, sums, decay, InPlace<T>{b.s});
}

template <class T>
void gradients(const ScoreRows<T>& b, const T* lse, const T* delta, const T* kept, T* dp) {
  using V = Vec<T>;
  const V scale = V::broadcast(b.scale);
  for (int64_t r = 0; r < b.rows; ++r) {
    const V shift = V::broadcast(-lse[r]), d = V::broadcast(delta[r]);
    T *row = b.s + r * b.ld, *out = dp + r * b.ld;
    const T* k = kept ? kept + r * b.ld : nullptr;
    for (int64_t c = 0; c < b.cols; c += V::width) {
      const V p = exp2_bounded(fma(V::load(row + c), scale, shift));
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
T total(const T* x) {
  return reduce_add(Vec<T>::load(x));
}

#if FASTDL_ISA_ID == FASTDL_ISA_ID_avx512
// Rounded to the nearest bfloat16, ties to even, which are the upper halves of the lanes.
FASTDL_INLINE __m512i upper_rounded(Vec<float> x) {
  const __m512i u = _mm512_castps_si512(x.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
  return _mm512_mask_or_epi32(rounded, nan, u, _mm512_set1_epi32(0x400000));
}
// Lane i: the pair (x[i], y[i]).
FASTDL_INLINE void store_pairs(__m512i x, __m512i y, bfloat16* to) {
  const __m512i upper = _mm512_set1_epi32(-65536);
  _mm512_storeu_si512(to, _mm512_or_si512(_mm512_srli_epi32(x, 16), _mm512_and_si512(y, upper)));
}

void gradients_bf16(const ScoreRows<float>& b, const float* lse, const float* delta, const float* kept,
                    const float* dp, const RoundedGradients& to) {
  using V = Vec<float>;
  const V scale = V::broadcast(b.scale);
  for (int64_t r = 0; r < b.rows; r += 2) {
    const bool two = r + 1 < b.rows;
    const int64_t next = two ? r + 1 : r;
    const V shift[2] = {V::broadcast(-lse[r]), V::broadcast(-lse[next])};
    const V sums[2] = {V::broadcast(delta[r]), V::broadcast(delta[next])};
    for (int64_t c = 0; c < b.cols; c += V::width) {
      __m512i weights[2], gradients[2];
      FASTDL_UNROLL for (int n = 0; n < 2; ++n) {
        const int64_t at = (n ? next : r) * b.ld + c;
        const V p = exp2_bounded(fma(V::load(b.s + at), scale, shift[n]));
        V grad = V::load(dp + at), weight = p;
        if (kept) {
          grad *= V::load(kept + at);
          weight *= V::load(kept + at);
        }
        weights[n] = upper_rounded(weight);
        gradients[n] = upper_rounded(p * (grad - sums[n]));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to.gradient_rows + at),
                            _mm512_cvtepi32_epi16(_mm512_srli_epi32(gradients[n], 16)));
      }
      if (!two) weights[1] = gradients[1] = _mm512_setzero_si512();
      const int64_t at = c / to.nr * to.panel + r * to.nr + c % to.nr * 2;
      store_pairs(weights[0], weights[1], to.weights + at);
      store_pairs(gradients[0], gradients[1], to.gradients + at);
    }
  }
}
constexpr auto kGradientsBf16 = gradients_bf16;
#else
constexpr decltype(AttentionKernels::gradients_bf16) kGradientsBf16 = nullptr;
#endif

template <class T>
constexpr AttentionTable<T> table_of() {
  return {Vec<T>::width, mask<T>, softmax<T>, gradients<T>, scale_rows<T>, total<T>};
}

}  // namespace

extern const DecodeTable<float, float> decode_f32;
extern const DecodeTable<double, double> decode_f64;
extern const DecodeTable<bfloat16, float> decode_bf16;

extern const AttentionKernels attention_kernels;
const AttentionKernels attention_kernels = {table_of<float>(), table_of<double>(), &decode_f32,
                                            &decode_f64,       &decode_bf16,       kGradientsBf16};

}  // namespace fastdl::cpu::FASTDL_ISA
