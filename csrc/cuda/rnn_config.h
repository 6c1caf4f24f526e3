// Whether one kernel takes a layer through all its steps: a function of shapes alone, so that it can be
// tested anywhere.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace fastdl::cuda {

struct RnnResidentPlan {
  bool possible;
  int64_t row_blocks;  // of the grid; they take the blocks of rows in turns
};

// unit_blocks: blocks that share the hidden units of one direction. Every block has a multiprocessor to
// itself: they wait for each other, and each fills most of the shared memory with its weights.
inline RnnResidentPlan rnn_resident_plan(int64_t steps, int64_t row_blocks, int64_t unit_blocks,
                                         int64_t directions, size_t shared_bytes, size_t most_shared_bytes,
                                         int multiprocessors) {
  const int64_t across = unit_blocks * directions;
  RnnResidentPlan plan{};
  // A single step reads its weights once anyway; and steps are counted in 32 bits.
  constexpr int64_t kMostArrivals = int64_t{1} << 31;
  plan.possible = steps > 1 && row_blocks > 0 && across <= multiprocessors &&
                  shared_bytes <= most_shared_bytes && steps * unit_blocks < kMostArrivals;
  plan.row_blocks = plan.possible ? std::min(row_blocks, multiprocessors / across) : 0;
  return plan;
}

}  // namespace fastdl::cuda
