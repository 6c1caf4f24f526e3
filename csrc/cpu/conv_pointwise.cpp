// One tap: out[position, o] = sum over c of in[position, c] * w[o, c] is one matrix product. With
// few positions most of the time goes into the weights, which the gather would pack into memory first; gemm()
// packs them strip by strip into the cache where it uses them, and reads them in place for a few positions.
#include "cpu/conv_pointwise.h"

#include <algorithm>

#include "cpu/gemm_bf16.h"
#include "cpu/parallel.h"
#include "cpu/round.h"

namespace fastdl::cpu::conv {
namespace {

// More positions are blocked as well by the gather, which writes large outputs past the cache.
constexpr int64_t kMostRows = 768;

bool one_tap(const Geometry& g, bool data_gradient) {
  for (int i = 0; i < 3; ++i) {
    // A strided data gradient leaves gaps; zeros after the last input are padding, too.
    if (g.kernel[i] != 1 || g.padding[i] != 0 || (data_gradient && g.stride[i] != 1)) return false;
    if ((g.out[i] - 1) * g.stride[i] >= g.in[i] || (data_gradient && g.out[i] != g.in[i])) return false;
  }
  return g.groups == 1;
}

// The inputs of all output positions, row after row.
template <class T>
void gather_rows(Context* context, const Image<const T>& x, const Lattice& l, int64_t rows, T* to) {
  constexpr int64_t kTogether = 8;
  parallel_ranges(context, rows, kTogether, static_cast<double>(x.c) * 0.1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t q = i % l.count[2], h = i / l.count[2] % l.count[1],
                    d = i / l.count[2] / l.count[1] % l.count[0], n = i / l.rows_per_image();
      const T* const from = x.at(n, d * l.in_step[0], h * l.in_step[1], q * l.in_step[2]);
      std::copy(from, from + x.c, to + i * x.c);
    }
  });
}

// Outputs that see nothing but padding are all alike: a row of zeros after the inputs of the others gives
// them, NaN where a weight is not finite.
template <class T>
bool padded_gather(Context* context, const Geometry& g, const Source<T>& in, const T* weight,
                   const Image<T>& out, const Epilogue<T>& end) {
  if (g.groups != 1 || !in.plain() || in.x.c == 0 || end.residual.data) return false;
  Image<const T> seen = in.x;
  Lattice l = forward_lattice(g);
  int64_t first[3];
  for (int i = 0; i < 3; ++i) {
    if (g.kernel[i] != 1) return false;
    first[i] = std::min(ceil_div(g.padding[i], g.stride[i]), g.out[i]);
    const int64_t last = std::min((g.in[i] - 1 + g.padding[i]) / g.stride[i] + 1, g.out[i]);
    l.count[i] = std::max<int64_t>(last - first[i], 0);
    seen.data += (first[i] * g.stride[i] - g.padding[i]) * seen.step[i];
  }
  const int64_t rows = out.n * l.rows_per_image(), lines = out.n * g.out[0] * g.out[1];
  if (rows >= kMostRows || 4 * rows > 3 * lines * g.out[2]) return false;  // the gather does as well

  const Workspace space(context, static_cast<size_t>((rows + 1) * (g.c + g.o)) * sizeof(T));
  T *const inputs = space.as<T>(), *const outputs = inputs + (rows + 1) * g.c;
  if (rows) gather_rows(context, seen, l, rows, inputs);
  std::fill(inputs + rows * g.c, inputs + (rows + 1) * g.c, T{});
  Gemm<T> product{rows + 1, g.o, g.c, inputs, g.c, 1, weight, 1, g.c, outputs, g.o};
  product.end.bias = end.bias;
  product.end.activation = end.activation;
  gemm(context, product);

  parallel_ranges(context, lines, 1, static_cast<double>(g.out[2] * g.o) * 0.1, [&](int64_t line, int64_t) {
    const int64_t h = line % g.out[1], d = line / g.out[1] % g.out[0], n = line / g.out[1] / g.out[0];
    const int64_t from_h = h - first[1], from_d = d - first[0];
    const bool sees = from_h >= 0 && from_h < l.count[1] && from_d >= 0 && from_d < l.count[0];
    const int64_t row = ((n * l.count[0] + from_d) * l.count[1] + from_h) * l.count[2] - first[2];
    for (int64_t q = 0; q < g.out[2]; ++q) {
      const bool some = sees && q >= first[2] && q - first[2] < l.count[2];
      const T* const from = outputs + (some ? row + q : rows) * g.o;
      std::copy(from, from + g.o, out.at(n, d, h, q));
    }
  });
  return true;
}

}  // namespace

template <class T>
bool pointwise_gather(Context* context, const Geometry& g, const Source<T>& in, const T* weight,
                      bool data_gradient, const Image<T>& out, const Epilogue<T>& end) {
  if (!data_gradient && padded_gather(context, g, in, weight, out, end)) return true;
  if (!one_tap(g, data_gradient) || in.masked() || in.x.c == 0) return false;
  const Lattice l = forward_lattice(g);
  const int64_t rows = out.n * l.rows_per_image();
  if (rows > kMostRows) return false;
  const bool strided = g.stride[0] != 1 || g.stride[1] != 1 || g.stride[2] != 1;
  const int64_t in_row = strided ? 0 : dense_row(in.x, l), out_row = dense_row(out, l);
  const int64_t residual_row = end.residual.data ? dense_row(end.residual, l) : 0;
  if (!out_row || (end.residual.data && !residual_row) || !(in_row || in.plain())) return false;

  const Workspace space(context, in_row ? 0 : static_cast<size_t>(rows * in.x.c) * sizeof(T));
  if (!in_row) gather_rows(context, in.x, l, rows, space.as<T>());
  Gemm<T> product{rows,
                  out.c,
                  in.x.c,
                  in_row ? in.x.data : space.as<T>(),
                  in_row ? in_row : in.x.c,
                  in_row && !in.plain() ? in.x.c_step : 1,
                  weight,
                  data_gradient ? out.c : 1,
                  data_gradient ? 1 : in.x.c,
                  out.data,
                  out_row};
  product.end.bias = end.bias;
  product.end.residual = end.residual.data;
  product.end.ld_residual = residual_row;
  product.end.activation = end.activation;
  gemm(context, product);
  return true;
}

#define FASTDL_INSTANTIATE(T)                                                                    \
  template bool pointwise_gather<T>(Context*, const Geometry&, const Source<T>&, const T*, bool, \
                                    const Image<T>&, const Epilogue<T>&);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
FASTDL_INSTANTIATE(bfloat16)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl::cpu::conv
