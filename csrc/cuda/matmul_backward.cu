// Gradients of a linear layer: two products and a sum over rows.
#include <optional>

#include "cuda/activation.h"
#include "cuda/device.cuh"
#include "cuda/launch.h"
#include "cuda/matmul.h"
#include "cuda/shared.cuh"
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

constexpr int kSumThreads = 256;
constexpr int64_t kSumRows = 512;  // of a block: a second kernel adds up the blocks' sums in their order

// partial[block, j] = sum of z[i, j] over the block's rows; neighbouring threads have neighbouring columns.
template <class S>
__global__ void __launch_bounds__(kSumThreads)
    sum_rows_partly(int64_t rows, int64_t columns, const S* z, int64_t row, int64_t column,
                    compute_t<S>* partial) {
  const int64_t j = static_cast<int64_t>(blockIdx.x) * kSumThreads + threadIdx.x;
  if (j >= columns) return;
  const int64_t begin = blockIdx.y * kSumRows, end = begin + kSumRows < rows ? begin + kSumRows : rows;
  compute_t<S> sum = 0;
  for (int64_t i = begin; i < end; ++i) sum += widen(z[i * row + j * column]);
  partial[blockIdx.y * columns + j] = sum;
}

template <class T, class Out>
__global__ void __launch_bounds__(kSumThreads)
    add_up_rows(int64_t parts, int64_t columns, const T* partial, Out* out, int64_t stride) {
  const int64_t j = static_cast<int64_t>(blockIdx.x) * kSumThreads + threadIdx.x;
  if (j >= columns) return;
  T sum = 0;
  for (int64_t i = 0; i < parts; ++i) sum += partial[i * columns + j];
  out[j * stride] = narrow<Out>(sum);
}

}  // namespace

template <class S>
void sum_rows(Context* context, int64_t rows, int64_t columns, const S* z, int64_t row, int64_t column,
              const View& out) {
  using T = compute_t<S>;
  const int64_t parts = rows == 0 ? 1 : (rows + kSumRows - 1) / kSumRows;
  const Workspace partial(context, static_cast<size_t>(parts * columns) * sizeof(T));
  const auto across = static_cast<unsigned>((columns + kSumThreads - 1) / kSumThreads);
  launch(context, FASTDL_KERNEL(sum_rows_partly<S>),
         {dim3(across, static_cast<unsigned>(parts)), kSumThreads}, rows, columns, z, row, column,
         partial.as<T>());
  const auto add_up = [&](auto zero) {
    using Out = decltype(zero);
    launch(context, FASTDL_KERNEL(add_up_rows<T, Out>), {across, kSumThreads}, parts, columns,
           partial.as<const T>(), out.as<Out>(), out.strides[0]);
  };
  if constexpr (std::is_same_v<T, S>) add_up(S{});
  else if (out.dtype == DType::kFloat32) add_up(float{});
  else add_up(S{});
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
    if (l.want_bias && n > 0) sum_rows<S>(context, m, n, zp, z.row_stride, z.column_stride, l.grad_bias);
  });
}

}  // namespace fastdl::cuda
