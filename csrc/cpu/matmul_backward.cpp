// Gradients of a linear layer: two products and a sum over rows.
#include "common/matmul.h"
#include "cpu/convert.h"
#include "cpu/gemm.h"
#include "cpu/kernels.h"
#include "cpu/matmul.h"
#include "cpu/parallel.h"
#include "cpu/tensor.h"
#include "cpu/widen.h"
#include "fastdl/matmul.h"

namespace fastdl::cpu {
namespace {

// A matrix of rows: the view itself where its strides allow, else a contiguous copy.
class Rows {
 public:
  Rows(Context* context, const View& v)
      : copy_(context, mergeable(v) ? empty() : v), view_(mergeable(v) ? v : *copy_) {
    as_rows(view_, &rows, &row_stride);
    col_stride = view_.stride(-1);
  }
  template <class T>
  T* data() const {
    return view_.as<T>();
  }
  int64_t rows, row_stride, col_stride;

 private:
  static bool mergeable(const View& v) {
    int64_t rows, stride;
    return as_rows(v, &rows, &stride);
  }
  static View empty() {
    View v;
    v.ndim = 1;
    v.shape[0] = 0;
    v.strides[0] = 1;
    return v;
  }
  Contiguous copy_;
  View view_;
};

constexpr int64_t kGrain = 8192;  // 64 KiB of the stack where bfloat16 is widened

// z = grad * f'(saved), both as contiguous arrays.
template <class T>
void activation_gradient(Context* context, const fastdl_activation& f, const View& grad, const View& saved,
                         T* z) {
  const Contiguous g(context, grad), s(context, saved);
  const auto& table = table_for<compute_t<T>>(*kernels().activation);
  const bool from_output = fastdl_activation_from_output(&f) != 0;
  const T* const gp = g->as<T>();
  const T* const sp = s->as<T>();
  parallel_ranges(context, grad.size(), kGrain, 1.0, [&](int64_t begin, int64_t end) {
    if constexpr (std::is_same_v<T, bfloat16>) {
      const ConvertTable<bfloat16>& rows = kernels().convert->bf16;
      float dy[kGrain], kept[kGrain];
      rows.widen(end - begin, gp + begin, 1, dy, 1);
      rows.widen(end - begin, sp + begin, 1, kept, 1);
      table.backward(f, from_output, end - begin, dy, kept, dy);
      rows.narrow(end - begin, dy, 1, z + begin, 1);
    } else {
      table.backward(f, from_output, end - begin, gp + begin, sp + begin, z + begin);
    }
  });
}

// out[j] = sum_i z[i, j]: the product with a row of ones, which is one number of stride zero.
template <class T>
void sum_rows(Context* context, int64_t m, int64_t n, const T* z, int64_t z_row, int64_t z_col,
              const View& out) {
  T one;
  if constexpr (std::is_same_v<T, bfloat16>) one.bits = 0x3f80;
  else one = 1;
  Gemm<T> g{1, n, m, &one, 0, 0, z, z_row, z_col, nullptr, n};
  set_result(g, out);
  gemm(context, g);
}

// out[rows x cols] = a b with an out of any strides.
template <class T>
void product(Context* context, Gemm<T> g, const View& out) {
  ContiguousOut c(context, out);
  set_result(g, *c);
  g.ldc = g.n;
  gemm(context, g);
  c.write_back();
}

template <class T>
void linear_backward(Context* context, const check::LinearBackward& l) {
  const View& grad = l.grad;
  const int64_t n = grad.extent(-1);
  const bool activated = l.activation.kind != FASTDL_ACT_NONE;
  Workspace space(context, activated ? static_cast<size_t>(grad.nbytes()) : 0);
  View z_view = grad;
  if (activated) {
    activation_gradient<T>(context, l.activation, grad, l.saved, space.as<T>());
    z_view.data = space.as<void>();
    set_c_strides(z_view);
  }
  const Rows z(context, z_view);
  const T* const zp = z.data<T>();
  const int64_t m = z.rows;
  if (l.want_x) {
    const int64_t k = l.weight.shape[1];
    product(context,
            Gemm<T>{m, k, n, zp, z.row_stride, z.col_stride, l.weight.as<T>(), l.weight.strides[0],
                    l.weight.strides[1], nullptr, 0},
            l.grad_x);
  }
  if (l.want_weight) {
    const int64_t k = l.grad_weight.shape[1];
    const Rows xr(context, l.x);
    product(context,
            Gemm<T>{n, k, m, zp, z.col_stride, z.row_stride, xr.data<T>(), xr.row_stride, xr.col_stride,
                    nullptr, 0},
            l.grad_weight);
  }
  if (l.want_bias && n > 0) {
    ContiguousOut db(context, l.grad_bias);
    sum_rows(context, m, n, zp, z.row_stride, z.col_stride, *db);
    db.write_back();
  }
}

}  // namespace
}  // namespace fastdl::cpu

using namespace fastdl::cpu;

extern "C" fastdl_status fastdl_linear_backward(fastdl_context* context, const fastdl_tensor* grad_,
                                                const fastdl_tensor* saved_, const fastdl_tensor* x_,
                                                const fastdl_tensor* weight_, const fastdl_tensor* grad_x_,
                                                const fastdl_tensor* grad_weight_,
                                                const fastdl_tensor* grad_bias_,
                                                const fastdl_matmul_options* options) {
  if (is_narrow(grad_) && !has_products(grad_)) {
    return in_float32("linear_backward", fastdl_linear_backward, context, reads(grad_, "grad"),
                      reads(saved_, "saved"), reads(x_, "x"), reads(weight_, "weight"),
                      writes(grad_x_, "grad_x"), or_float32(writes(grad_weight_, "grad_weight")),
                      or_float32(writes(grad_bias_, "grad_bias")), options);
  }
  return guarded([&] {
    const check::LinearBackward l =
        check::linear_backward(grad_, saved_, x_, weight_, grad_x_, grad_weight_, grad_bias_, options);
    dispatch_products(l.grad.dtype, [&](auto zero) { linear_backward<decltype(zero)>(context, l); });
  });
}
