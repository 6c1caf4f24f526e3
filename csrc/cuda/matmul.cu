#include "common/matmul.h"

#include <optional>

#include "cuda/activation.h"
#include "cuda/gemm.h"
#include "cuda/matmul.h"
#include "cuda/tensor.h"
#include "fastdl/cuda.h"

namespace fastdl::cuda {
namespace {

// All operands at least 2-d.
void matmul(Context* context, const char* op, const View& a, const View& b, const View* bias,
            const View* residual, const View& out, const fastdl_matmul_options& o) {
  const MatmulProblem p = matmul_problem(a, b, out, residual, op);
  FASTDL_CHECK(!bias || (bias->ndim <= 1 && bias->size() == p.n), FASTDL_ERROR_SHAPE,
               "%s: expected bias of shape (%lld,), got %s", op, static_cast<long long>(p.n),
               bias ? shape_string(*bias).c_str() : "");
  if (residual) check_same_shape(out, "out", *residual, "residual", op);
  dispatch_storage(a.dtype, [&](auto zero) {
    using S = decltype(zero);
    Gemm<S> g = product<S>(p.m, p.n, p.k, a.as<S>(), a.stride(-2), a.stride(-1), b.as<S>(), b.stride(-2),
                           b.stride(-1), out);
    if (bias) g.bias = bias->as<S>(), g.bias_stride = bias->ndim == 0 ? 0 : bias->stride(-1);
    if (residual) {
      g.residual = residual->as<S>();
      g.residual_row = residual->stride(-2), g.residual_column = residual->stride(-1);
    }
    g.alpha = o.alpha, g.beta = o.beta;
    g.activation = o.activation;
    g.batch.ndim = p.batch_ndim;
    for (int i = 0; i < p.batch_ndim; ++i) {  // the problem has them outermost first
      const int dim = p.batch_ndim - 1 - i;
      g.batch.shape[i] = p.batch[dim];
      g.batch.a[i] = p.strides[MatmulProblem::kA][dim], g.batch.b[i] = p.strides[MatmulProblem::kB][dim];
      g.batch.c[i] = p.strides[MatmulProblem::kOut][dim];
      g.batch.residual[i] = p.strides[MatmulProblem::kResidual][dim];
    }
    gemm(context, g);
  });
}

// b in packed form is b in C order: what its rows are is told by a and out.
void check_packed(const View& packed, int64_t elements, const char* op) {
  FASTDL_CHECK(packed.ndim == 1 && packed.contiguous() && packed.size() == elements, FASTDL_ERROR_SHAPE,
               "%s: expected packed b to be contiguous with %lld elements, got shape %s", op,
               static_cast<long long>(elements), shape_string(packed).c_str());
}

}  // namespace
}  // namespace fastdl::cuda

using namespace fastdl;
using namespace fastdl::cuda;

extern "C" {

fastdl_status fastdl_cuda_matmul(fastdl_context* context, const fastdl_tensor* a_, const fastdl_tensor* b_,
                                 const fastdl_tensor* bias_, const fastdl_tensor* residual_,
                                 const fastdl_tensor* out_, const fastdl_matmul_options* options) {
  return guarded([&] {
    const char* op = "matmul";
    View a = any_float_view(a_, op, "a"), b = view_like(b_, a.dtype, op, "b"),
         out = result_view(out_, a.dtype, op, "out");
    View bias, residual;
    if (bias_) bias = view_like(bias_, a.dtype, op, "bias");
    if (residual_) residual = view_like(residual_, a.dtype, op, "residual");
    FASTDL_CHECK(a.ndim >= 1 && b.ndim >= 1, FASTDL_ERROR_SHAPE,
                 "%s: expected at least 1-d operands, got %s and %s", op, shape_string(a).c_str(),
                 shape_string(b).c_str());
    add_missing_dims(a, b, out, residual_ ? &residual : nullptr);
    matmul(context, op, a, b, bias_ ? &bias : nullptr, residual_ ? &residual : nullptr, out,
           matmul_options(options, op));
  });
}

fastdl_status fastdl_cuda_matmul_packed_b_size(fastdl_context*, const fastdl_tensor* b_, int64_t* elements) {
  return guarded([&] {
    const char* op = "matmul_packed_b_size";
    const View b = any_float_view(b_, op, "b");
    check_ndim(b, 2, op, "b");
    FASTDL_CHECK(elements != nullptr, FASTDL_ERROR_VALUE, "%s: elements is NULL", op);
    *elements = b.size();
  });
}

fastdl_status fastdl_cuda_matmul_pack_b(fastdl_context* context, const fastdl_tensor* b_,
                                        const fastdl_tensor* packed_) {
  return guarded([&] {
    const char* op = "matmul_pack_b";
    const View b = any_float_view(b_, op, "b"), packed = out_view(packed_, b.dtype, op, "packed");
    check_ndim(b, 2, op, "b");
    check_packed(packed, b.size(), op);
    View to = b;
    to.data = packed.data;
    set_c_strides(to);
    copy(context, b, to);
  });
}

fastdl_status fastdl_cuda_matmul_packed(fastdl_context* context, const fastdl_tensor* a_,
                                        const fastdl_tensor* packed_, const fastdl_tensor* bias_,
                                        const fastdl_tensor* residual_, const fastdl_tensor* out_,
                                        const fastdl_matmul_options* options) {
  return guarded([&] {
    const char* op = "matmul_packed";
    View a = any_float_view(a_, op, "a"), out = result_view(out_, a.dtype, op, "out");
    const View packed = view_like(packed_, a.dtype, op, "packed b");
    View bias, residual, b = packed;
    if (bias_) bias = view_like(bias_, a.dtype, op, "bias");
    if (residual_) residual = view_like(residual_, a.dtype, op, "residual");
    FASTDL_CHECK(a.ndim >= 1 && out.ndim >= 1, FASTDL_ERROR_SHAPE, "%s: expected a to be at least 1-d", op);
    b.ndim = 2;
    b.shape[0] = a.extent(-1);
    b.shape[1] = out.extent(-1);
    set_c_strides(b);
    check_packed(packed, b.size(), op);
    add_missing_dims(a, b, out, residual_ ? &residual : nullptr);
    matmul(context, op, a, b, bias_ ? &bias : nullptr, residual_ ? &residual : nullptr, out,
           matmul_options(options, op));
  });
}

fastdl_status fastdl_cuda_linear_backward(fastdl_context* context, const fastdl_tensor* grad,
                                          const fastdl_tensor* saved, const fastdl_tensor* x,
                                          const fastdl_tensor* weight, const fastdl_tensor* grad_x,
                                          const fastdl_tensor* grad_weight, const fastdl_tensor* grad_bias,
                                          const fastdl_matmul_options* options) {
  return guarded([&] {
    linear_backward(context,
                    check::linear_backward(grad, saved, x, weight, grad_x, grad_weight, grad_bias, options));
  });
}
}
