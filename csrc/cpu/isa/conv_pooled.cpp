#include "cpu/isa/conv_pooled.h"

#include "cpu/isa/positions.h"
#include "cpu/isa/vectors.h"

namespace fastdl::cpu::FASTDL_ISA {
namespace {

// Sums that stay in registers, beside an input and a gradient; outputs that share a turn of the loop, so that
// their sums form independent chains.
constexpr int kSums = FASTDL_ISA_ID == FASTDL_ISA_ID_avx512 || FASTDL_ISA_ID == FASTDL_ISA_ID_neon ? 24 : 12;
constexpr int kOutputs = 8;
constexpr int outputs_of(int sums) { return kSums / sums < kOutputs ? kSums / sums : kOutputs; }

template <class T>
void take(int64_t n, const T* from, const T* out, const int32_t* where, int64_t plane, T* to,
          int32_t* places) {
  if (out) {
    for (int64_t i = 0; i < n; ++i) to[i] = out[i] <= 0 ? T(0) : from[i];
  } else {
    for (int64_t i = 0; i < n; ++i) to[i] = from[i];
  }
  const uint32_t end = static_cast<uint32_t>(plane);
  for (int64_t i = 0; i < n; ++i) {
    const bool inside = static_cast<uint32_t>(where[i]) < end;
    places[i] = inside ? where[i] : 0;
    to[i] = inside ? to[i] : T(0);
  }
}

template <class T, int O, int R, int N>
FASTDL_INLINE void weight_outputs(const PooledWeight<T>& p, int64_t o) {
  using V = Vec<T>;
  constexpr int W = V::width;
  const PooledGradient<T>& gradient = p.gradient;
  const int64_t x_step = p.x_step;
  T* const to = p.sums + o * p.sums_row;
  V sums[O][R][N];
  FASTDL_UNROLL for (int i = 0; i < O; ++i) {
    FASTDL_UNROLL for (int r = 0; r < R; ++r) {
      FASTDL_UNROLL for (int v = 0; v < N; ++v) sums[i][r][v] =
          V::load(to + i * p.sums_row + r * p.sums_step + v * W);
    }
  }
  const T* g = gradient.g + o;
  const int32_t* where = gradient.where + o;
  for (int64_t k = 0; k < gradient.positions; ++k, g += gradient.step, where += gradient.step) {
    FASTDL_UNROLL for (int i = 0; i < O; ++i) {
      const T* const x = p.x + gradient.offset[where[i]];
      const V factor = V::broadcast(g[i]);
      FASTDL_UNROLL for (int r = 0; r < R; ++r) {
        FASTDL_UNROLL for (int v = 0; v < N; ++v) sums[i][r][v] =
            fma(V::load(x + r * x_step + v * W), factor, sums[i][r][v]);
      }
    }
  }
  FASTDL_UNROLL for (int i = 0; i < O; ++i) {
    FASTDL_UNROLL for (int r = 0; r < R; ++r) {
      FASTDL_UNROLL for (int v = 0; v < N; ++v) sums[i][r][v].store(to + i * p.sums_row + r * p.sums_step +
                                                                    v * W);
    }
  }
}

template <class T, int R, int N>
void weight_of(const PooledWeight<T>& p) {
  constexpr int O = outputs_of(R * N);
  int64_t o = 0;
  for (; o + O <= p.gradient.outputs; o += O) weight_outputs<T, O, R, N>(p, o);
  for (; o < p.gradient.outputs; ++o) weight_outputs<T, 1, R, N>(p, o);
}

FASTDL_INLINE uint64_t bits_of(Mask<float> m) {
#if FASTDL_ISA_ID == 3
  return m.m;
#elif FASTDL_ISA_ID == 2
  return static_cast<uint64_t>(_mm256_movemask_ps(m.m));
#else
  unsigned char lanes[Vec<float>::width];
  store_mask(m, lanes, Vec<float>::width);
  uint64_t bits = 0;
  for (int i = 0; i < Vec<float>::width; ++i) bits |= static_cast<uint64_t>(lanes[i]) << i;
  return bits;
#endif
}
FASTDL_INLINE uint64_t bits_of(Mask<double> m) {
#if FASTDL_ISA_ID == 3
  return m.m;
#elif FASTDL_ISA_ID == 2
  return static_cast<uint64_t>(_mm256_movemask_pd(m.m));
#else
  unsigned char lanes[Vec<double>::width];
  store_mask(m, lanes, Vec<double>::width);
  uint64_t bits = 0;
  for (int i = 0; i < Vec<double>::width; ++i) bits |= static_cast<uint64_t>(lanes[i]) << i;
  return bits;
#endif
}

template <class T>
FASTDL_INLINE uint64_t gradients_there(const T* g, int64_t n) {
  uint64_t bits = 0;
  for_vectors<T>(n, [&](int64_t i, int m)
                        FASTDL_FORCE_INLINE { bits |= bits_of(load(g + i, m) != Vec<T>::zero()) << i; });
  return bits;
}

// Which of n <= 64 places are this one; places are not negative, so that as floats only equal ones have the
// difference zero.
FASTDL_INLINE uint64_t places_equal(const int32_t* where, int64_t n, int32_t place) {
  float as_float;
  __builtin_memcpy(&as_float, &place, 4);
  const Vec<float> same = Vec<float>::broadcast(as_float);
  uint64_t bits = 0;
  for_vectors<float>(n, [&](int64_t i, int m) FASTDL_FORCE_INLINE {
    const Vec<float> at = load(reinterpret_cast<const float*>(where) + i, m);
    bits |= bits_of((at ^ same) == Vec<float>::zero()) << i;
  });
  return bits;
}

// One channel and a 3 x 3 kernel: lanes are outputs, whose nine sums stay in registers. The places of a
// window are taken one after the other, each with the gradients that belong to it and zeros for the rest.
template <class T, int N>
void small_of(const PooledSmall<T>& p, int64_t o, int last) {
  using V = Vec<T>;
  constexpr int W = V::width, kTaps = 9;
  const auto lanes = [&](int v) FASTDL_FORCE_INLINE { return v + 1 == N ? last : W; };
  const PooledGradient<T>& gradient = p.gradient;
  const int64_t x_step = p.x_step;
  V sums[N][kTaps], bias[N], g[N], places[N];
  Mask<T> left[N];
  FASTDL_UNROLL for (int v = 0; v < N; ++v) {
    bias[v] = V::zero();
    FASTDL_UNROLL for (int t = 0; t < kTaps; ++t) sums[v][t] = V::zero();
  }
  const auto add = [&](int32_t place) FASTDL_FORCE_INLINE {
    const V same = position_lanes(place, T{});
    const T* const x = p.x + gradient.offset[place];
    V here[N];
    FASTDL_UNROLL for (int v = 0; v < N; ++v) {
      const Mask<T> mask = same_position(places[v], same);
      left[v] = left[v] & ~mask;
      here[v] = select(mask, g[v], V::zero());
      bias[v] += here[v];
    }
    FASTDL_UNROLL for (int t = 0; t < kTaps; ++t) {
      const V factor = V::broadcast(x[t / 3 * x_step + t % 3]);
      FASTDL_UNROLL for (int v = 0; v < N; ++v) sums[v][t] = fma(factor, here[v], sums[v][t]);
    }
  };
  for (int64_t k = 0; k < gradient.positions; ++k) {
    const int64_t at = k * gradient.step + o;
    const int32_t* const where = gradient.where + at;
    FASTDL_UNROLL for (int v = 0; v < N; ++v) {
      g[v] = load(gradient.g + at + v * W, lanes(v));
      if (p.out) g[v] = select(load(p.out + at + v * W, lanes(v)) <= V::zero(), V::zero(), g[v]);
      places[v] = load_positions(where + v * W, lanes(v), T{});
      // Only places that are not negative can be told apart.
      g[v] = select(copysign(V::broadcast(T(1)), places[v]) < V::zero(), V::zero(), g[v]);
      left[v] = g[v] != V::zero();
    }
    for (int64_t i = 0; i < gradient.num_likely; ++i) add(gradient.likely[k * gradient.num_likely + i]);
    for (int v = 0; v < N; ++v) {
      while (any(left[v])) {
        const int64_t lane = v * W + __builtin_ctzll(bits_of(left[v]));
        if (where[lane] < p.plane) {
          add(where[lane]);
          continue;
        }
        const Mask<T> outside = same_position(places[v], position_lanes(where[lane], T{}));
        left[v] = left[v] & ~outside;
      }
    }
  }
  FASTDL_UNROLL for (int v = 0; v < N; ++v) {
    const int m = lanes(v);
    T* const b = p.bias + o + v * W;
    store(load(b, m) + bias[v], b, m);
    FASTDL_UNROLL for (int t = 0; t < kTaps; ++t) {
      T* const to = p.sums + t * p.sums_row + o + v * W;
      store(load(to, m) + sums[v][t], to, m);
    }
  }
}
template <class T, int N>
void one_channel_of(const OneChannelLine<T>& p, int64_t o, int last) {
  using V = Vec<T>;
  constexpr int W = V::width, kTaps = 9;
  const auto lanes = [&](int v) FASTDL_FORCE_INLINE { return v + 1 == N ? last : W; };
  const int64_t line = p.x_line, tap = p.x_tap;
  V sums[N][kTaps], bias[N];
  FASTDL_UNROLL for (int v = 0; v < N; ++v) {
    bias[v] = V::zero();
    FASTDL_UNROLL for (int t = 0; t < kTaps; ++t) sums[v][t] = V::zero();
  }
  const T *g = p.g + o, *out = p.out ? p.out + o : nullptr, *x = p.x;
  for (int64_t q = 0; q < p.positions; ++q, g += p.g_step, x += p.x_step) {
    V here[N];
    FASTDL_UNROLL for (int v = 0; v < N; ++v) {
      here[v] = load(g + v * W, lanes(v));
      if (out) {
        here[v] = select(load(out + q * p.out_step + v * W, lanes(v)) <= V::zero(), V::zero(), here[v]);
      }
      bias[v] += here[v];
    }
    FASTDL_UNROLL for (int t = 0; t < kTaps; ++t) {
      const V factor = V::broadcast(x[t / 3 * line + t % 3 * tap]);
      FASTDL_UNROLL for (int v = 0; v < N; ++v) sums[v][t] = fma(factor, here[v], sums[v][t]);
    }
  }
  FASTDL_UNROLL for (int v = 0; v < N; ++v) {
    T* const to = p.sums + o + v * W;
    const int m = lanes(v);
    FASTDL_UNROLL for (int t = 0; t < kTaps; ++t) {
      store(load(to + t * p.outputs, m) + sums[v][t], to + t * p.outputs, m);
    }
    store(load(to + kTaps * p.outputs, m) + bias[v], to + kTaps * p.outputs, m);
  }
}

// Two vectors of outputs at a time where the registers hold their sums.
constexpr int kTwo = kSums >= 20 ? 2 : 1;

template <class T>
void one_channel(const OneChannelLine<T>& p) {
  constexpr int W = Vec<T>::width;
  int64_t o = 0;
  for (; o + kTwo * W <= p.outputs; o += kTwo * W) one_channel_of<T, kTwo>(p, o, W);
  for (; o < p.outputs; o += W) {
    one_channel_of<T, 1>(p, o, p.outputs - o < W ? static_cast<int>(p.outputs - o) : W);
  }
}

template <class T>
void small(const PooledSmall<T>& p) {
  constexpr int W = Vec<T>::width, kVectors = kTwo;
  const int64_t n = p.gradient.outputs;
  int64_t o = 0;
  for (; o + kVectors * W <= n; o += kVectors * W) small_of<T, kVectors>(p, o, W);
  for (; o < n; o += W) small_of<T, 1>(p, o, n - o < W ? static_cast<int>(n - o) : W);
}

// Adds the filters of outputs o + each bit of `here`, times their gradients, to the patch of a place.
template <class T, int R, int N>
FASTDL_INLINE void add_place(const PooledData<T>& p, const T* g, int64_t o, uint64_t here, int32_t place) {
  using V = Vec<T>;
  constexpr int W = V::width;
  const int64_t w_step = p.w_step;
  const T* const filters = p.w + o * p.w_row;
  V sums[R][N];
  FASTDL_UNROLL for (int r = 0; r < R; ++r) {
    FASTDL_UNROLL for (int v = 0; v < N; ++v) sums[r][v] = V::zero();
  }
  while (here) {
    const int64_t i = __builtin_ctzll(here);
    here &= here - 1;
    const T* const w = filters + i * p.w_row;
    const V factor = V::broadcast(g[i]);
    FASTDL_UNROLL for (int r = 0; r < R; ++r) {
      FASTDL_UNROLL for (int v = 0; v < N; ++v) sums[r][v] =
          fma(V::load(w + r * w_step + v * W), factor, sums[r][v]);
    }
  }
  T* const y = p.y + p.gradient.offset[place];
  FASTDL_UNROLL for (int r = 0; r < R; ++r) {
    T* const row = y + r * p.y_step;
    FASTDL_UNROLL for (int v = 0; v + 1 < N; ++v)(V::load(row + v * W) + sums[r][v]).store(row + v * W);
    T* const end = row + (N - 1) * W;
    store(load(end, p.last) + sums[r][N - 1], end, p.last);
  }
}

template <class T, int R, int N>
void data_of(const PooledData<T>& p) {
  const PooledGradient<T>& gradient = p.gradient;
  const T* g = gradient.g;
  const int32_t* where = gradient.where;
  for (int64_t k = 0; k < gradient.positions; ++k, g += gradient.step, where += gradient.step) {
    for (int64_t o = 0; o < gradient.outputs; o += 64) {
      const int64_t n = gradient.outputs - o < 64 ? gradient.outputs - o : 64;
      uint64_t left = gradients_there(g + o, n);
      for (int64_t i = 0; i < gradient.num_likely; ++i) {
        const int32_t place = gradient.likely[k * gradient.num_likely + i];
        const uint64_t here = left & places_equal(where + o, n, place);
        left &= ~here;
        if (here) add_place<T, R, N>(p, g + o, o, here, place);
      }
      while (left) {
        const int32_t place = where[o + __builtin_ctzll(left)];
        const uint64_t here = left & places_equal(where + o, n, place);
        left &= ~here;
        add_place<T, R, N>(p, g + o, o, here, place);
      }
    }
  }
}

template <class T, int R, template <class, int, int> class Call, class P>
FASTDL_INLINE void by_vectors(const P& p) {
  switch (p.vectors) {
    case 1:
      return Call<T, R, 1>::run(p);
    case 2:
      return Call<T, R, 2>::run(p);
    case 3:
      return Call<T, R, 3>::run(p);
    case 4:
      return Call<T, R, 4>::run(p);
    default:
      break;
  }
  if constexpr (R * kPooledVectors <= kSums || R == 1) {
    switch (p.vectors) {
      case 5:
        return Call<T, R, 5>::run(p);
      case 6:
        return Call<T, R, 6>::run(p);
      case 7:
        return Call<T, R, 7>::run(p);
      default:
        return Call<T, R, 8>::run(p);
    }
  }
}
template <class T, int R, int N>
struct WeightOf {
  static void run(const PooledWeight<T>& p) { weight_of<T, R, N>(p); }
};
template <class T, int R, int N>
struct DataOf {
  static void run(const PooledData<T>& p) { data_of<T, R, N>(p); }
};
template <class T>
void weight(const PooledWeight<T>& p) {
  if (p.rows == 3) by_vectors<T, 3, WeightOf>(p);
  else by_vectors<T, 1, WeightOf>(p);
}
template <class T>
void data(const PooledData<T>& p) {
  if (p.rows == 3) by_vectors<T, 3, DataOf>(p);
  else by_vectors<T, 1, DataOf>(p);
}

template <class T>
void unfold(const T* from, int64_t n, int64_t step, int64_t rows, int64_t row_step, int64_t length, T* to,
            int64_t to_step) {
  for (int64_t q = 0; q < n; ++q, from += step, to += to_step) {
    for (int64_t r = 0; r < rows; ++r) Vec<T>::load(from + r * row_step).store(to + r * length);
  }
}

template <class T>
bool finite(const T* x, int64_t n) {
  Vec<T> sum[4] = {Vec<T>::zero(), Vec<T>::zero(), Vec<T>::zero(), Vec<T>::zero()};
  constexpr int W = Vec<T>::width;
  int64_t i = 0;
  for (; i + 4 * W <= n; i += 4 * W) {
    FASTDL_UNROLL for (int b = 0; b < 4; ++b) sum[b] += Vec<T>::load(x + i + b * W) * Vec<T>::zero();
  }
  for (; i < n; i += W) sum[0] += load(x + i, n - i < W ? static_cast<int>(n - i) : W) * Vec<T>::zero();
  return reduce_add((sum[0] + sum[1]) + (sum[2] + sum[3])) == 0;
}

template <class T>
constexpr PooledTable<T> kTable = {Vec<T>::width,  kSums,   take<T>,   weight<T>, small<T>,
                                   one_channel<T>, data<T>, unfold<T>, finite<T>};

}  // namespace

extern const PooledKernels pooled_kernels;
const PooledKernels pooled_kernels = {kTable<float>, kTable<double>};

}  // namespace fastdl::cpu::FASTDL_ISA
