// One tap, no padding: out[position, o] = sum over c of in[position, c] * w[o, c] is one matrix product. With
// few positions most of the time goes into the weights, which the gather would pack into memory first; gemm()
// packs them strip by strip into the cache where it uses them, and reads them in place for a few positions.
#include "cpu/conv_pointwise.h"

#include <algorithm>

#include "cpu/gemm_bf16.h"
#include "cpu/parallel.h"

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

}  // namespace

template <class T>
bool pointwise_gather(Context* context, const Geometry& g, const Source<T>& in, const T* weight,
                      bool data_gradient, const Image<T>& out, const Epilogue<T>& end) {
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
