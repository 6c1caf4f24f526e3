// Gradients of a linear layer: two products and a sum over rows.
#include <optional>

#include "cuda/activation.h"
#include "cuda/matmul.h"
#include "cuda/row_sums.cuh"
#include "cuda/tensor.h"

namespace fastdl::cuda {
namespace {

// A matrix of rows: the view itself where its strides allow, else a contiguous copy.
struct Rows {
  Rows(Context* context, const View& v) : view(v) {
    if (!as_rows(view, &rows, &row_stride)) {
      copy.emplace(context, v);
      view = **copy;
      as_rows(view, &rows, &row_stride);
    }
    column_stride = view.stride(-1);
  }
  std::optional<Contiguous> copy;
  View view;
  int64_t rows, row_stride, column_stride;
};

}  // namespace

template <class S>
void sum_rows(Context* context, int64_t rows, int64_t columns, const S* z, int64_t row, int64_t column,
              const View& out) {
  sum_rows<S>(context, RowsToSum<S>{z, rows, columns, row, column, columns > 0 ? columns : 1, 0}, out);
}

#define FASTDL_INSTANTIATE(S) \
  template void sum_rows<S>(Context*, int64_t, int64_t, const S*, int64_t, int64_t, const View&);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
FASTDL_INSTANTIATE(bfloat16)
FASTDL_INSTANTIATE(float16)
#undef FASTDL_INSTANTIATE

void linear_backward(Context* context, const check::LinearBackward& l) {
  const int64_t n = l.grad.extent(-1);
  const bool activated = l.activation.kind != FASTDL_ACT_NONE;
  const Workspace space(context, activated ? static_cast<size_t>(l.grad.nbytes()) : 0);
  View z_view = l.grad;
  if (activated) {
    z_view.data = space.as<void>();
    set_c_strides(z_view);
    activation_backward(context, l.activation, l.grad, l.saved, z_view);
  }
  dispatch_storage(l.grad.dtype, [&](auto zero) {
    using S = decltype(zero);
    const Rows z(context, z_view);
    const S* const zp = z.view.template as<S>();
    const int64_t m = z.rows;
    if (l.want_x) {
      const int64_t k = l.weight.shape[1];
      // grad_x's leading dims as rows; where its strides forbid that, by way of a contiguous one.
      View out = l.grad_x;
      int64_t rows, stride;
      std::optional<ContiguousOut> stand_in;
      if (!as_rows(out, &rows, &stride)) {
        stand_in.emplace(context, l.grad_x);
        out = **stand_in;
        as_rows(out, &rows, &stride);
      }
      View flat = out;
      flat.ndim = 2;
      flat.shape[0] = m, flat.shape[1] = k;
      flat.strides[0] = stride, flat.strides[1] = out.stride(-1);
      gemm(context, product<S>(m, k, n, zp, z.row_stride, z.column_stride, l.weight.as<S>(),
                               l.weight.strides[0], l.weight.strides[1], flat));
      if (stand_in) stand_in->write_back();
    }
    if (l.want_weight) {
      const Rows x(context, l.x);
      gemm(context, product<S>(n, l.grad_weight.shape[1], m, zp, z.column_stride, z.row_stride,
                               x.view.template as<S>(), x.row_stride, x.column_stride, l.grad_weight));
    }
    if (l.want_bias && n > 0)
      sum_rows<S>(context, {zp, m, n, z.row_stride, z.column_stride, n, 0}, l.grad_bias);
  });
}

}  // namespace fastdl::cuda
