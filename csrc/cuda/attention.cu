// Attention's entry points.
#include "cuda/attention.h"

#include <cstdlib>
#include <cstring>
#include <limits>

#include "cuda/attention_config.h"
#include "cuda/attention_sm90.h"
#include "cuda/sm90_wanted.h"
#include "cuda/tensor.h"
#include "cuda/tensor_map.h"
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

// Whether the copy engine can bring x: coordinates are 32 bits wide (kernels look up to 32 tiles beyond the
// end), and it goes neither backwards nor over the same row again and again. `repeats`: one row may stand for
// all.
bool can_map(const View& x, bool repeats = false) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max() - 4096, kLongest = int64_t{1} << 38;
  bool can = x.shape[2] > 0 && x.shape[3] > 0 && (x.shape[2] == 1 || x.strides[2] > 0 || repeats);
  for (int dim = 0; dim < 3; ++dim) {
    can = can && x.shape[dim] < kMost &&
          (x.shape[dim] == 1 || (x.strides[dim] >= 0 && x.strides[dim] < kLongest));
  }
  return can;
}

// What all of Hopper's kernels take, whether `suited` or wanted anyway.
bool by_sm90(const AttentionProblem& p, bool suited) {
  const sm90::Wanted kernel = sm90::wanted("FASTDL_CUDA_ATTENTION");
  return kernel != sm90::Wanted::portable && is_narrow(p.q.dtype) && sm90_features(p.e, p.ev) > 0 &&
         (kernel == sm90::Wanted::always || suited) && can_map(p.k) && can_map(p.v) && sm90::is_hopper();
}
// Of all but few queries.
bool tiles_by_sm90(const AttentionProblem& p) {
  return can_map(p.q) && by_sm90(p, sm90_suits(p.queries, p.keys));
}
bool has_added_mask(const AttentionProblem& p) { return p.mask.data && p.mask.dtype != DType::kBool; }

}  // namespace

bool forward_by_sm90(const AttentionProblem& p) {
  return tiles_by_sm90(p) && (!has_added_mask(p) || can_map(p.mask, true));
}
bool decode_by_sm90(const AttentionProblem& p) {
  if (p.dropout > 0) return false;
  if (p.queries >= kSm90DecodeRows) {
    return sm90_forward_idles(p.queries, p.batch * p.heads, p.keys, p.causal, multiprocessors()) &&
           by_sm90(p, true);
  }
  const int64_t rows = p.group_size() * p.queries;
  // Keys that would have to be copied first are read in place by multiply-adds, if they take so many rows.
  const bool in_place = (in_packs(p.k) && in_packs(p.v)) || rows > kMostDecodeRows;
  return by_sm90(p, in_place && sm90_decode_suits(p.queries, rows, p.key_end(p.queries)));
}
bool backward_by_sm90(const AttentionProblem& p, const AttentionGradients& g) {
  constexpr int64_t kMostQueries = int64_t{1} << 30;  // each has two terms, and coordinates 32 bits
  return tiles_by_sm90(p) && !has_added_mask(p) && p.dropout == 0 &&
         (!p.mask.data || sm90_features(p.e, p.ev) <= 128) && p.queries < kMostQueries && can_map(g.dout);
}

bool backward_in_one_pass(const AttentionProblem& p) {
  const int features = sm90_features(p.e, p.ev);
  const char* const wanted = std::getenv("FASTDL_CUDA_ATTENTION_BACKWARD");
  if (features > 128 || (wanted && std::strcmp(wanted, "two-passes") == 0)) return false;
  if (wanted && std::strcmp(wanted, "one-pass") == 0) return true;
  return sm90_one_pass_suits(p.batch, p.heads, p.groups, p.queries, p.keys, p.causal, features,
                             multiprocessors());
}

bool has_shared_memory(size_t bytes) {
  int device = 0, most = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  check_cuda(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
             "cudaDeviceGetAttribute");
  return bytes <= static_cast<size_t>(most);
}

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
