// Bulk copies of consecutive bytes from shared to global memory (cuda/ptx/bulk.cuh).
#pragma once

#include "hopper.h"

namespace fastdl::simt {

// cp.async.bulk, or, `add`, cp.reduce.async.bulk.add.f32. Shared memory is read at bulk_wait, global memory
// written at bulk_wait_written or when the thread ends.
void bulk_line(void* to, uint32_t from, uint32_t bytes, bool add);
void bulk_wait_written();

}  // namespace fastdl::simt
