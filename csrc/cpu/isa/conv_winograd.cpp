// The transforms of Winograd convolution. See conv_winograd.h.
#include "cpu/isa/conv_winograd.h"

#include "narrow.h"
#include "simd.h"

namespace fastdl::cpu::FASTDL_ISA {
namespace {

using V = Vec<float>;

FASTDL_INLINE V c(float x) { return V::broadcast(x); }

// One axis: B^T (input), A^T (output), G of 3 taps (filter), and for the gradient of the weights G of M taps
// (gradient) and A^T with 3 outputs (weight), each from Lavin & Gray's construction.
template <int M>
struct Axis;

template <>
struct Axis<2> {
  static constexpr int kTile = 4;
  static FASTDL_INLINE void input(const V* d, V* v) {
    v[0] = d[0] - d[2];
    v[1] = d[2] + d[1];
    v[2] = d[2] - d[1];
    v[3] = d[3] - d[1];
  }
  static FASTDL_INLINE void output(const V* m, V* y) {
    y[0] = m[0] + (m[1] + m[2]);
    y[1] = (m[1] - m[2]) + m[3];
  }
  static FASTDL_INLINE void filter(const V* g, V* u) {
    const V half = c(0.5f), even = (g[0] + g[2]) * half;
    u[0] = g[0];
    u[1] = fma(half, g[1], even);
    u[2] = fnma(half, g[1], even);
    u[3] = g[2];
  }
  static FASTDL_INLINE void gradient(const V* g, V* u) {
    const V half = c(0.5f);
    u[0] = g[0];
    u[1] = (g[0] + g[1]) * half;
    u[2] = (g[0] - g[1]) * half;
    u[3] = g[1];
  }
  static FASTDL_INLINE void weight(const V* m, V* y) {
    const V even = m[1] + m[2];
    y[0] = m[0] + even;
    y[1] = m[1] - m[2];
    y[2] = even + m[3];
  }
};

template <>
struct Axis<4> {
  static constexpr int kTile = 6;
  // The points +-a, +-b: these powers are exact. N is the product of a point's differences from the others.
  static constexpr float a = 11.0f / 16, b = 1.5f, aa = a * a, bb = b * b, sum = aa + bb, product = aa * bb;
  static constexpr float na = static_cast<float>(1 / (2.0 * aa * (aa - bb)));
  static constexpr float nb = static_cast<float>(1 / (2.0 * bb * (bb - aa)));
  static constexpr float n0 = static_cast<float>(1 / (1.0 * aa * bb));

  static FASTDL_INLINE void input(const V* d, V* v) {
    const V even_a = fnma(c(bb), d[2], d[4]), odd_a = fnma(c(bb), d[1], d[3]);
    const V even_b = fnma(c(aa), d[2], d[4]), odd_b = fnma(c(aa), d[1], d[3]);
    v[0] = fma(c(product), d[0], fnma(c(sum), d[2], d[4]));
    v[1] = fma(c(a), odd_a, even_a);
    v[2] = fnma(c(a), odd_a, even_a);
    v[3] = fma(c(b), odd_b, even_b);
    v[4] = fnma(c(b), odd_b, even_b);
    v[5] = fma(c(product), d[1], fnma(c(sum), d[3], d[5]));
  }
  static FASTDL_INLINE void output(const V* m, V* y) {
    const V even_a = m[1] + m[2], odd_a = m[1] - m[2], even_b = m[3] + m[4], odd_b = m[3] - m[4];
    y[0] = m[0] + (even_a + even_b);
    y[1] = fma(c(b), odd_b, c(a) * odd_a);
    y[2] = fma(c(bb), even_b, c(aa) * even_a);
    y[3] = m[5] + fma(c(b * bb), odd_b, c(a * aa) * odd_a);
  }
  static FASTDL_INLINE void filter(const V* g, V* u) {
    const V even_a = fma(c(aa), g[2], g[0]), even_b = fma(c(bb), g[2], g[0]);
    u[0] = g[0] * c(n0);
    u[1] = fma(c(a), g[1], even_a) * c(na);
    u[2] = fnma(c(a), g[1], even_a) * c(na);
    u[3] = fma(c(b), g[1], even_b) * c(nb);
    u[4] = fnma(c(b), g[1], even_b) * c(nb);
    u[5] = g[2];
  }
  static FASTDL_INLINE void gradient(const V* g, V* u) {
    const V even_a = fma(c(aa), g[2], g[0]), even_b = fma(c(bb), g[2], g[0]);
    const V odd_a = fma(c(aa), g[3], g[1]), odd_b = fma(c(bb), g[3], g[1]);
    u[0] = g[0] * c(n0);
    u[1] = fma(c(a), odd_a, even_a) * c(na);
    u[2] = fnma(c(a), odd_a, even_a) * c(na);
    u[3] = fma(c(b), odd_b, even_b) * c(nb);
    u[4] = fnma(c(b), odd_b, even_b) * c(nb);
    u[5] = g[3];
  }
  static FASTDL_INLINE void weight(const V* m, V* y) {
    const V even_a = m[1] + m[2], even_b = m[3] + m[4];
    y[0] = m[0] + (even_a + even_b);
    y[1] = fma(c(b), m[3] - m[4], c(a) * (m[1] - m[2]));
    y[2] = fma(c(bb), even_b, c(aa) * even_a) + m[5];
  }
};

// The lanes of one vector of channels: all of them, or the first n.
struct Full {
  FASTDL_INLINE V load(const float* p) const { return V::load(p); }
  FASTDL_INLINE void store(V x, float* p) const { x.store(p); }
  FASTDL_INLINE V load(const bfloat16* p) const { return load_as(p); }
  FASTDL_INLINE void store(V x, bfloat16* p) const { store_as(x, p); }
};
struct Part {
  int n;
  FASTDL_INLINE V load(const float* p) const { return V::load(p, n); }
  FASTDL_INLINE void store(V x, float* p) const { x.store(p, n); }
  FASTDL_INLINE V load(const bfloat16* p) const { return load_as(p, n); }
  FASTDL_INLINE void store(V x, bfloat16* p) const { store_as(x, p, n); }
};

template <class F>
FASTDL_INLINE void for_vectors(int64_t n, F&& f) {
  int64_t j = 0;
  for (; j + V::width <= n; j += V::width) f(j, Full{});
  if (j < n) f(j, Part{static_cast<int>(n - j)});
}

// An IH x IW tile, transformed into OH x OW points: `down` its columns, then `along` its rows.
template <int IH, int IW, int OH, int OW, class Down, class Along>
FASTDL_INLINE void transform(const float* x, int64_t h_step, int64_t w_step, int64_t channels, float* v,
                             int64_t point_step, Down&& down, Along&& along) {
  for_vectors(channels, [&](int64_t j, auto lanes) __attribute__((always_inline)) {
    V t[IW][OH];
    FASTDL_UNROLL for (int q = 0; q < IW; ++q) {
      V d[IH];
      FASTDL_UNROLL for (int r = 0; r < IH; ++r) d[r] = lanes.load(x + r * h_step + q * w_step + j);
      down(d, t[q]);
    }
    FASTDL_UNROLL for (int r = 0; r < OH; ++r) {
      V d[IW], u[OW];
      FASTDL_UNROLL for (int q = 0; q < IW; ++q) d[q] = t[q][r];
      along(d, u);
      FASTDL_UNROLL for (int q = 0; q < OW; ++q) lanes.store(u[q], v + (r * OW + q) * point_step + j);
    }
  });
}

// Axis<M>::step as an argument. (A pointer to it might not be inlined.)
#define FASTDL_AXIS(M, step) [](const V* d, V* u) __attribute__((always_inline)) { Axis<M>::step(d, u); }

template <int MH, int MW>
void input(const float* x, int64_t h_step, int64_t w_step, int64_t channels, float* v, int64_t point_step) {
  constexpr int TH = Axis<MH>::kTile, TW = Axis<MW>::kTile;
  transform<TH, TW, TH, TW>(x, h_step, w_step, channels, v, point_step, FASTDL_AXIS(MH, input),
                            FASTDL_AXIS(MW, input));
}

template <int MH, int MW>
void gradient(const float* x, int64_t h_step, int64_t w_step, int64_t channels, float* v,
              int64_t point_step) {
  transform<MH, MW, Axis<MH>::kTile, Axis<MW>::kTile>(x, h_step, w_step, channels, v, point_step,
                                                      FASTDL_AXIS(MH, gradient), FASTDL_AXIS(MW, gradient));
}

template <int MH, int MW>
void weight(const float* m, int64_t point_step, int64_t columns, float* dw, int64_t tap_step) {
  constexpr int TH = Axis<MH>::kTile, TW = Axis<MW>::kTile;
  transform<TH, TW, 3, 3>(m, TW * point_step, point_step, columns, dw, tap_step, FASTDL_AXIS(MH, weight),
                          FASTDL_AXIS(MW, weight));
}
#undef FASTDL_AXIS

template <int MH, int MW>
void filter(const WinogradFilter& p) {
  constexpr int TH = Axis<MH>::kTile, TW = Axis<MW>::kTile;
  const int64_t step = p.reversed ? -p.width : p.width;
  const float* w = p.w + (p.reversed ? 8 * p.width : 0);
  for (int64_t i = 0; i < p.reduce; ++i, w += 9 * p.width) {
    for_vectors(p.width, [&](int64_t j, auto lanes) __attribute__((always_inline)) {
      V t[3][TH], sum = lanes.load(p.sum + j), squares = lanes.load(p.squares + j);
      FASTDL_UNROLL for (int q = 0; q < 3; ++q) {
        V g[3];
        FASTDL_UNROLL for (int r = 0; r < 3; ++r) {
          g[r] = lanes.load(w + (r * 3 + q) * step + j);
          sum += abs(g[r]);
          squares = fma(g[r], g[r], squares);
        }
        Axis<MH>::filter(g, t[q]);
      }
      lanes.store(sum, p.sum + j);
      lanes.store(squares, p.squares + j);
      FASTDL_UNROLL for (int r = 0; r < TH; ++r) {
        V g[3], u[TW];
        FASTDL_UNROLL for (int q = 0; q < 3; ++q) g[q] = t[q][r];
        Axis<MW>::filter(g, u);
        FASTDL_UNROLL for (int q = 0; q < TW; ++q)
            lanes.store(u[q], p.u + (r * TW + q) * p.point_step + i * p.width + j);
      }
    });
  }
}

// A vector's worth of lanes at a time: their 9 taps are transposed, in parts of at most a vector.
void pack_taps(const float* w, int64_t row_step, int64_t rows, int lanes, int width, float* out) {
  constexpr int W = V::width;
  for (int64_t r = 0; r < rows; ++r, w += row_step, out += 9 * width) {
    for (int j = 0; j < width; j += W) {
      FASTDL_UNROLL for (int t = 0; t < 9; t += W) {
        constexpr int most = W < 9 ? W : 9;
        const int taps = 9 - t < most ? 9 - t : most;
        V v[W];
        if (j + W <= lanes) {
          FASTDL_UNROLL for (int i = 0; i < W; ++i) v[i] = V::load(w + (j + i) * 9 + t, taps);
        } else {
          FASTDL_UNROLL for (int i = 0; i < W; ++i) v[i] =
              j + i < lanes ? V::load(w + (j + i) * 9 + t, taps) : V::zero();
        }
        transpose(v);
        FASTDL_UNROLL for (int i = 0; i < most; ++i) {
          if (i < taps) v[i].store(out + (t + i) * width + j);
        }
      }
    }
  }
}

template <int MH, int MW, class S>
void output(const WinogradOutput<S>& p) {
  constexpr int TH = Axis<MH>::kTile, TW = Axis<MW>::kTile;
  for_vectors(p.lanes, [&](int64_t j, auto lanes) __attribute__((always_inline)) {
    V t[TW][MH];
    FASTDL_UNROLL for (int q = 0; q < TW; ++q) {
      V m[TH];
      FASTDL_UNROLL for (int r = 0; r < TH; ++r) m[r] = V::load(p.m + (r * TW + q) * p.point_step + j);
      Axis<MH>::output(m, t[q]);
    }
    const V bias = p.bias ? lanes.load(p.bias + j) : V::zero();
    FASTDL_UNROLL for (int r = 0; r < MH; ++r) {
      if (r >= p.rows) break;
      V m[TW], y[MW];
      FASTDL_UNROLL for (int q = 0; q < TW; ++q) m[q] = t[q][r];
      Axis<MW>::output(m, y);
      FASTDL_UNROLL for (int q = 0; q < MW; ++q) {
        if (q >= p.cols) break;
        y[q] += bias;
        if (p.residual) y[q] += lanes.load(p.residual + r * p.residual_h + q * p.residual_w + j);
        if (p.relu) y[q] = max(V::zero(), y[q]);  // a NaN in the second operand comes through
        lanes.store(y[q], p.y + r * p.h_step + q * p.w_step + j);
      }
    }
  });
}

// A vector's worth of pixels at a time: their partial sums are transposed, not each reduced.
void pixel_sizes(const float* x, int64_t step, int64_t pixels, int64_t channels, float* sum, float* squares) {
  constexpr int W = V::width;
  for (int64_t p = 0; p < pixels; p += W) {
    const int n = pixels - p < W ? static_cast<int>(pixels - p) : W;
    V s[W], l[W];
    for (int i = 0; i < W; ++i) {
      V total = V::zero(), squared = V::zero();
      if (i < n) {
        const float* at = x + (p + i) * step;
        for_vectors(channels, [&](int64_t j, auto lanes) __attribute__((always_inline)) {
          const V v = abs(lanes.load(at + j));
          total += v;
          squared = fma(v, v, squared);
        });
      }
      s[i] = total;
      l[i] = squared;
    }
    transpose(s);
    transpose(l);
    FASTDL_UNROLL for (int stage = W / 2; stage > 0; stage /= 2) {
      FASTDL_UNROLL for (int i = 0; i < stage; ++i) {
        s[i] += s[i + stage];
        l[i] += l[i + stage];
      }
    }
    s[0].store(sum + p, n);
    l[0].store(squares + p, n);
  }
}

void channel_sizes(const float* x, int64_t step, int64_t pixels, int64_t channels, float* sum,
                   float* squares) {
  for_vectors(channels, [&](int64_t j, auto lanes) __attribute__((always_inline)) {
    V total = lanes.load(sum + j), squared = lanes.load(squares + j);
    for (int64_t p = 0; p < pixels; ++p) {
      const V v = abs(lanes.load(x + p * step + j));
      total += v;
      squared = fma(v, v, squared);
    }
    lanes.store(total, sum + j);
    lanes.store(squared, squares + j);
  });
}

}  // namespace

#define FASTDL_TILES(f)                      \
  {                                          \
    {f<2, 2>, f<2, 4>}, { f<4, 2>, f<4, 4> } \
  }
extern const WinogradKernels winograd_kernels;
const WinogradKernels winograd_kernels = {
    FASTDL_TILES(input),  FASTDL_TILES(gradient), FASTDL_TILES(filter), pack_taps,    FASTDL_TILES(output),
    FASTDL_TILES(output), FASTDL_TILES(weight),   pixel_sizes,          channel_sizes};
#undef FASTDL_TILES

}  // namespace fastdl::cpu::FASTDL_ISA
