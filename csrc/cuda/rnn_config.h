// Whether one kernel takes a layer through all its steps, and how it is cut into blocks: functions of shapes
// alone, so that they can be tested anywhere.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace fastdl::cuda {

constexpr int kResidentThreads = 256, kResidentWarps = 8;
constexpr int kResidentRows = 16;  // sequences that a block takes at a time

// Of a warp's blocks of 64 bytes of k, those whose weights stay in registers: each takes 8 for every 16 rows
// of weights. As many as leave room for sums, states on their way, the pieces of float32 and a cell, by
// ptxas.
constexpr int resident_held(int tall, int item) {
  if (item == 4) return tall == 1 ? 8 : tall == 2 ? 2 : 1;
  return tall == 1 ? 12 : tall == 2 ? 4 : tall == 3 ? 3 : 2;
}

// Unit counts of a block beyond this would give a thread more than one cell of several gates.
constexpr int64_t kMostGatedUnits = 16;

// Sixteen sequences take a block about as long as they would take a launch of their own (both guesses): many
// of them in turns are left to launches, which spread them over the device.
constexpr int64_t kMostTurns = 8;

struct RnnResidentPlan {
  bool possible;
  int tall;             // times 16 rows of weights to a block
  int64_t units;        // of the hidden ones to a block
  int64_t unit_blocks;  // blocks that share the hidden units of one direction
  int64_t row_blocks;   // of the grid; they take groups of sequences in turns
  int buffers;          // for sums: 2 save a barrier
  size_t shared_bytes;
};

// The warps' sums of a group of sequences.
constexpr size_t resident_sums(int tall) {
  return static_cast<size_t>(kResidentWarps * tall * 16 * kResidentRows) * sizeof(float);
}
// What of the weights is not in registers, with rows of k elements of `item` bytes.
constexpr size_t resident_rest(int64_t k, int item, int tall) {
  const int64_t blocks = (k * item + 63) / 64, each = (blocks + kResidentWarps - 1) / kResidentWarps;
  const int64_t rest = each > resident_held(tall, item) ? each - resident_held(tall, item) : 0;
  return static_cast<size_t>(rest * kResidentWarps * tall * 16 * 64);
}

// gates: rows of weights to a unit; k: their length, in elements of `item` bytes. least, most: heights there
// are kernels of. Every block has a multiprocessor to itself: they wait for each other, and each is full of
// its weights. Fewest turns count most; among equals the lowest height has the most blocks and so the
// shortest products.
inline RnnResidentPlan rnn_resident_plan(int64_t steps, int64_t sequences, int64_t hidden, int64_t gates,
                                         int64_t k, int item, int64_t directions, int least, int most,
                                         size_t most_shared_bytes, int multiprocessors) {
  RnnResidentPlan plan{};
  const int64_t groups = (sequences + kResidentRows - 1) / kResidentRows;
  if (steps < 2 || groups == 0) return plan;  // a single step reads its weights once anyway
  int64_t fewest = kMostTurns + 1;
  for (int tall = least; tall <= most; ++tall) {
    const int64_t rows = tall * 16 / gates, units = gates > 1 ? std::min(rows, kMostGatedUnits) : rows;
    const int64_t unit_blocks = (hidden + units - 1) / units, across = unit_blocks * directions;
    const size_t rest = resident_rest(k, item, tall), sums = resident_sums(tall);
    if (across > multiprocessors || rest + sums > most_shared_bytes) continue;
    const int buffers = rest + 2 * sums <= most_shared_bytes ? 2 : 1;
    const int64_t row_blocks = std::min(groups, multiprocessors / across);
    const int64_t turns = (groups + row_blocks - 1) / row_blocks;
    if (turns >= fewest) continue;
    fewest = turns;
    plan = {true, tall, units, unit_blocks, row_blocks, buffers, rest + static_cast<size_t>(buffers) * sums};
  }
  return plan;
}

// The same with k cut into parts, too (rnn_parts.cuh): a group of blocks has 64 units, each of them a part of
// k.
constexpr int kPartsTall = 4, kMostParts = 8;
struct RnnPartsPlan {
  bool possible, suits;  // suits: blocks read less than they would of all of k
  int parts, finished;   // blocks of a group, and units whose cells each of them has
  int64_t groups, k_each, row_blocks;
  int buffers;
  size_t shared_bytes;
};

// Bytes that a step moves from the L2 cache: that gives all multiprocessors some 50 times what one can take.
inline int64_t step_bytes(int64_t blocks, int64_t of_block) {
  return of_block * std::max<int64_t>(blocks, 50);
}

// One gate to a unit, k of two bytes; whole: the plan without parts.
inline RnnPartsPlan rnn_parts_plan(int64_t steps, int64_t sequences, int64_t hidden, int64_t k,
                                   int64_t directions, const RnnResidentPlan& whole, size_t most_shared_bytes,
                                   int multiprocessors) {
  RnnPartsPlan plan{};
  constexpr int64_t kUnits = 16 * kPartsTall, kDepth = 32;
  const int64_t turns_of = (sequences + kResidentRows - 1) / kResidentRows,
                k_blocks = (k + kDepth - 1) / kDepth;
  plan.groups = (hidden + kUnits - 1) / kUnits;
  if (steps < 2 || sequences == 0 || hidden == 0) return plan;
  // With as many parts as there are cells to a thread otherwise, one is left to each.
  int64_t parts = std::min({int64_t{kMostParts}, multiprocessors / (plan.groups * directions), k_blocks});
  if (parts < kPartsTall) return plan;
  const int64_t each = (k_blocks + parts - 1) / parts;
  parts = (k_blocks + each - 1) / each;
  if (parts < kPartsTall) return plan;
  plan.parts = static_cast<int>(parts), plan.k_each = each * kDepth;
  plan.finished = static_cast<int>((kUnits + parts - 1) / parts);
  plan.row_blocks = std::min(turns_of, multiprocessors / (plan.groups * parts * directions));
  const size_t rest = resident_rest(plan.k_each, 2, kPartsTall), sums = resident_sums(kPartsTall);
  plan.buffers = rest + 2 * sums <= most_shared_bytes ? 2 : 1;
  plan.shared_bytes = rest + static_cast<size_t>(plan.buffers) * sums;
  plan.possible = plan.shared_bytes <= most_shared_bytes && turns_of <= plan.row_blocks * kMostTurns;
  if (!plan.possible || !whole.possible) return plan.suits = plan.possible, plan;
  // Sums are 8 bytes, written and read; their way to another block and back takes as long as 2 MB.
  const int64_t of_block = kResidentRows * (2 * plan.k_each + 2 * 8 * kUnits);
  const int64_t with = step_bytes(plan.groups * parts * directions, of_block) + (int64_t{2} << 20);
  plan.suits = with < step_bytes(whole.unit_blocks * directions, kResidentRows * 2 * k) &&
               plan.row_blocks >= whole.row_blocks;
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
  // A block has room for 32 units with gates or 64 without, and for the weights of as many as the largest
  // cluster has.
  const int64_t most_units = gates > 1 ? 32 : 64;
  plan.blocks = hidden <= 4 * most_units ? 4 : hidden <= 8 * most_units ? 8 : 16;
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
