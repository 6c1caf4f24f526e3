// Gradients of a linear layer: two products and a sum over rows.
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

// The leading dims of x and grad as one row dim. True if the strides allow it.
bool as_rows(const View& v, int64_t* rows, int64_t* row_stride) {
  *rows = 1;
  *row_stride = v.extent(-1);
  if (v.size() == 0) {  // of an empty array any strides will do
    for (int i = 0; i < v.ndim - 1; ++i) *rows *= v.shape[i];
    return true;
  }
  bool first = true;
  for (int i = v.ndim - 2; i >= 0; --i) {
    if (v.shape[i] == 1) continue;
    if (first) *row_stride = v.strides[i];
    else if (v.strides[i] != *row_stride * *rows) return false;
    first = false;
    *rows *= v.shape[i];
  }
  return true;
}

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
void linear_backward(Context* context, const View& grad, const View* saved, const fastdl_activation& f,
                     const View* x, const View* weight, const View* grad_x, const View* grad_weight,
                     const View* grad_bias) {
  const int64_t n = grad.extent(-1);
  const bool activated = f.kind != FASTDL_ACT_NONE;
  Workspace space(context, activated ? static_cast<size_t>(grad.nbytes()) : 0);
  View z_view = grad;
  if (activated) {
    activation_gradient<T>(context, f, grad, *saved, space.as<T>());
    z_view.data = space.as<void>();
    int64_t stride = 1;
    for (int i = z_view.ndim - 1; i >= 0; --i) {
      z_view.strides[i] = stride;
      stride *= z_view.shape[i];
    }
  }
  const Rows z(context, z_view);
  const T* const zp = z.data<T>();
  const int64_t m = z.rows;
  if (grad_x) {
    const int64_t k = weight->shape[1];
    product(context,
            Gemm<T>{m, k, n, zp, z.row_stride, z.col_stride, weight->as<T>(), weight->strides[0],
                    weight->strides[1], nullptr, 0},
            *grad_x);
  }
  if (grad_weight) {
    const int64_t k = grad_weight->shape[1];
    const Rows xr(context, *x);
    product(context,
            Gemm<T>{n, k, m, zp, z.col_stride, z.row_stride, xr.data<T>(), xr.row_stride, xr.col_stride,
                    nullptr, 0},
            *grad_weight);
  }
  if (grad_bias && n > 0) {
    ContiguousOut db(context, *grad_bias);
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
    const char* op = "linear_backward";
    const View grad = any_float_view(grad_, op, "grad");
    FASTDL_CHECK(grad.ndim >= 1, FASTDL_ERROR_SHAPE, "%s: expected grad to be at least 1-d", op);
    fastdl_activation f{FASTDL_ACT_NONE, 0, 0};
    if (options) {
      const auto o = read_options(options, fastdl_matmul_options FASTDL_MATMUL_OPTIONS_INIT, op);
      FASTDL_CHECK(o.alpha == 1.0 && o.beta == 0.0, FASTDL_ERROR_VALUE, "%s: expected alpha 1 and beta 0",
                   op);
      f = o.activation;
      FASTDL_CHECK(f.kind >= FASTDL_ACT_NONE && f.kind <= FASTDL_ACT_THRESHOLD, FASTDL_ERROR_VALUE,
                   "%s: unknown activation kind %d", op, f.kind);
    }
    View saved, x, weight, grad_x, grad_weight, grad_bias;
    if (f.kind != FASTDL_ACT_NONE) {
      saved = view_like(saved_, grad.dtype, op, "saved");
      check_same_shape(grad, "grad", saved, "saved", op);
    }
    const int64_t n = grad.extent(-1);
    int64_t k = -1;
    const auto fits = [&](const View& v, const char* name) {  // x or grad_x: grad's leading dims, then k
      bool ok = v.ndim == grad.ndim && (k < 0 || v.extent(-1) == k);
      for (int i = 0; ok && i + 1 < v.ndim; ++i) ok = v.shape[i] == grad.shape[i];
      FASTDL_CHECK(ok, FASTDL_ERROR_SHAPE, "%s: %s has shape %s, which does not fit grad %s", op, name,
                   shape_string(v).c_str(), shape_string(grad).c_str());
      k = v.extent(-1);
    };
    const auto fits_weight = [&](const View& v, const char* name) {
      FASTDL_CHECK(v.ndim == 2 && v.shape[0] == n && (k < 0 || v.shape[1] == k), FASTDL_ERROR_SHAPE,
                   "%s: %s has shape %s, which does not fit grad %s", op, name, shape_string(v).c_str(),
                   shape_string(grad).c_str());
      k = v.shape[1];
    };
    if (grad_x_) {
      weight = view_like(weight_, grad.dtype, op, "weight");
      fits_weight(weight, "weight");
      grad_x = out_view(grad_x_, grad.dtype, op, "grad_x");
      fits(grad_x, "grad_x");
    }
    if (grad_weight_) {
      x = view_like(x_, grad.dtype, op, "x");
      fits(x, "x");
      grad_weight = result_view(grad_weight_, grad.dtype, op, "grad_weight");
      fits_weight(grad_weight, "grad_weight");
    }
    if (grad_bias_) {
      grad_bias = result_view(grad_bias_, grad.dtype, op, "grad_bias");
      FASTDL_CHECK(grad_bias.ndim == 1 && grad_bias.shape[0] == n, FASTDL_ERROR_SHAPE,
                   "%s: grad_bias has shape %s, expected (%lld,)", op, shape_string(grad_bias).c_str(),
                   static_cast<long long>(n));
    }
    dispatch_products(grad.dtype, [&](auto zero) {
      linear_backward<decltype(zero)>(context, grad, &saved, f, &x, &weight, grad_x_ ? &grad_x : nullptr,
                                      grad_weight_ ? &grad_weight : nullptr,
                                      grad_bias_ ? &grad_bias : nullptr);
    });
  });
}
