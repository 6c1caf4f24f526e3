// Checked arguments of the attention family, the same on every backend.
#pragma once

#include <algorithm>

#include "common/dropout_mask.h"
#include "common/view.h"
#include "fastdl/attention.h"

namespace fastdl {

struct AttentionProblem {
  int64_t batch, heads, groups, queries, keys, e, ev;
  double scale;
  bool causal;
  double dropout;
  DropoutMask mask_of_weights;
  View q, k, v, out, mask;  // mask.data NULL: none

  int64_t group_size() const { return heads / groups; }
  // Keys that queries up to `end` (exclusive) see: causal ones beyond the diagonal are skipped.
  int64_t key_end(int64_t end) const { return causal ? std::min(keys, end) : keys; }
};

struct AttentionGradients {
  View dout, dq, dk, dv, dmask;  // dmask.data NULL: not wanted
};

namespace check {

struct AttentionForward {
  AttentionProblem problem;
  View lse;  // data NULL: not wanted
};
AttentionForward attention_forward(const fastdl_tensor* q, const fastdl_tensor* k, const fastdl_tensor* v,
                                   const fastdl_tensor* mask, const fastdl_tensor* out,
                                   const fastdl_tensor* lse, const fastdl_attention_options* options);

struct AttentionBackward {
  AttentionProblem problem;
  AttentionGradients gradients;
  View lse;
};
AttentionBackward attention_backward(const fastdl_tensor* grad_out, const fastdl_tensor* q,
                                     const fastdl_tensor* k, const fastdl_tensor* v,
                                     const fastdl_tensor* mask, const fastdl_tensor* out,
                                     const fastdl_tensor* lse, const fastdl_tensor* grad_q,
                                     const fastdl_tensor* grad_k, const fastdl_tensor* grad_v,
                                     const fastdl_tensor* grad_mask, const fastdl_attention_options* options);

}  // namespace check
}  // namespace fastdl
