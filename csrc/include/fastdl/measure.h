/* What the machine can do at best: the ceilings that kernels are measured against. */
#ifndef FASTDL_MEASURE_H
#define FASTDL_MEASURE_H

#include "fastdl/base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Each runs for some milliseconds up to a second on all threads of the context; others that compute meanwhile
   disturb it. Results come from times: the only ones that differ from run to run. FASTDL_ERROR_VALUE if the
   result pointer is NULL. */

/* 1e9 float32 operations per second of multiply-adds in registers, all threads of the context together. */
FASTDL_API fastdl_status fastdl_measure_peak(fastdl_context* context, double* gflops);
/* The same of bfloat16 products with float32 sums; 0 where the instruction set in force has none. */
FASTDL_API fastdl_status fastdl_measure_peak_bfloat16(fastdl_context* context, double* gflops);
/* 1e9 bytes per second, read plus written, of copying `bytes` (again and again, so that what fits into a
   cache stays there) with all threads of the context. bytes: 1 to 2^40; twice that is taken as scratch. */
FASTDL_API fastdl_status fastdl_measure_copy(fastdl_context* context, size_t bytes, double* gbytes);

#ifdef __cplusplus
}
#endif
#endif
