// Pooling over contiguous channels: a block of them stays in registers while the taps (or, backward, the
// windows) pass by.
#include "cpu/isa/pool.h"

#include "cpu/isa/positions.h"
#include "cpu/isa/vectors.h"

namespace fastdl::cpu::FASTDL_ISA {
namespace {

template <bool Where, int B, class S>
FASTDL_INLINE void max_block(const PoolRow& row, int64_t shift, int last, const S* x, S* out,
                             int32_t* where) {
  using T = compute_t<S>;
  constexpr int w = Vec<T>::width;
  const auto lanes = [&](int b) FASTDL_FORCE_INLINE { return b == B - 1 ? last : w; };
  Vec<T> top[B], at[B];
  const int64_t start = row.positions[0] + shift;
  for (int b = 0; b < B; ++b) {
    top[b] = load(x + start * row.stride + b * w, lanes(b));
    if constexpr (Where) at[b] = position_lanes(start, T{});
  }
  for (int64_t t = 1; t < row.taps; ++t) {
    const int64_t position = row.positions[t] + shift;
    const Vec<T> here = position_lanes(position, T{});
    for (int b = 0; b < B; ++b) {
      const Vec<T> v = load(x + position * row.stride + b * w, lanes(b));
      if constexpr (Where) {
        const Mask<T> take = (v > top[b]) | isnan(v);  // a NaN stays: nothing compares larger
        top[b] = select(take, v, top[b]);
        at[b] = select(take, here, at[b]);
      } else {
        top[b] = max_nan(top[b], v);
      }
    }
  }
  for (int b = 0; b < B; ++b) {
    store(top[b], out + b * w, lanes(b));
    if constexpr (Where) store_positions(at[b], where + b * w, lanes(b));
  }
}

// Four taps are two lines, from each of which the next row of windows is some lines away.
template <int Taps, class S>
FASTDL_INLINE void fetch_ahead(const PoolRow& row, const S* const (&from)[Taps], int64_t i) {
  if constexpr (Taps == 4) {
    if (row.ahead == 0) return;
    FASTDL_UNROLL for (int t = 0; t < Taps; ++t) __builtin_prefetch(from[t] + i + row.ahead, 0, 2);
  }
}

// Few taps, known when this is compiled: their addresses and positions stay in registers.
template <bool Where, int Taps, class S>
void max_few(const PoolRow& row, const S* x, S* out, int32_t* where) {
  using T = compute_t<S>;
  const S* from[Taps];
  FASTDL_UNROLL for (int t = 0; t < Taps; ++t) from[t] = x + row.positions[t] * row.stride;
  for (int64_t o = 0; o < row.outputs; ++o, out += row.stride, where += Where ? row.stride : 0) {
    const int64_t shift = o * row.step;
    Vec<T> here[Taps];
    FASTDL_UNROLL for (int t = 0; t < Taps; ++t) here[t] = position_lanes(row.positions[t] + shift, T{});
    for_vectors<S>(row.channels, [&](int64_t c, int m) FASTDL_FORCE_INLINE {
      const int64_t i = shift * row.stride + c;
      fetch_ahead(row, from, i);
      Vec<T> top = load(from[0] + i, m);
      [[maybe_unused]] Vec<T> at = Where ? here[0] : top;
      FASTDL_UNROLL for (int t = 1; t < Taps; ++t) {
        const Vec<T> v = load(from[t] + i, m);
        if constexpr (Where) {
          const Mask<T> take = (v > top) | isnan(v);
          top = select(take, v, top);
          at = select(take, here[t], at);
        } else {
          top = max_nan(top, v);
        }
      }
      store(top, out + c, m);
      if constexpr (Where) store_positions(at, where + c, m);
    });
  }
}

template <bool Where, class S>
void max_row_where(const PoolRow& row, const S* x, S* out, int32_t* where) {
  if (row.taps == 4) return max_few<Where, 4>(row, x, out, where);  // 2 x 2
  if (row.taps == 9) return max_few<Where, 9>(row, x, out, where);  // 3 x 3
  for (int64_t o = 0; o < row.outputs; ++o, out += row.stride, where += Where ? row.stride : 0) {
    for_blocks<S>(row.channels, [&](int64_t c, auto blocks, int last) FASTDL_FORCE_INLINE {
      max_block<Where, decltype(blocks)::value>(row, o * row.step, last, x + c, out + c, where + c);
    });
  }
}

template <class S>
void max_row(const PoolRow& row, const S* x, S* out, int32_t* where) {
  if (where) max_row_where<true>(row, x, out, where);
  else max_row_where<false>(row, x, out, where);
}

// Long sums go through partial sums of this many taps, which keeps their rounding error small.
constexpr int64_t kPartial = 64;

template <int B, class S, class T>
FASTDL_INLINE void sum_block(const PoolRow& row, int64_t shift, int last, const S* x, Vec<T> scale, S* out) {
  constexpr int w = Vec<T>::width;
  const auto lanes = [&](int b) FASTDL_FORCE_INLINE { return b == B - 1 ? last : w; };
  const auto partial = [&](int64_t begin, int64_t end, Vec<T>* sum) FASTDL_FORCE_INLINE {
    for (int b = 0; b < B; ++b) sum[b] = Vec<T>::zero();
    for (int64_t t = begin; t < end; ++t) {
      const S* from = x + (row.positions[t] + shift) * row.stride;
      for (int b = 0; b < B; ++b) sum[b] += load(from + b * w, lanes(b));
    }
  };
  Vec<T> total[B];
  partial(0, row.taps < kPartial ? row.taps : kPartial, total);
  for (int64_t t = kPartial; t < row.taps; t += kPartial) {
    Vec<T> sum[B];
    partial(t, row.taps < t + kPartial ? row.taps : t + kPartial, sum);
    for (int b = 0; b < B; ++b) total[b] += sum[b];
  }
  for (int b = 0; b < B; ++b) store(total[b] * scale, out + b * w, lanes(b));
}

// As max_few.
template <int Taps, class S>
void sum_few(const PoolRow& row, const S* x, compute_t<S> scale, S* out) {
  using V = VecOf<S>;
  const V s = V::broadcast(scale);
  const S* from[Taps];
  FASTDL_UNROLL for (int t = 0; t < Taps; ++t) from[t] = x + row.positions[t] * row.stride;
  for (int64_t o = 0; o < row.outputs; ++o, out += row.stride) {
    const int64_t shift = o * row.step * row.stride;
    for_vectors<S>(row.channels, [&](int64_t c, int m) FASTDL_FORCE_INLINE {
      fetch_ahead(row, from, shift + c);
      V sum = V::zero();
      FASTDL_UNROLL for (int t = 0; t < Taps; ++t) sum += load(from[t] + shift + c, m);
      store(sum * s, out + c, m);
    });
  }
}

template <class S>
void sum_row(const PoolRow& row, const S* x, compute_t<S> scale, S* out) {
  if (row.taps == 4) return sum_few<4>(row, x, scale, out);  // 2 x 2
  if (row.taps == 9) return sum_few<9>(row, x, scale, out);  // 3 x 3
  const VecOf<S> s = VecOf<S>::broadcast(scale);
  for (int64_t o = 0; o < row.outputs; ++o, out += row.stride) {
    for_blocks<S>(row.channels, [&](int64_t c, auto blocks, int last) FASTDL_FORCE_INLINE {
      sum_block<decltype(blocks)::value>(row, o * row.step, last, x + c, s, out + c);
    });
  }
}

// dx[p] = the sum of term(window row, window, channel, lanes) over the windows that reach p, in order.
template <class S, class Term>
FASTDL_INLINE void for_reach(const PoolReach& row, S* dx, Term&& term) {
  using V = VecOf<S>;
  constexpr int w = V::width;
  for (int64_t p = 0; p < row.width; ++p, dx += row.channels) {
    const int64_t first = row.first[p], last = row.last[p];
    for_blocks<S>(row.channels, [&](int64_t c, auto blocks, int tail) FASTDL_FORCE_INLINE {
      constexpr int B = decltype(blocks)::value;
      V sum[B];
      for (int b = 0; b < B; ++b) sum[b] = V::zero();
      for (int64_t r = 0; r < row.rows; ++r) {
        for (int64_t o = first; o < last; ++o) {
          for (int b = 0; b < B; ++b) sum[b] += term(p, r, o, c + b * w, b == B - 1 ? tail : w);
        }
      }
      for (int b = 0; b < B; ++b) store(sum[b], dx + c + b * w, b == B - 1 ? tail : w);
    });
  }
}

template <class S>
void max_reach(const PoolReach& row, const S* dy, const int32_t* where, S* dx) {
  using T = compute_t<S>;
  for_reach(row, dx, [&](int64_t p, int64_t r, int64_t o, int64_t c, int m) FASTDL_FORCE_INLINE {
    const int64_t at = (row.starts[r] + o) * row.channels + c;
    const Vec<T> here = position_lanes(row.position + p, T{});
    return select(same_position(load_positions(where + at, m, T{}), here), load(dy + at, m), Vec<T>::zero());
  });
}

template <class S>
void sum_reach(const PoolReach& row, const S* dy, const compute_t<S>* const* scales, S* dx) {
  for_reach(row, dx, [&](int64_t, int64_t r, int64_t o, int64_t c, int m) FASTDL_FORCE_INLINE {
    return load(dy + (row.starts[r] + o) * row.channels + c, m) * VecOf<S>::broadcast(scales[r][o]);
  });
}

// term(window, tap, channel, lanes) to every tap of windows that lie apart, zeros between them.
template <class S, class Term>
FASTDL_INLINE void for_apart(const PoolApart& row, S* dx, Term&& term) {
  for (int64_t o = 0; o < row.outputs; ++o, dx += row.step * row.channels) {
    term(o, dx);
    if (o + 1 == row.outputs) break;
    for_vectors<S>((row.step - row.taps) * row.channels, [&](int64_t i, int m) FASTDL_FORCE_INLINE {
      store(VecOf<S>::zero(), dx + row.taps * row.channels + i, m);
    });
  }
}

template <class S>
void max_apart(const PoolApart& row, const S* dy, const int32_t* where, S* dx) {
  using T = compute_t<S>;
  for_apart<S>(row, dx, [&](int64_t o, S* to) FASTDL_FORCE_INLINE {
    const int64_t position = row.position + o * row.step;
    for_vectors<S>(row.channels, [&](int64_t c, int m) FASTDL_FORCE_INLINE {
      const Vec<T> g = load(dy + o * row.channels + c, m);
      const Vec<T> at = load_positions(where + o * row.channels + c, m, T{});
      S* q = to + c;
      for (int64_t k = 0; k < row.taps; ++k, q += row.channels) {
        store(select(same_position(at, position_lanes(position + k, T{})), g, Vec<T>::zero()), q, m);
      }
    });
  });
}

template <class S>
void sum_apart(const PoolApart& row, const S* dy, const compute_t<S>* scales, S* dx) {
  for_apart<S>(row, dx, [&](int64_t o, S* to) FASTDL_FORCE_INLINE {
    const VecOf<S> scale = VecOf<S>::broadcast(scales[o]);
    for_vectors<S>(row.channels, [&](int64_t c, int m) FASTDL_FORCE_INLINE {
      const VecOf<S> g = load(dy + o * row.channels + c, m) * scale;
      S* q = to + c;
      for (int64_t k = 0; k < row.taps; ++k, q += row.channels) store(g, q, m);
    });
  });
}

template <class S>
constexpr PoolTable<S> kTable = {max_row<S>,   sum_row<S>,   max_reach<S>,
                                 sum_reach<S>, max_apart<S>, sum_apart<S>};

}  // namespace

extern const PoolKernels pool_kernels;
const PoolKernels pool_kernels = {kTable<float>, kTable<double>, kTable<bfloat16>, kTable<float16>};

}  // namespace fastdl::cpu::FASTDL_ISA
