// What every family of the CPU needs to accept any strides: copies and contiguous stand-ins.
#pragma once

#include "common/stand_in.h"
#include "common/view.h"
#include "cpu/context.h"

namespace fastdl::cpu {

using namespace fastdl;

// Copies src into dst (same shape and dtype, any strides, no overlap), in parallel.
void copy(Context* context, const View& src, const View& dst);

// dst = src rounded to dst's dtype: same shape, no overlap, one of the two float32, the other bfloat16 or
// float16; any strides.
void convert(Context* context, const View& src, const View& dst);

struct Memory {
  using Context = cpu::Context;
  using Workspace = cpu::Workspace;
  static bool in_place(const View& v) { return v.contiguous(); }
  static void copy(Context* context, const View& src, const View& dst) { cpu::copy(context, src, dst); }
  static void convert(Context* context, const View& src, const View& dst) { cpu::convert(context, src, dst); }
};

using Contiguous = StandIn<Memory, false>;
using ContiguousOut = StandInOut<Memory, false>;
// Parameters and statistics, which are few beside the data: in the type they are computed with.
using Computed = StandIn<Memory, true>;
using ComputedOut = StandInOut<Memory, true>;

}  // namespace fastdl::cpu
