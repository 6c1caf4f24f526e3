#include "common/matmul.h"

#include "cuda/activation.h"
#include "cuda/gemm.h"
#include "cuda/matmul.h"
#include "cuda/tensor.h"
#include "fastdl/cuda.h"

namespace fastdl::cuda {
namespace {

void matmul(Context* context, const check::Matmul& m) {
  const MatmulProblem& p = m.problem;
  const View &a = m.a, &b = m.b;
  const auto &bias = m.bias, &residual = m.residual;
  dispatch_storage(a.dtype, [&](auto zero) {
    using S = decltype(zero);
    Gemm<S> g = product<S>(p.m, p.n, p.k, a.as<S>(), a.stride(-2), a.stride(-1), b.as<S>(), b.stride(-2),
                           b.stride(-1), m.out);
    if (bias) g.bias = bias->as<S>(), g.bias_stride = bias->ndim == 0 ? 0 : bias->stride(-1);
    if (residual) {
      g.residual = residual->as<S>();
      g.residual_row = residual->stride(-2), g.residual_column = residual->stride(-1);
    }
    g.alpha = m.options.alpha, g.beta = m.options.beta;
    g.activation = m.options.activation;
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

fastdl_status fastdl_cuda_matmul(fastdl_context* context, const fastdl_tensor* a, const fastdl_tensor* b,
                                 const fastdl_tensor* bias, const fastdl_tensor* residual,
                                 const fastdl_tensor* out, const fastdl_matmul_options* options) {
  return guarded([&] { matmul(context, check::matmul(a, b, bias, residual, out, options)); });
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

fastdl_status fastdl_cuda_matmul_packed(fastdl_context* context, const fastdl_tensor* a,
                                        const fastdl_tensor* packed, const fastdl_tensor* bias,
                                        const fastdl_tensor* residual, const fastdl_tensor* out,
                                        const fastdl_matmul_options* options) {
  return guarded([&] {
    DType stored = any_float_view(a, "matmul_packed", "a").dtype;
    check::Matmul m = check::matmul_packed(a, packed, stored, bias, residual, out);
    FASTDL_CHECK(m.out.ndim >= 1, FASTDL_ERROR_SHAPE, "%s: expected out to be at least 1-d", m.op);
    const View elements = m.b;
    m.b.ndim = 2;
    m.b.shape[0] = m.a.extent(-1);
    m.b.shape[1] = m.out.extent(-1);
    set_c_strides(m.b);
    check_packed(elements, m.b.size(), m.op);
    m.complete(options);
    matmul(context, m);
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
