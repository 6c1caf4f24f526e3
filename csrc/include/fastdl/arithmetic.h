/* Arithmetic on two operands, element by element. */
#ifndef FASTDL_ARITHMETIC_H
#define FASTDL_ARITHMETIC_H

#include "fastdl/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum fastdl_arithmetic_kind {
  FASTDL_ADD = 0,
  FASTDL_SUB = 1,
  FASTDL_MUL = 2,
  FASTDL_DIV = 3
} fastdl_arithmetic_kind;

/* out = a op b; a, b, out: same shape and dtype, float32 or float64, any strides. b may be NULL: then
   `number`, rounded to the dtype computed with, stands for each of its elements. out may be a or b.
   FASTDL_ERROR_VALUE for an unknown kind. Scratch: none if all lie densely in memory in the same order. Cost:
   one pass. */
FASTDL_API fastdl_status fastdl_arithmetic(fastdl_context* context, const fastdl_tensor* a,
                                           const fastdl_tensor* b, double number, const fastdl_tensor* out,
                                           int32_t kind);

#ifdef __cplusplus
}
#endif
#endif
