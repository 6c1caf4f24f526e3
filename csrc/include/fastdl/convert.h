/* Conversion between the 32-bit and 16-bit floating-point types. */
#ifndef FASTDL_CONVERT_H
#define FASTDL_CONVERT_H

#include "fastdl/base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* out = x in out's dtype. x, out: same shape, each float32, bfloat16 or float16, any strides, no overlap.
   Narrower types are rounded to nearest, ties to even, once; too large a value becomes infinity, subnormals
   are kept, NaN becomes a quiet NaN with its sign. FASTDL_ERROR_DTYPE for others. Scratch: none, for any
   strides; between bfloat16 and float16 a float32 copy. Cost: one pass. */
FASTDL_API fastdl_status fastdl_convert(fastdl_context* context, const fastdl_tensor* x,
                                        const fastdl_tensor* out);

#ifdef __cplusplus
}
#endif
#endif
