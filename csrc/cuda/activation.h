// Activations for other families.
#pragma once

#include "common/view.h"
#include "cuda/context.h"
#include "fastdl/activation.h"

namespace fastdl::cuda {

// grad_x = grad f'(saved), saved being what the derivative of this f is computed from (see
// common/activation.h).
void activation_backward(Context* context, const fastdl_activation& f, const View& grad, const View& saved,
                         const View& grad_x);

}  // namespace fastdl::cuda
