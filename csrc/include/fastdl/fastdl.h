/* fastdl: neural-network kernels behind a C ABI.

   Conventions, the same for every op:
   - Tensors are views of the caller's memory (fastdl_tensor, DLPack's DLTensor layout): any strides, never
   owned, never kept.
   - Outputs are allocated by the caller and have the documented shape. They may not overlap inputs unless
   stated.
   - Where a header says float32 or float64, bfloat16 and float16 are taken too: operands are of one dtype,
   but for those that the header says may be float32 beside 16-bit ones. Arithmetic and sums are float32 then,
   results are rounded once.
   - Options structs begin with their own size: initialise them with the FASTDL_..._INIT macro. NULL means
   defaults.
   - A context of NULL is the default one. Calls are thread-safe; two calls may share a context.
   - Nothing is written unless every check has passed; fastdl_last_error() explains a status other than
   FASTDL_OK.
   - The same inputs give the same bits for any number of threads. */
#ifndef FASTDL_H
#define FASTDL_H

#include "fastdl/activation.h"
#include "fastdl/arithmetic.h"
#include "fastdl/attention.h"
#include "fastdl/base.h"
#include "fastdl/conv.h"
#include "fastdl/convert.h"
#include "fastdl/dropout.h"
#include "fastdl/embedding.h"
#include "fastdl/loss.h"
#include "fastdl/matmul.h"
#include "fastdl/measure.h"
#include "fastdl/norm.h"
#include "fastdl/optim.h"
#include "fastdl/pool.h"
#include "fastdl/rnn.h"
#include "fastdl/softmax.h"

#endif
