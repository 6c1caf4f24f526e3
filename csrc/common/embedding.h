// Checked arguments of the embedding family, the same on every backend. What indices and offsets hold is each
// backend's to check.
#pragma once

#include "common/view.h"
#include "fastdl/embedding.h"

namespace fastdl::check {

struct Embedding {
  View weight, indices, out;
};
Embedding embedding_forward(const fastdl_tensor* weight, const fastdl_tensor* indices,
                            const fastdl_tensor* out);

struct EmbeddingBackward {
  View grad_out, indices, grad_weight;
};
EmbeddingBackward embedding_backward(const fastdl_tensor* grad_out, const fastdl_tensor* indices,
                                     const fastdl_tensor* grad_weight);

struct EmbeddingRenorm {
  View weight, indices;
};
EmbeddingRenorm embedding_renorm(const fastdl_tensor* weight, const fastdl_tensor* indices, double max_norm,
                                 double norm_type);

// Bags of either kind: (B, L) indices, or flat ones cut by offsets. The views of absent tensors are empty.
struct Bags {
  fastdl_embedding_bag_options options;
  View weight, indices, offsets, scales;
  int64_t count;  // of bags
};
struct EmbeddingBag {
  Bags bags;
  View out, max_indices;
};
EmbeddingBag embedding_bag_forward(const fastdl_tensor* weight, const fastdl_tensor* indices,
                                   const fastdl_tensor* offsets, const fastdl_tensor* per_sample_weights,
                                   const fastdl_tensor* out, const fastdl_tensor* max_indices,
                                   const fastdl_embedding_bag_options* options);

struct EmbeddingBagBackward {
  Bags bags;
  bool max;  // max_indices are needed
  View grad_out, max_indices, grad_weight, grad_scales;
};
EmbeddingBagBackward embedding_bag_backward(const fastdl_tensor* grad_out, const fastdl_tensor* weight,
                                            const fastdl_tensor* indices, const fastdl_tensor* offsets,
                                            const fastdl_tensor* per_sample_weights,
                                            const fastdl_tensor* max_indices,
                                            const fastdl_tensor* grad_weight,
                                            const fastdl_tensor* grad_per_sample_weights,
                                            const fastdl_embedding_bag_options* options);

}  // namespace fastdl::check
