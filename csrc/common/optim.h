// Checked arguments of optimizer steps, the same on every backend.
#pragma once

#include <array>
#include <initializer_list>

#include "common/view.h"
#include "fastdl/optim.h"

namespace fastdl::check {

constexpr int kOptimLists = 6;  // params, grads, up to three states, and the params' roundings
constexpr int kGradients = 1;   // the list that is only read
constexpr int kRounded = 5;     // the list that is only written

// One entry of each list, `rounded` as the last; no data where a list (or an entry of `rounded`) is absent.
// Float32 and the 16-bit dtypes may stand beside each other.
using OptimViews = std::array<View, kOptimLists>;
void optim_count(const char* op, int32_t count, fastdl_tensor_list first, const char* name);
OptimViews optim_views(const char* op, int32_t i, std::initializer_list<fastdl_tensor_list> lists,
                       std::initializer_list<const char*> names, int read_only, fastdl_tensor_list rounded);

// A step count: a scalar of float32.
View optim_step(fastdl_tensor_list steps, int32_t i, const char* op);

// Options, and which optional lists a step looks at: those it does not come out as NULL.
fastdl_sgd_options sgd(const fastdl_sgd_options* options, fastdl_tensor_list grads,
                       fastdl_tensor_list* buffers);
fastdl_adam_options adam(const fastdl_adam_options* options, fastdl_tensor_list grads,
                         fastdl_tensor_list avgs, fastdl_tensor_list avg_sqs, fastdl_tensor_list* max_avg_sqs,
                         fastdl_tensor_list steps);
fastdl_adagrad_options adagrad(const fastdl_adagrad_options* options, fastdl_tensor_list grads,
                               fastdl_tensor_list sums, fastdl_tensor_list steps);
fastdl_rmsprop_options rmsprop(const fastdl_rmsprop_options* options, fastdl_tensor_list grads,
                               fastdl_tensor_list square_avgs, fastdl_tensor_list* avgs,
                               fastdl_tensor_list* buffers);
void norm(double p, const double* norm);
void clip_norm(double max_norm, const double* norm);

}  // namespace fastdl::check
