/* Max and average pooling over 1, 2 or 3 spatial dimensions, sliding or adaptive. */
#ifndef FASTDL_POOL_H
#define FASTDL_POOL_H

#include "fastdl/base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Per-dimension fields are in the order of the spatial dimensions; entries past their number are ignored. */
typedef struct fastdl_pool_options {
  size_t struct_size;
  int64_t kernel[3];
  int64_t stride[3];
  int64_t padding[3];  /* at most kernel / 2 */
  int64_t dilation[3]; /* max pooling only */
  int32_t ceil_mode;   /* a last, partial window counts if it starts inside the input or its left padding */
  int32_t count_include_pad; /* average: divide by the window's extent, padding included */
  int64_t divisor_override;  /* average: divide by this; 0: the window's size */
  int32_t adaptive;          /* windows follow from the output's extents; all fields above are ignored */
} fastdl_pool_options;
#define FASTDL_POOL_OPTIONS_INIT \
  {sizeof(fastdl_pool_options), {1, 1, 1}, {1, 1, 1}, {0, 0, 0}, {1, 1, 1}, 0, 1, 0, 0}

/* x: (N, C, *spatial), out: (N, C, *output), both float32 or float64, any strides; channels-last ones are
   read and written in place, others through scratch. indices (NULL: not wanted): int32 or int64 of out's
   shape, the position of each maximum in its plane of x, counted in C order. The first of equal maxima wins;
   NaN counts as larger than any number, the last one wins. No overlap. FASTDL_ERROR_VALUE for options out of
   range (kernel, stride and dilation 1 to 2^31 - 1), FASTDL_ERROR_SHAPE also for a plane of 2^31 elements or
   more. Scratch: int64 indices as int32. Cost: one pass; windows that overlap are read again, from a cache.
 */
FASTDL_API fastdl_status fastdl_max_pool_forward(fastdl_context* context, const fastdl_tensor* x,
                                                 const fastdl_tensor* out, const fastdl_tensor* indices,
                                                 const fastdl_pool_options* options);

/* grad_x (N, C, *spatial) = the sum of grad_out at each position named by indices, both (N, C, *output).
   options as in the forward call; an index that is no position of its own window contributes nothing. grad_x
   is written as a whole. Strides, errors, scratch and cost as above. */
FASTDL_API fastdl_status fastdl_max_pool_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                                  const fastdl_tensor* indices, const fastdl_tensor* grad_x,
                                                  const fastdl_pool_options* options);

/* Shapes and the rest as for max pooling; sums are divided by the window's size, or as the options say. */
FASTDL_API fastdl_status fastdl_avg_pool_forward(fastdl_context* context, const fastdl_tensor* x,
                                                 const fastdl_tensor* out,
                                                 const fastdl_pool_options* options);
/* grad_out: (N, C, *output), grad_x: (N, C, *spatial), written as a whole. */
FASTDL_API fastdl_status fastdl_avg_pool_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                                  const fastdl_tensor* grad_x,
                                                  const fastdl_pool_options* options);

#ifdef __cplusplus
}
#endif
#endif
