// Whether a backend's kernels can read a tensor where it is.
#pragma once

#include <cstdint>

#include "fastdl/base.h"

namespace fastdl {

// The device of what the host reads: on none in particular.
constexpr int32_t kAnyDevice = -1;

// Throws for a tensor on another device than the current one, or not aligned as its elements of `item_size`
// bytes have to be. Each backend has its own.
void check_place(const fastdl_tensor& t, int64_t item_size, const char* op, const char* name);

}  // namespace fastdl
