// fastdl/cuda.h for C++17: the same functions, which throw fastdl::Error instead of returning a status.
// Header-only; a program that uses nothing of fastdl.hpp but its types needs libfastdl_cuda alone.
//
//   const fastdl::cuda::Context context(stream);
//   fastdl::cuda::matmul(context, fastdl::cuda::Tensor(a, {2, 3}), fastdl::cuda::Tensor(b, {3, 4}), nullptr,
//                        nullptr, fastdl::cuda::Tensor(c, {2, 4}), nullptr);  // a, b, c: of cudaMalloc
//   fastdl::cuda::check(context);  // waits for the stream and throws what kernels found wrong in the values
#ifndef FASTDL_CUDA_HPP
#define FASTDL_CUDA_HPP

#include "fastdl/cuda.h"
#include "fastdl/fastdl.hpp"

namespace fastdl::cuda {

// A view of device memory on GPU `device`; see fastdl::Tensor.
class Tensor : public fastdl::Tensor {
 public:
  template <class T>
  Tensor(T* data, std::initializer_list<int64_t> shape, std::initializer_list<int64_t> strides = {},
         int32_t device = 0)
      : fastdl::Tensor(data, shape, strides) {
    place({FASTDL_CUDA, device});
  }
};

// Owns a context.
class Context {
 public:
  explicit Context(const fastdl_cuda_context_options& options) {
    fastdl::check(fastdl_cuda_context_create(&options, &context_), fastdl_cuda_last_error);
  }
  // stream: a cudaStream_t of the current device.
  explicit Context(void* stream) {
    fastdl_cuda_context_options options = FASTDL_CUDA_CONTEXT_OPTIONS_INIT;
    options.stream = stream;
    fastdl::check(fastdl_cuda_context_create(&options, &context_), fastdl_cuda_last_error);
  }
  ~Context() { fastdl_cuda_context_destroy(context_); }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;
  operator fastdl_context*() const { return context_; }  // NOLINT: meant to be implicit

 private:
  fastdl_context* context_ = nullptr;
};

// fastdl::cuda::name(...) is fastdl_cuda_name(...) with its status checked.
#define FASTDL_CUDA_CHECKED(name) \
  inline constexpr fastdl::Checked<fastdl_cuda_##name, fastdl_cuda_last_error> name {}
FASTDL_CUDA_CHECKED(device_count);
FASTDL_CUDA_CHECKED(device_name);
FASTDL_CUDA_CHECKED(check);
FASTDL_CUDA_CHECKED(version_check);
FASTDL_CUDA_CHECKED(set_float32_precision);
FASTDL_CUDA_CHECKED(convert);
FASTDL_CUDA_CHECKED(softmax_forward);
FASTDL_CUDA_CHECKED(softmax_backward);
FASTDL_CUDA_CHECKED(matmul);
FASTDL_CUDA_CHECKED(matmul_packed_b_size);
FASTDL_CUDA_CHECKED(matmul_pack_b);
FASTDL_CUDA_CHECKED(matmul_packed);
FASTDL_CUDA_CHECKED(linear_backward);
FASTDL_CUDA_CHECKED(conv_forward);
FASTDL_CUDA_CHECKED(conv_backward_data);
FASTDL_CUDA_CHECKED(conv_backward_weight);
FASTDL_CUDA_CHECKED(conv_pool_backward);
FASTDL_CUDA_CHECKED(conv_transpose_forward);
FASTDL_CUDA_CHECKED(conv_transpose_backward_data);
FASTDL_CUDA_CHECKED(conv_transpose_backward_weight);
FASTDL_CUDA_CHECKED(unfold);
FASTDL_CUDA_CHECKED(fold);
FASTDL_CUDA_CHECKED(activation_forward);
FASTDL_CUDA_CHECKED(activation_backward);
FASTDL_CUDA_CHECKED(elementary);
FASTDL_CUDA_CHECKED(glu_forward);
FASTDL_CUDA_CHECKED(glu_backward);
FASTDL_CUDA_CHECKED(prelu_forward);
FASTDL_CUDA_CHECKED(prelu_backward);
FASTDL_CUDA_CHECKED(arithmetic);
FASTDL_CUDA_CHECKED(dropout);
FASTDL_CUDA_CHECKED(attention_forward);
FASTDL_CUDA_CHECKED(attention_backward);
FASTDL_CUDA_CHECKED(embedding_forward);
FASTDL_CUDA_CHECKED(embedding_backward);
FASTDL_CUDA_CHECKED(embedding_renorm);
FASTDL_CUDA_CHECKED(embedding_bag_forward);
FASTDL_CUDA_CHECKED(embedding_bag_backward);
FASTDL_CUDA_CHECKED(layer_norm_forward);
FASTDL_CUDA_CHECKED(layer_norm_backward);
FASTDL_CUDA_CHECKED(rms_norm_forward);
FASTDL_CUDA_CHECKED(rms_norm_backward);
FASTDL_CUDA_CHECKED(group_norm_forward);
FASTDL_CUDA_CHECKED(group_norm_backward);
FASTDL_CUDA_CHECKED(batch_norm_forward);
FASTDL_CUDA_CHECKED(batch_norm_backward);
FASTDL_CUDA_CHECKED(cross_entropy);
FASTDL_CUDA_CHECKED(nll_loss);
FASTDL_CUDA_CHECKED(loss);
FASTDL_CUDA_CHECKED(max_pool_forward);
FASTDL_CUDA_CHECKED(max_pool_backward);
FASTDL_CUDA_CHECKED(avg_pool_forward);
FASTDL_CUDA_CHECKED(avg_pool_backward);
FASTDL_CUDA_CHECKED(rnn_reserve_size);
FASTDL_CUDA_CHECKED(rnn_dropout_size);
FASTDL_CUDA_CHECKED(rnn_forward);
FASTDL_CUDA_CHECKED(rnn_backward);
FASTDL_CUDA_CHECKED(sgd_step);
FASTDL_CUDA_CHECKED(adam_step);
FASTDL_CUDA_CHECKED(adagrad_step);
FASTDL_CUDA_CHECKED(rmsprop_step);
FASTDL_CUDA_CHECKED(norm);
FASTDL_CUDA_CHECKED(scale);
FASTDL_CUDA_CHECKED(clip_norm);
#undef FASTDL_CUDA_CHECKED

}  // namespace fastdl::cuda

#endif
