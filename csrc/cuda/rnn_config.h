// Whether one kernel takes a layer through all its steps, and how: functions of shapes alone, so that they
// can be tested anywhere.
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

// A layer by Hopper's clusters (rnn_sm90_*.cuh).
struct RnnClusterPlan {
  bool fits, suits;        // suits: it is likely to be the faster way
  int blocks, units_each;  // of a cluster, and hidden units of each; even
  int sequences_each;      // of a cluster: 1, 2, 4 or 8
  int64_t groups;          // of sequences
};

inline RnnClusterPlan rnn_cluster_plan(int64_t gates, int64_t hidden, int64_t steps, int64_t sequences,
                                       int64_t directions, int multiprocessors) {
  RnnClusterPlan plan{};
  // A block's 128 threads have room for 32 units with gates, of 256 units' weights, or 64 without, of 512.
  const int64_t most_units = gates > 1 ? 32 : 64;
  plan.blocks = hidden <= 4 * most_units ? 4 : 8;
  plan.fits = steps > 1 && sequences > 0 && hidden > 0 && hidden <= plan.blocks * most_units;
  if (!plan.fits) return plan;
  const auto each = static_cast<int>((hidden + plan.blocks - 1) / plan.blocks);
  plan.units_each = each + each % 2;
  // As few sequences as there are clusters for: what is sent from block to block is the longest part of a
  // step. A cluster's blocks lie in one group of multiprocessors, and some of each are left over: count on
  // three quarters.
  const int64_t at_once = std::max<int64_t>(1, int64_t{multiprocessors} * 3 / 4 / plan.blocks);
  const auto groups = [&](int64_t of) { return (sequences + of - 1) / of; };
  plan.sequences_each = 1;
  while (plan.sequences_each < 8 && groups(plan.sequences_each) * directions > at_once)
    plan.sequences_each *= 2;
  plan.groups = groups(plan.sequences_each);
  // A step of the kernel over the whole device takes at least twice as long, through global memory.
  plan.suits = plan.groups * directions <= 2 * at_once;
  return plan;
}

}  // namespace fastdl::cuda
