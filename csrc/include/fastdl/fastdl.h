/* fastdl: neural-network kernels behind a C ABI.

   What holds for every op; the headers of the families say what differs.
   - Tensors are views of the caller's memory (fastdl_tensor, DLPack's DLTensor layout): never owned, and
     not kept after the call. Strides: any, negative and zero ones too, unless a header wants a tensor
     C-contiguous. Alignment: any. A pointer to a tensor may be NULL only where its header says so.
   - Outputs are the caller's, have the documented shape, are overwritten without being read (but where a
     header says "updated"), and share memory neither with each other nor with inputs, nor do their
     elements with one another. Where "out may be x", the two must be the same view: same data, shape and
     strides. Overlap between tensors is not looked for.
   - Dtypes: where a header says float32 or float64, bfloat16 and float16 are taken too: operands are of
     one dtype, but for those that the header says may be float32 beside 16-bit ones. Arithmetic and sums
     are float32 then, results are rounded once.
   - Options structs begin with their own size: initialise them with the FASTDL_..._INIT macro and change
     what differs. NULL means those defaults. A caller's struct may be shorter than the library's (an older
     header: what it lacks has its default) or longer (a newer one: what the library does not know is
     ignored; see fastdl_version_check).
   - Scratch memory: what an op needs beside its tensors it takes from the context's allocator and gives
     back before it returns; there is no workspace to query or hand in. Lists of indices and tasks, a few
     bytes for each, come from the C++ heap. Buffers that outlive a call have a query each:
     fastdl_matmul_packed_b_size, fastdl_rnn_reserve_size. "Scratch: none" in a header is said of tensors
     that lie in memory as the kernels read them, C-contiguous unless it says otherwise: others are copied
     as a whole. 16-bit tensors of ops marked "by float32" are converted as a whole.
   - Threads: every function may be called from any number of threads at once, with one context or several,
     as long as no call writes what another reads. A call may use the context's threads, and returns when
     all its work is done. fastdl's own threads serve one call at a time: calls that find them busy compute
     on their callers'. No function may be called from a signal handler; after a fork the child may go on
     calling.
   - Errors: FASTDL_ERROR_VALUE for a NULL or an option that is not allowed, _SHAPE, _DTYPE and _DEVICE for
     tensors that do not fit, all found before anything is written; _INDEX where the header says so, found
     as early but by reading the indices; _MEMORY where the allocator gives none: then outputs may be half
     written. The thread's fastdl_last_error() has a sentence. Nothing aborts, prints, throws, or ends a
     thread.
   - Cost: "one pass" means that every element of the operands is read or written once, as fast as memory
     gives it. Small calls (some 10 us) run on the calling thread.
   - Results: the same inputs give the same bits, for any number of threads and whoever owns them. They may
     differ between instruction sets. */
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
