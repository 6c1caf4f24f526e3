// Attention's entry points.
#include "cuda/attention.h"

#include "cuda/tensor.h"
#include "fastdl/cuda.h"

namespace fastdl::cuda {
namespace {

// No more blocks than a grid takes: each holds 64 rows and 64 features at least.
void check_size(const AttentionProblem& p, const char* op) {
  const auto tiles = [](int64_t n) { return static_cast<double>(n / 64 + 1); };
  const double blocks = std::max(tiles(p.queries), tiles(p.keys)) * (tiles(p.e) + tiles(p.ev)) *
                        static_cast<double>(p.heads) * static_cast<double>(p.batch);
  FASTDL_CHECK(blocks < 2147483648.0, FASTDL_ERROR_SHAPE, "%s: %g blocks are more than a grid holds", op,
               blocks);
}

}  // namespace
}  // namespace fastdl::cuda

using namespace fastdl;
using namespace fastdl::cuda;

extern "C" {

fastdl_status fastdl_cuda_attention_forward(fastdl_context* context, const fastdl_tensor* q,
                                            const fastdl_tensor* k, const fastdl_tensor* v,
                                            const fastdl_tensor* mask, const fastdl_tensor* out,
                                            const fastdl_tensor* lse_,
                                            const fastdl_attention_options* options) {
  return guarded([&] {
    const check::AttentionForward a = check::attention_forward(q, k, v, mask, out, lse_, options);
    const AttentionProblem& p = a.problem;
    check_size(p, "scaled_dot_product_attention");
    if (p.batch == 0 || p.heads == 0 || p.queries == 0) return;
    dispatch_storage(p.q.dtype, [&](auto zero) {
      using S = decltype(zero);
      attention_forward<S>(context, p, a.lse.as<compute_t<S>>());
    });
  });
}

fastdl_status fastdl_cuda_attention_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                             const fastdl_tensor* q, const fastdl_tensor* k,
                                             const fastdl_tensor* v, const fastdl_tensor* mask,
                                             const fastdl_tensor* out, const fastdl_tensor* lse_,
                                             const fastdl_tensor* grad_q, const fastdl_tensor* grad_k,
                                             const fastdl_tensor* grad_v, const fastdl_tensor* grad_mask,
                                             const fastdl_attention_options* options) {
  return guarded([&] {
    const check::AttentionBackward a = check::attention_backward(grad_out, q, k, v, mask, out, lse_, grad_q,
                                                                 grad_k, grad_v, grad_mask, options);
    const AttentionProblem& p = a.problem;
    check_size(p, "scaled_dot_product_attention_backward");
    if (p.batch == 0 || p.heads == 0) return;
    dispatch_storage(p.q.dtype, [&](auto zero) {
      using S = decltype(zero);
      attention_backward<S>(context, p, a.gradients, a.lse.as<compute_t<S>>());
    });
  });
}
}
