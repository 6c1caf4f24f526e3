// What every family needs to accept any strides: copies and contiguous stand-ins, in device memory.
#pragma once

#include <cstdint>

#include "common/stand_in.h"
#include "common/view.h"
#include "cuda/context.h"

namespace fastdl::cuda {

// Copies src into dst (same shape and dtype, any strides, no overlap).
void copy(Context* context, const View& src, const View& dst);
// The same between float dtypes, rounding once.
void convert(Context* context, const View& src, const View& dst);

// Kernels choose the width of their accesses, and so the order of their sums, by shape alone: what does not
// begin at a multiple of 16 bytes is copied, too.
struct Memory {
  using Context = cuda::Context;
  using Workspace = cuda::Workspace;
  static bool in_place(const View& v) {
    return v.contiguous() && reinterpret_cast<uintptr_t>(v.data) % 16 == 0;
  }
  static void copy(Context* context, const View& src, const View& dst) { cuda::copy(context, src, dst); }
  static void convert(Context* context, const View& src, const View& dst) {
    cuda::convert(context, src, dst);
  }
};

using Contiguous = StandIn<Memory, false>;
using ContiguousOut = StandInOut<Memory, false>;
// Parameters and statistics, which are few beside the data: in the type they are computed with. A view
// without data stays as it is.
using Computed = StandIn<Memory, true>;
using ComputedOut = StandInOut<Memory, true>;

}  // namespace fastdl::cuda
