// Which kernel a product gets: functions of shapes alone, so that they can be tested anywhere.
#pragma once

#include <algorithm>
#include <cstdint>

namespace fastdl::cuda {

// How a product is cut up: the block's tile, and parts along k whose sums are added afterwards in their
// order.
struct GemmPlan {
  bool tensor_cores;
  bool large;   // 128 x 128 results per block, else 64 x 64
  bool narrow;  // 128 x 32
  int64_t parts;
  int64_t k_each;  // a multiple of 32, so that every part begins at a tile
};

inline int64_t blocks_of(int64_t m, int64_t n, int64_t batch, int64_t side) {
  return (m + side - 1) / side * ((n + side - 1) / side) * batch;
}

// Columns up to which a block has 128 x 32 results.
constexpr int64_t kNarrowColumns = 32;

// A product of which one operand has so many rows, the other few, is the reading of the former. Even a dot
// product, if it is long, is better with tensor cores than with multiply-adds, whose blocks have no parts
// along k.
inline bool much_to_read(int64_t rows, int64_t k) { return k >= (rows >= 64 ? 64 : 1024); }

// Of a product with up to 32 columns: 64 x 64 results would be multiplied for half of them or less.
inline bool few_columns(int64_t m, int64_t n, int64_t k) { return n <= kNarrowColumns && much_to_read(m, k); }

// may_be_narrow: the caller has a kernel for that.
inline GemmPlan gemm_plan(int64_t m, int64_t n, int64_t k, int64_t batch, int multiprocessors,
                          bool may_be_narrow = false) {
  GemmPlan plan{};
  plan.narrow = may_be_narrow && few_columns(m, n, k);
  // A 16 x 8 product needs something to fill it; below, multiply-adds move no more memory.
  plan.tensor_cores = plan.narrow || (m >= 8 && n >= 8 && k >= 8);
  plan.parts = 1;
  plan.k_each = k;
  if (!plan.tensor_cores) return plan;
  plan.large = m > 64 && n > 64 && blocks_of(m, n, batch, 128) >= multiprocessors;
  const int64_t blocks =
      plan.narrow ? (m + 127) / 128 * batch : blocks_of(m, n, batch, plan.large ? 128 : 64);
  // Fewer blocks than multiprocessors (narrow ones: than twice as many, so that enough is read at a time):
  // cut k, into parts long enough (256) that adding them up costs little.
  constexpr int64_t kShortest = 256, kMostParts = 32;
  const int64_t wanted = plan.narrow ? 2 * multiprocessors : multiprocessors;
  if (blocks < wanted && k >= 2 * kShortest) {
    plan.parts = std::min({(wanted + blocks - 1) / blocks, k / kShortest, kMostParts});
    plan.k_each = ((k + plan.parts - 1) / plan.parts + 31) / 32 * 32;
    plan.parts = (k + plan.k_each - 1) / plan.k_each;
  }
  return plan;
}

}  // namespace fastdl::cuda
