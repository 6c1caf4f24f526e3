/* Dropout with masks that are a function of (seed, offset, element): Philox4x32-10 (Salmon, Moraes, Dror,
   Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3"). */
#ifndef FASTDL_DROPOUT_H
#define FASTDL_DROPOUT_H

#include "fastdl/base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* out = kept ? x / (1 - p) : 0. Element i, counted in C order whatever the layout, is kept if word i % 4 of
   the Philox block with counter i / 4 + offset (64 bits, the upper half of the counter 0) and key seed is at
   least floor(p * 2^32 + 1/2). x, out: same shape, float32 or float64, any strides; out may be x. 0 <= p
   <= 1, else FASTDL_ERROR_VALUE. The gradient is the same call on the output's gradient. Scratch: none. Cost:
   one pass. */
FASTDL_API fastdl_status fastdl_dropout(fastdl_context* context, const fastdl_tensor* x,
                                        const fastdl_tensor* out, double p, uint64_t seed, uint64_t offset);

#ifdef __cplusplus
}
#endif
#endif
