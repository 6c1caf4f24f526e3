/* Matrix products. */
#ifndef FASTDL_MATMUL_H
#define FASTDL_MATMUL_H

#include "fastdl/activation.h"
#include "fastdl/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fastdl_matmul_options {
  size_t struct_size;
  double alpha;
  double beta; /* 0: out is not read */
  fastdl_activation activation;
} fastdl_matmul_options;
#define FASTDL_MATMUL_OPTIONS_INIT {sizeof(fastdl_matmul_options), 1.0, 0.0, {FASTDL_ACT_NONE, 0.0, 0.0}}

/* out = activation(alpha * a @ b + beta * out + bias + residual)

   a: (..., m, k) or (k,), b: (..., k, n) or (k,); the leading dims broadcast. A 1-d operand stands for a row
   (a) or a column (b) whose dim of extent 1 is missing from out: (..., m, n), (..., n), (..., m) or (). bias:
   (n,) or NULL. residual: the shape of out, or NULL. All float32 or all float64, any strides (a transposed
   operand is a view); all bfloat16 or all float16, and then out may be float32. out overlaps no input.
   FASTDL_ERROR_VALUE for an unknown activation. Scratch: blocks of a and b in the kernels' order, sized for
   the caches; b as a whole where threads share it. Cost: 2 m n k operations for each product; a vector or few
   rows by a matrix: one pass over the matrix. */
FASTDL_API fastdl_status fastdl_matmul(fastdl_context* context, const fastdl_tensor* a,
                                       const fastdl_tensor* b, const fastdl_tensor* bias,
                                       const fastdl_tensor* residual, const fastdl_tensor* out,
                                       const fastdl_matmul_options* options);

/* A right-hand operand used many times (the weights of an inference) can be laid out once as the kernels read
   it. The packed form is a 1-d contiguous tensor of b's dtype with *elements elements; it belongs to the
   instruction set in force when it was made and fastdl_matmul_packed refuses any other. About the size of b;
   of float32 with "amx" 2.5 times that, as it holds b's bfloat16 parts too. b: (k, n), any strides; the query
   reads its shape and dtype only, but data must not be NULL. *elements is written on success. The query costs
   nothing, packing one pass; 16-bit b whose products the instruction set lacks is packed by float32. */
FASTDL_API fastdl_status fastdl_matmul_packed_b_size(fastdl_context* context, const fastdl_tensor* b,
                                                     int64_t* elements);
FASTDL_API fastdl_status fastdl_matmul_pack_b(fastdl_context* context, const fastdl_tensor* b,
                                              const fastdl_tensor* packed);
/* fastdl_matmul with the packed form of b: (k, n), no leading dims. FASTDL_ERROR_VALUE if `packed` was made
   for another dtype or instruction set, or by something else. The form is read only: any number of calls may
   share it. Scratch and cost: as fastdl_matmul, without b's share. */
FASTDL_API fastdl_status fastdl_matmul_packed(fastdl_context* context, const fastdl_tensor* a,
                                              const fastdl_tensor* packed, const fastdl_tensor* bias,
                                              const fastdl_tensor* residual, const fastdl_tensor* out,
                                              const fastdl_matmul_options* options);

/* The gradients of y = activation(x @ weight^T + bias), weight: (n, k), x: (..., k), grad: (..., n):
     z = grad * activation'(saved), grad_x = z @ weight, grad_weight = z^T @ x, grad_bias = sum of z over
   leading dims. saved: what fastdl_activation_backward wants of this activation (y if
   fastdl_activation_from_output says 1, else the value before the activation), the shape of grad; NULL
   without activation. Any of grad_x, grad_weight, grad_bias may be NULL; grad_weight and
   grad_bias may be float32 beside 16-bit operands. options: NULL or the activation; alpha and beta must be 1
   and 0. x is required for grad_weight, weight for grad_x. Any strides, no overlap. Scratch: z, where there
   is an activation, and that of two matrix products. Cost: 4 n k operations for each row. */
FASTDL_API fastdl_status fastdl_linear_backward(fastdl_context* context, const fastdl_tensor* grad,
                                                const fastdl_tensor* saved, const fastdl_tensor* x,
                                                const fastdl_tensor* weight, const fastdl_tensor* grad_x,
                                                const fastdl_tensor* grad_weight,
                                                const fastdl_tensor* grad_bias,
                                                const fastdl_matmul_options* options);

#ifdef __cplusplus
}
#endif
#endif
