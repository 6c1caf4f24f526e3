// Whether one kernel takes a layer through all its steps, and how it is cut into blocks: a function of shapes
// alone, so that it can be tested anywhere.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace fastdl::cuda {

constexpr int kResidentThreads = 256, kResidentWarps = 8;
constexpr int kResidentRows = 16;  // sequences that a block takes at a time

// Of a warp's blocks of 64 bytes of k, those whose weights stay in registers: each takes 8 for every 16 rows
// of weights. As many as leave room for sums, states on their way and a cell (96, or 64 to 72, by ptxas).
constexpr int resident_held(int tall) { return tall == 1 ? 12 : tall == 2 ? 4 : tall == 3 ? 3 : 2; }

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
// What of the weights is not in registers, with rows of k_bytes.
constexpr size_t resident_rest(int64_t k_bytes, int tall) {
  const int64_t blocks = (k_bytes + 63) / 64, each = (blocks + kResidentWarps - 1) / kResidentWarps;
  const int64_t rest = each > resident_held(tall) ? each - resident_held(tall) : 0;
  return static_cast<size_t>(rest * kResidentWarps * tall * 16 * 64);
}

// gates: rows of weights to a unit; k_bytes: their length. least, most: heights there are kernels of. Every
// block has a multiprocessor to itself: they wait for each other, and each is full of its weights. Fewest
// turns count most; among equals the lowest height has the most blocks and so the shortest products.
inline RnnResidentPlan rnn_resident_plan(int64_t steps, int64_t sequences, int64_t hidden, int64_t gates,
                                         int64_t k_bytes, int64_t directions, int least, int most,
                                         size_t most_shared_bytes, int multiprocessors) {
  RnnResidentPlan plan{};
  const int64_t groups = (sequences + kResidentRows - 1) / kResidentRows;
  if (steps < 2 || groups == 0) return plan;  // a single step reads its weights once anyway
  int64_t fewest = kMostTurns + 1;
  for (int tall = least; tall <= most; ++tall) {
    const int64_t rows = tall * 16 / gates, units = gates > 1 ? std::min(rows, kMostGatedUnits) : rows;
    const int64_t unit_blocks = (hidden + units - 1) / units, across = unit_blocks * directions;
    const size_t rest = resident_rest(k_bytes, tall), sums = resident_sums(tall);
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

}  // namespace fastdl::cuda
