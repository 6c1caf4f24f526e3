// Checked arguments of the loss family, the same on every backend. Labels' values are each backend's to
// check. Views of absent tensors have no data.
#pragma once

#include "common/view.h"
#include "fastdl/loss.h"

namespace fastdl::check {

// Rows of classes: views have the classes last. weight and loss are of the dtype computed with, or stored
// like x.
struct CrossEntropy {
  fastdl_cross_entropy_options options;
  View x, target, weight, loss, grad;
  bool soft;  // the target is probabilities
  int64_t rows, classes;
};
CrossEntropy cross_entropy(const fastdl_tensor* logits, const fastdl_tensor* target,
                           const fastdl_tensor* weight, const fastdl_tensor* loss, const fastdl_tensor* grad,
                           const fastdl_cross_entropy_options* options);
CrossEntropy nll_loss(const fastdl_tensor* x, const fastdl_tensor* target, const fastdl_tensor* weight,
                      const fastdl_tensor* loss, const fastdl_tensor* grad,
                      const fastdl_cross_entropy_options* options);

// All of one shape; beside 16-bit x the others may be float32.
struct Loss {
  fastdl_loss_options options;
  View x, target, weight, pos_weight, loss, grad;
  bool full() const { return options.reduction == FASTDL_REDUCTION_NONE; }
};
Loss loss(const fastdl_tensor* x, const fastdl_tensor* target, const fastdl_tensor* weight,
          const fastdl_tensor* pos_weight, const fastdl_tensor* loss, const fastdl_tensor* grad_x,
          const fastdl_loss_options* options);

}  // namespace fastdl::check
