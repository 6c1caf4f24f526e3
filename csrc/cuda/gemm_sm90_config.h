// Which products go to Hopper's kernels (matmul_sm90.cuh, matmul_sm90_few.cuh) and how they are cut:
// functions of shapes alone. They count clocks for each way that there is and take the shortest.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "cuda/gemm_config.h"

namespace fastdl::cuda {

constexpr int64_t kSm90Rows = 128;

// What clocks are counted with: docs/kernels-cuda/matmul.md derives them. Assumed until a GPU says: all of
// them but the tensor cores' and the shared memory's.
struct Sm90Costs {
  static constexpr double kMemory = 1900;  // bytes a clock of the device's memory: 3.35 TB/s at 1.755 GHz
  static constexpr double kCache = 5120;   // of the L2 cache: what an A100 is said to have
  static constexpr double kShare = 32;     // what one multiprocessor draws from it: half of what its port has
  static constexpr double kStart = 3500;   // a launch, and the first copies' way
  static constexpr double kLaunch = 5000;  // another kernel, which adds up parts
  static constexpr double kEnd = 1000;     // of a tile: what no other products run beside
  static constexpr double kLast = 3000;    // of the last one: all of it, and its results' way
  static constexpr double kBlock = 2000;  // of a block for few rows: barriers, the first copies' way, its end
};

// Tiles of matmul_sm90.cuh. clocks: of 64 (float32: 32) k, the longer of the tensor cores' and the shared
// memory's. 128 x 256 keeps both busy all the time; 128 x 128 needs 160 bytes of shared memory a clock of the
// tensor cores, of which there are 128, two planes of float32 139, and three, multiplied six times, 128. The
// sums of float32 take the registers of the larger tile.
struct Sm90TileKind {
  int columns, planes, depth, clocks;
};
constexpr Sm90TileKind kSm90Tiles[] = {
    {256, 0, 64, 1024},
    {128, 0, 64, 640},
    {128, 3, 32, 1536},
    {128, 2, 32, 832},
};

struct Sm90Plan {
  bool fits;
  int columns;  // of a tile, whose rows are 128
  int cluster;  // blocks above each other that share the tiles of B
  int64_t parts, k_each;
  double clocks;
};

// `planes`: of float32, 0 for 16-bit types.
inline Sm90Plan sm90_plan(int64_t m, int64_t n, int64_t k, int64_t batch, int multiprocessors, int planes,
                          bool whatever_shape = false) {
  Sm90Plan best{};
  // A tile half empty is no better than four of mma.sync's 64 x 64.
  if (!whatever_shape && (m < 64 || n < 64 || k < 64)) return best;
  for (const Sm90TileKind& tile : kSm90Tiles) {
    if (tile.planes != planes || (tile.columns > 128 && n <= 128)) continue;
    const int64_t count = (m + kSm90Rows - 1) / kSm90Rows * ((n + tile.columns - 1) / tile.columns) * batch;
    // Parts: at least 512 of k, and no more than there are multiprocessors for.
    constexpr int64_t kShortest = 512, kMostParts = 16, kStep = 64;
    const int64_t most = std::max<int64_t>(1, std::min({multiprocessors / count, k / kShortest, kMostParts}));
    for (int64_t wanted = 1; wanted <= most; ++wanted) {
      Sm90Plan plan{true, tile.columns, m > kSm90Rows ? 2 : 1, 1, k, 0};
      if (wanted > 1) {
        plan.k_each = ((k + wanted - 1) / wanted + kStep - 1) / kStep * kStep;
        plan.parts = (k + plan.k_each - 1) / plan.k_each;
      }
      const int64_t work = count * plan.parts, rounds = (work + multiprocessors - 1) / multiprocessors,
                    steps = (plan.k_each + tile.depth - 1) / tile.depth;
      const double computing =
          static_cast<double>(rounds) * (static_cast<double>(steps * tile.clocks) + Sm90Costs::kEnd);
      const int64_t element = 2 * std::max(planes, 1);
      const double reading = static_cast<double>((m + n) * k * batch * element) / Sm90Costs::kMemory,
                   cached = static_cast<double>(work * steps * tile.depth * element *
                                                (kSm90Rows + tile.columns / plan.cluster)) /
                            Sm90Costs::kCache;
      plan.clocks = Sm90Costs::kStart + std::max({computing, reading, cached}) + Sm90Costs::kLast;
      if (plan.parts > 1) {  // each part is written and read
        plan.clocks +=
            Sm90Costs::kLaunch + static_cast<double>(plan.parts * m * n * batch * 8) / Sm90Costs::kCache;
      }
      if (!best.fits || plan.clocks < best.clocks) best = plan;
    }
  }
  return best;
}

// Products with at most 128 rows (or columns): the other operand is large and read once.
struct FewPlan {
  bool fits;
  int few;                // 16, 32, 64 or 128 (float32: 64 or 128), to which the few are filled up
  int cluster;            // blocks that share a tile, each with its part of k
  int64_t parts, k_each;  // parts: sums of clusters that another kernel adds up; k_each: of a block
  double clocks;
};

// length: of the large operand; few: of the other one; planes: 3 of float32 (the only ones that there are), 0
// for 16-bit types.
inline FewPlan few_sm90_plan(int64_t length, int64_t few, int64_t k, int64_t batch, int multiprocessors,
                             int planes, bool whatever_shape = false) {
  FewPlan plan{};
  plan.fits = few <= 128 && (planes == 0 || planes == 3) && (whatever_shape || much_to_read(length, k));
  if (!plan.fits) return plan;
  plan.few = few <= 16 && planes == 0 ? 16 : few <= 32 && planes == 0 ? 32 : few <= 64 ? 64 : 128;
  // FewTile's rows, and how many of its blocks a multiprocessor has.
  const int64_t rows = plan.few > 64 && planes == 0 ? 256 : 128, each = plan.few > 64 || planes > 0 ? 1 : 2;
  const int64_t tiles = (length + rows - 1) / rows * batch, slots = multiprocessors * each;
  // As many blocks as run at the same time, and at least two steps for each.
  constexpr int64_t kStep = 64, kShortest = 2 * kStep, kMostCluster = 8, kMostParts = 16;
  int64_t cluster = 1;
  while (cluster < kMostCluster && tiles * cluster * 2 <= slots && k >= cluster * 2 * kShortest) cluster *= 2;
  plan.cluster = static_cast<int>(cluster);
  // Adding parts up costs a launch: what is done meanwhile has to be worth it.
  const int64_t element = planes > 0 ? 4 : 2, element_few = 2 * std::max(planes, 1);
  const double bytes = static_cast<double>(length * k * batch * element);
  const auto reading = [&](int64_t blocks) {
    const double share = Sm90Costs::kShare * static_cast<double>(std::min<int64_t>(blocks, multiprocessors));
    // The few are read again for each tile, from the cache.
    const double cached =
        bytes * (1 + static_cast<double>(few * element_few) / static_cast<double>(rows * element));
    return std::max({bytes / Sm90Costs::kMemory, cached / Sm90Costs::kCache, cached / share});
  };
  // Of a step: the tensor cores read the few for every instruction, and the large operand's 64 rows, if not
  // from registers. float32: six products.
  const int64_t products = planes > 0 ? 6 : 1;
  const double multiplying = static_cast<double>(rows * plan.few * kStep * products) / 2048,
               shared = static_cast<double>(2 * rows * kStep * element +
                                            plan.few * kStep * (element_few + products * 2 * rows / 64)) /
                        128;
  const auto k_of_a_block = [&](int64_t parts) {
    const int64_t shares = parts * cluster;
    return ((k + shares - 1) / shares + kStep - 1) / kStep * kStep;
  };
  const auto working = [&](int64_t parts) {
    const int64_t blocks = tiles * cluster * parts, rounds = (blocks + slots - 1) / slots;
    const double block =
        static_cast<double>(each * (k_of_a_block(parts) / kStep)) * std::max(multiplying, shared);
    return std::max(reading(blocks),
                    static_cast<double>(rounds) * (block + Sm90Costs::kBlock) - Sm90Costs::kBlock);
  };
  plan.parts = 1;
  const int64_t most =
      std::min({whatever_shape ? kMostParts : slots / (tiles * cluster), k / (cluster * 512), kMostParts});
  if (most > 1 && (whatever_shape || working(1) > working(most) + 2 * Sm90Costs::kLaunch)) plan.parts = most;
  plan.k_each = k_of_a_block(plan.parts);
  plan.parts = (k + plan.k_each * cluster - 1) / (plan.k_each * cluster);
  plan.clocks = Sm90Costs::kStart + working(plan.parts) + Sm90Costs::kLast;
  if (plan.parts > 1) plan.clocks += Sm90Costs::kLaunch;
  if (planes > 0) plan.clocks += Sm90Costs::kLaunch;  // splits the few
  return plan;
}

// float32 by the portable kernel (gemm_mma.cuh), which reads operands as they are. clocks: of 16 k of a
// block, of three and of two planes: the tensor cores' 8 for an mma, or what its warps issue to split values,
// whichever is more, and 0.3 of it for what they wait, which is assumed.
struct MmaBlockKind {
  int rows, columns, clocks[2];
};
constexpr MmaBlockKind kLargeBlock{128, 128, {2000, 1200}}, kSmallBlock{64, 64, {560, 400}},
    kNarrowBlock{128, 32, {560, 400}};

inline double mma_clocks(int64_t m, int64_t n, int64_t k, int64_t batch, int multiprocessors, int planes) {
  if (n > m && few_columns(n, m, k)) std::swap(m, n);  // few rows are computed as few columns
  const GemmPlan plan = gemm_plan(m, n, k, batch, multiprocessors, true);
  const MmaBlockKind& block = plan.narrow ? kNarrowBlock : plan.large ? kLargeBlock : kSmallBlock;
  const int64_t blocks =
      (m + block.rows - 1) / block.rows * ((n + block.columns - 1) / block.columns) * batch;
  const int64_t each = (blocks * plan.parts + multiprocessors - 1) / multiprocessors;
  const double computing = static_cast<double>(each * ((plan.k_each + 15) / 16) * block.clocks[planes == 2]),
               reading = static_cast<double>((m + n) * k * batch * 4) / Sm90Costs::kMemory;
  double clocks = Sm90Costs::kStart + std::max(computing, reading) + Sm90Costs::kLast;
  if (plan.parts > 1) {
    clocks += Sm90Costs::kLaunch + static_cast<double>(plan.parts * m * n * batch * 8) / Sm90Costs::kCache;
  }
  return clocks;
}

// Clocks of making planes of both operands beforehand, which tiles of float32 want: two launches, which read
// and write them.
inline double splitting_clocks(int64_t m, int64_t n, int64_t k, int64_t batch, int planes) {
  return 2 * Sm90Costs::kLaunch +
         static_cast<double>((m + n) * k * batch * (4 + 2 * planes)) / Sm90Costs::kMemory;
}

// The shortest way that there is.
enum class Sm90Way { portable, tiles, few };
struct Sm90Choice {
  Sm90Way way;
  Sm90Plan tiles;
  FewPlan few;
};
inline Sm90Choice sm90_choice(int64_t m, int64_t n, int64_t k, int64_t batch, int multiprocessors,
                              int planes) {
  Sm90Choice c{Sm90Way::portable, sm90_plan(m, n, k, batch, multiprocessors, planes),
               few_sm90_plan(std::max(m, n), std::min(m, n), k, batch, multiprocessors, planes)};
  if (planes > 0) c.tiles.clocks += splitting_clocks(m, n, k, batch, planes);
  if (c.tiles.fits) c.way = Sm90Way::tiles;
  if (c.few.fits && (!c.tiles.fits || c.few.clocks < c.tiles.clocks)) c.way = Sm90Way::few;
  // 16-bit products are the portable kernel's only where there is no other.
  if (planes > 0 && c.way != Sm90Way::portable &&
      mma_clocks(m, n, k, batch, multiprocessors, planes) <=
          (c.way == Sm90Way::few ? c.few.clocks : c.tiles.clocks)) {
    c.way = Sm90Way::portable;
  }
  return c;
}

}  // namespace fastdl::cuda
