/* fastdl for CUDA: every op of fastdl.h on tensors in a GPU's memory (device type FASTDL_CUDA).

   fastdl_cuda_<op> takes the arguments and options of fastdl_<op> and reports the same errors; the library is
   libfastdl_cuda. What differs:
   - Calls return when the work is queued on the context's stream; nothing synchronises. Memory handed to a
   call must stay valid until the stream has passed it.
   - The context is one of fastdl_cuda_context_create. NULL is the default one: the device current to the
   calling thread (cudaSetDevice) and the stream of fastdl_cuda_set_stream.
   - What depends on values in memory (a label out of range) cannot be reported before the kernel runs:
   results that depend on it are NaN, and the next fastdl_cuda_check tells.
   - Scalars that a call writes or reads through a pointer (the norm of fastdl_cuda_norm and
   fastdl_cuda_clip_norm) are in device memory too. Where fastdl_cuda_norm is given host memory instead, it
   waits for its stream: the one call that can.
   - The same inputs give the same bits on one kind of device: sums have a fixed order, no float atomics. */
#ifndef FASTDL_CUDA_H
#define FASTDL_CUDA_H

#include "fastdl/fastdl.h"

#ifdef __cplusplus
#define FASTDL_TYPE_OF_(function) decltype(function)
extern "C" {
#else
#define FASTDL_TYPE_OF_(function) __typeof__(function)
#endif

typedef struct fastdl_cuda_context_options {
  size_t struct_size;
  void* stream; /* a cudaStream_t of the device current at creation; NULL: the legacy default stream */
  /* Scratch memory on that device, in stream order; both NULL: cudaMallocAsync. */
  void* (*allocate)(size_t bytes, void* stream, void* user);
  void (*deallocate)(void* p, size_t bytes, void* stream, void* user);
  void* user;
  int32_t float32_precision; /* a fastdl_precision, or -1: follow fastdl_cuda_set_float32_precision */
} fastdl_cuda_context_options;
#define FASTDL_CUDA_CONTEXT_OPTIONS_INIT {sizeof(fastdl_cuda_context_options), NULL, NULL, NULL, NULL, -1}

FASTDL_API fastdl_status fastdl_cuda_context_create(const fastdl_cuda_context_options* options,
                                                    fastdl_context** out);
FASTDL_API void fastdl_cuda_context_destroy(fastdl_context* context);

/* The stream of this thread's calls with the default context. */
FASTDL_API void fastdl_cuda_set_stream(void* stream);
FASTDL_API void* fastdl_cuda_get_stream(void);

/* Devices this process can use: FASTDL_ERROR_NO_CUDA, with a message that says what is missing, if there is
   no driver. */
FASTDL_API fastdl_status fastdl_cuda_device_count(int32_t* count);
/* The current device's name, e.g. "NVIDIA H100 80GB HBM3"; the host executor says "simulated". */
FASTDL_API fastdl_status fastdl_cuda_device_name(char* name, size_t size);

/* Waits for the context's stream and reports what kernels found wrong in the values they read since the last
   check: FASTDL_ERROR_INDEX, or FASTDL_ERROR_INTERNAL if a kernel failed. */
FASTDL_API fastdl_status fastdl_cuda_check(fastdl_context* context);

#define FASTDL_CUDA_OP(name) FASTDL_API FASTDL_TYPE_OF_(fastdl_##name) fastdl_cuda_##name
FASTDL_CUDA_OP(last_error);
FASTDL_CUDA_OP(version_check);
FASTDL_CUDA_OP(get_float32_precision);
FASTDL_CUDA_OP(set_float32_precision);
FASTDL_CUDA_OP(convert);
FASTDL_CUDA_OP(softmax_forward);
FASTDL_CUDA_OP(softmax_backward);
FASTDL_CUDA_OP(matmul);
FASTDL_CUDA_OP(matmul_packed_b_size);
FASTDL_CUDA_OP(matmul_pack_b);
FASTDL_CUDA_OP(matmul_packed);
FASTDL_CUDA_OP(linear_backward);
FASTDL_CUDA_OP(conv_forward);
FASTDL_CUDA_OP(conv_backward_data);
FASTDL_CUDA_OP(conv_backward_weight);
FASTDL_CUDA_OP(conv_pool_backward);
FASTDL_CUDA_OP(conv_transpose_forward);
FASTDL_CUDA_OP(conv_transpose_backward_data);
FASTDL_CUDA_OP(conv_transpose_backward_weight);
FASTDL_CUDA_OP(unfold);
FASTDL_CUDA_OP(fold);
FASTDL_CUDA_OP(activation_forward);
FASTDL_CUDA_OP(activation_backward);
FASTDL_CUDA_OP(activation_from_output);
FASTDL_CUDA_OP(elementary);
FASTDL_CUDA_OP(glu_forward);
FASTDL_CUDA_OP(glu_backward);
FASTDL_CUDA_OP(prelu_forward);
FASTDL_CUDA_OP(prelu_backward);
FASTDL_CUDA_OP(arithmetic);
FASTDL_CUDA_OP(dropout);
FASTDL_CUDA_OP(attention_forward);
FASTDL_CUDA_OP(attention_backward);
FASTDL_CUDA_OP(embedding_forward);
FASTDL_CUDA_OP(embedding_backward);
FASTDL_CUDA_OP(embedding_renorm);
FASTDL_CUDA_OP(embedding_bag_forward);
FASTDL_CUDA_OP(embedding_bag_backward);
FASTDL_CUDA_OP(layer_norm_forward);
FASTDL_CUDA_OP(layer_norm_backward);
FASTDL_CUDA_OP(rms_norm_forward);
FASTDL_CUDA_OP(rms_norm_backward);
FASTDL_CUDA_OP(group_norm_forward);
FASTDL_CUDA_OP(group_norm_backward);
FASTDL_CUDA_OP(batch_norm_forward);
FASTDL_CUDA_OP(batch_norm_backward);
FASTDL_CUDA_OP(cross_entropy);
FASTDL_CUDA_OP(nll_loss);
FASTDL_CUDA_OP(loss);
FASTDL_CUDA_OP(max_pool_forward);
FASTDL_CUDA_OP(max_pool_backward);
FASTDL_CUDA_OP(avg_pool_forward);
FASTDL_CUDA_OP(avg_pool_backward);
FASTDL_CUDA_OP(rnn_reserve_size);
FASTDL_CUDA_OP(rnn_dropout_size);
FASTDL_CUDA_OP(rnn_forward);
FASTDL_CUDA_OP(rnn_backward);
FASTDL_CUDA_OP(sgd_step);
FASTDL_CUDA_OP(adam_step);
FASTDL_CUDA_OP(adagrad_step);
FASTDL_CUDA_OP(rmsprop_step);
FASTDL_CUDA_OP(norm);
FASTDL_CUDA_OP(scale);
FASTDL_CUDA_OP(clip_norm);

#ifdef __cplusplus
}
#endif
#endif
