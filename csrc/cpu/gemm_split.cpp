// A float32 number is the sum of three bfloat16 numbers (8 + 8 + 8 bits of mantissa), exactly. Of the nine
// products of two such sums, the six largest leave out less than a float32 product's own rounding error: a2
// b1, a1 b2 and a2 b2 are below 2^-24 of a b. The matrix unit does a bfloat16 product in a sixteenth of the
// time of a multiply-add, so that six of them cost 6/16. (G. Henry, P. T. P. Tang, A. Heinecke, "Leveraging
// the bfloat16 Artificial Intelligence Datatype for Higher-Precision Computations", ARITH 2019.) Three
// products keep some 16 bits, one keeps 8.
//
// The exponents must leave room: bfloat16 products take subnormal numbers for zero, an Inf has no second
// part. Packing notes the exponents of each panel; a tile whose two panels do not fit (`fits` below) is
// computed with multiply-adds. The choice depends on the data alone, never on threads.
#include "cpu/gemm_split.h"

#include <algorithm>

#include "cpu/gemm_bf16.h"
#include "cpu/gemm_cut.h"
#include "cpu/kernels.h"
#include "cpu/matrix_unit.h"
#include "cpu/parallel.h"

namespace fastdl::cpu {
namespace {

constexpr int kMaxProducts = 6, kTile = 32;
// Three planes of A and of B, 32 x 128 each, are 48 KiB: the six products read them from the L1 cache.
constexpr int64_t kSubBlock = 128;
// Planes of a block of A stay in the L2 cache; of B, so much is packed at a time.
constexpr int64_t kABlock = 640 * 1024, kPackedB = int64_t{16} << 20;
constexpr int64_t kSumCols = 512;
// Below this, splitting and packing outweigh the faster products.
constexpr int64_t kLeast = 32;

struct Product {
  int a, b;  // planes
};
struct Scheme {
  int planes, products;
  Product product[kMaxProducts];  // the smallest terms first
};
constexpr Scheme kHighest{3, 6, {{2, 0}, {0, 2}, {1, 1}, {1, 0}, {0, 1}, {0, 0}}};
constexpr Scheme kHigh{2, 3, {{1, 0}, {0, 1}, {0, 0}}};
constexpr Scheme kMedium{1, 1, {{0, 0}}};

const Scheme& scheme_of(Context* context) {
  switch (float32_precision(context)) {
    case FASTDL_PRECISION_HIGH:
      return kHigh;
    case FASTDL_PRECISION_MEDIUM:
      return kMedium;
    default:
      return kHighest;
  }
}

// Every part of every element is a normal number (2^-100 leaves room for the third, 2^-16 of the first),
// rounding the first part does not overflow, the smallest products are 2^-100 and more (what is flushed at
// 2^-126 is then below rounding), and sums of 2^16 of the largest stay finite.
bool fits(const ExponentRange& a, const ExponentRange& b) {
  constexpr int32_t kBias = 127;
  return a.low >= kBias - 100 && b.low >= kBias - 100 && a.high < kBias + 127 && b.high < kBias + 127 &&
         a.low + b.low >= 2 * kBias - 100 && a.high + b.high <= 2 * kBias + 109;
}

double cost_of(int64_t m, int64_t n, int64_t k) { return gemm_cost(m, n, k, 64); }
int64_t round_up(int64_t x, int64_t step) { return ceil_div(x, step) * step; }

using FGemm = Gemm<float>;

// B's panels, cut into planes: panel p at data + p * size, its block of K from k0 on at + planes * nr * k0,
// plane s of the block at + s * nr * (the block's k, rounded up).
struct SplitPanels {
  bfloat16* data;
  ExponentRange* ranges;  // [panel][block]
  int64_t size, blocks;
};

class Split {
 public:
  Split(Context* context, const FGemm& g)
      : context_(context), g_(g), kernel_(*kernels().gemm_bf16), scheme_(scheme_of(context)) {
    const int64_t step = kernel_.k_step;
    kc_ = std::max(round_up(ceil_div(g.k, std::max<int64_t>(ceil_div(g.k, kernel_.kc / 2), 1)), step), step);
    blocks_ = std::max<int64_t>(ceil_div(g.k, kc_), 1);
  }

  void run() const {
    const int64_t nr = kernel_.nr, panels = ceil_div(g_.n, nr);
    const int64_t size = scheme_.planes * nr * round_up(g_.k, kernel_.k_step);
    const int64_t chunk = std::min(panels, std::max<int64_t>(kPackedB / (size * 2), 8));
    const Workspace space(context_, static_cast<size_t>(chunk * size) * 2);
    const Workspace range_space(context_, static_cast<size_t>(chunk * blocks_) * sizeof(ExponentRange));
    const SplitPanels b{space.as<bfloat16>(), range_space.as<ExponentRange>(), size, blocks_};
    for (int64_t jc = 0; jc < panels; jc += chunk) {
      const int64_t count = std::min(chunk, panels - jc), n = std::min(count * nr, g_.n - jc * nr);
      pack_b(jc, count, b);
      const int64_t most = std::max<int64_t>(kABlock / (kernel_.mr * kc_ * 2 * scheme_.planes), 2);
      GemmCut cut = cut_of(kernel_.mr, nr, most, g_.m, n, cost_of(g_.m, n, g_.k));
      if (blocks_ > 1) cut.cols = std::min(cut.cols, kSumCols);
      const int64_t strips = ceil_div(n, cut.cols), tasks = ceil_div(g_.m, cut.rows) * strips;
      parallel_for(context_, tasks, cost_of(cut.rows, cut.cols, g_.k), [&](int64_t task) {
        const int64_t row = task / strips * cut.rows, col = task % strips * cut.cols;
        block(row, std::min(cut.rows, g_.m - row), jc * nr + col, std::min(cut.cols, n - col), b, col / nr);
      });
    }
  }

 private:
  void pack_b(int64_t first, int64_t count, const SplitPanels& out) const {
    const int64_t nr = kernel_.nr;
    parallel_for(context_, count, static_cast<double>(out.size) / 4, [&](int64_t p) {
      const int64_t col = (first + p) * nr;
      const int cols = static_cast<int>(std::min(nr, g_.n - col));
      for (int64_t block = 0, pc = 0; pc < g_.k; ++block, pc += kc_) {
        const int64_t k = std::min(kc_, g_.k - pc);
        out.ranges[p * blocks_ + block] = kernel_.split_b(
            g_.b + pc * g_.b_k + col * g_.b_n, g_.b_k, g_.b_n, k, cols, scheme_.planes,
            out.data + p * out.size + scheme_.planes * nr * pc, nr * round_up(k, kernel_.k_step));
      }
    });
  }

  // C[rows x cols] at (row, col), whose first panel is the chunk's `panel`.
  void block(int64_t row, int64_t rows, int64_t col, int64_t cols, const SplitPanels& b,
             int64_t panel) const {
    const MatrixUnit unit(kernel_);
    const int64_t mr = kernel_.mr, nr = kernel_.nr,
                  height = round_up(std::min(rows, mr), kernel_.height_step);
    const int64_t tiles = ceil_div(rows, mr), planes = scheme_.planes;
    const Workspace a_space(context_, static_cast<size_t>(tiles * planes * height * kc_) * 2);
    const Workspace range_space(context_, static_cast<size_t>(tiles) * sizeof(ExponentRange));
    const Workspace sum_space(context_, static_cast<size_t>(blocks_ > 1 ? rows * cols : 0) * sizeof(float));
    bfloat16* const a = a_space.as<bfloat16>();
    ExponentRange* const ranges = range_space.as<ExponentRange>();
    for (int64_t pc = 0, kb = 0; pc < g_.k; pc += kc_, ++kb) {
      const int64_t k = std::min(kc_, g_.k - pc), padded = round_up(k, kernel_.k_step);
      for (int64_t i = 0; i < tiles; ++i) {
        ranges[i] = kernel_.split_a(g_.a + (row + i * mr) * g_.a_row + pc * g_.a_k, g_.a_row, g_.a_k, k,
                                    static_cast<int>(std::min(mr, rows - i * mr)), static_cast<int>(height),
                                    scheme_.planes, a + i * planes * height * padded, height * padded);
      }
      for (int64_t j = 0; j < cols; j += nr) {
        const bfloat16* const b_block = b.data + (panel + j / nr) * b.size + planes * nr * pc;
        const ExponentRange& b_range = b.ranges[(panel + j / nr) * b.blocks + kb];
        for (int64_t i = 0; i < tiles; ++i) {
          Bf16Tile t = tile_at(row + i * mr, col + j, std::min(mr, rows - i * mr), std::min(nr, cols - j));
          alignas(64) float local[kTile * kTile];
          t.sums = blocks_ > 1 ? sum_space.as<float>() + i * mr * cols + j : local;
          t.ld_sums = blocks_ > 1 ? cols : kTile;
          t.resume = pc > 0;
          t.finish = pc + k == g_.k;
          if (fits(ranges[i], b_range)) {
            products(t, a + i * planes * height * padded, b_block, k, padded, height);
          } else {
            multiply_adds(t, row + i * mr, col + j, pc, k);
          }
        }
      }
    }
    const fastdl_activation& f = g_.end.activation;
    if (f.kind == FASTDL_ACT_NONE || f.kind == FASTDL_ACT_RELU) return;  // done in registers
    const auto& activation = table_for<float>(*kernels().activation);
    for (int64_t r = row; r < row + rows; ++r) {
      float* const c = g_.c + r * g_.ldc + col;
      activation.forward(f, cols, c, c);
    }
  }

  Bf16Tile tile_at(int64_t row, int64_t col, int64_t rows, int64_t cols) const {
    Bf16Tile t{};
    t.rows = static_cast<int>(rows);
    t.cols = static_cast<int>(cols);
    t.c32 = g_.c + row * g_.ldc + col;
    t.ldc = g_.ldc;
    t.alpha = g_.end.alpha;
    t.beta = g_.end.beta;
    t.bias32 = g_.end.bias ? g_.end.bias + col : nullptr;
    t.residual32 = g_.end.residual ? g_.end.residual + row * g_.end.ld_residual + col : nullptr;
    t.ld_residual = g_.end.ld_residual;
    t.relu = g_.end.activation.kind == FASTDL_ACT_RELU;
    return t;
  }

  void products(Bf16Tile t, const bfloat16* a, const bfloat16* b, int64_t k, int64_t padded,
                int64_t height) const {
    constexpr int64_t kMostPieces = 96;
    Bf16Piece pieces[kMostPieces];
    t.pieces = pieces;
    t.a_row = kernel_.k_step;
    t.a_step = height * kernel_.k_step;
    const bool finish = t.finish;
    for (int64_t k0 = 0; k0 < k;) {
      t.count = 0;
      for (; k0 < k && t.count + scheme_.products <= kMostPieces; k0 += kSubBlock) {
        for (int s = 0; s < scheme_.products; ++s) {
          const Product& p = scheme_.product[s];
          pieces[t.count++] = {a + p.a * height * padded + k0 * height,
                               b + p.b * kernel_.nr * padded + k0 * kernel_.nr, std::min(kSubBlock, k - k0)};
        }
      }
      t.finish = finish && k0 >= k;
      kernel_.tile(t);
      t.resume = true;
    }
  }

  // The same tile without splitting.
  void multiply_adds(const Bf16Tile& t, int64_t row, int64_t col, int64_t pc, int64_t k) const {
    const GemmKernelsOf<float>& fma = gemm_kernels_of<float>(*kernels().gemm);
    const Workspace panel(context_, static_cast<size_t>(fma.nr * k) * sizeof(float));
    for (int j = 0; j < t.cols; j += fma.nr) {
      const int cols = std::min(fma.nr, t.cols - j);
      fma.pack(g_.b + pc * g_.b_k + (col + j) * g_.b_n, g_.b_k, g_.b_n, k, cols, fma.nr, panel.as<float>());
      for (int i = 0; i < t.rows; i += fma.mr) {
        GemmPiece<float> piece{g_.a + (row + i) * g_.a_row + pc * g_.a_k, panel.as<float>(), k};
        GemmTile<float> f{};
        f.pieces = &piece;
        f.count = 1;
        f.a_row = g_.a_row;
        f.a_k = g_.a_k;
        f.b_k = fma.nr;
        f.rows = std::min(fma.mr, t.rows - i);
        f.cols = cols;
        f.c = t.sums + i * t.ld_sums + j;
        f.ldc = t.ld_sums;
        f.alpha = 1;
        f.beta = t.resume ? 1.f : 0.f;
        gemm_tile(fma, f);
      }
    }
    if (t.finish) kernel_.finish(t);
  }

  Context* context_;
  const FGemm& g_;
  const Bf16Kernels& kernel_;
  const Scheme& scheme_;
  int64_t kc_, blocks_;
};

}  // namespace

bool split_pays(Context* context, const FGemm& g) {
  const Bf16Kernels* kernel = kernels().gemm_bf16;
  if (!kernel || g.packed_b || g.a_packer.pack || g.b_packer.pack) return false;
  if (g.m < kLeast || g.n < kLeast || g.k < kLeast) return false;
  // Without a matrix unit a bfloat16 product takes half a multiply-add: only a single one is a gain.
  return kernel->split || float32_precision(context) == FASTDL_PRECISION_MEDIUM;
}

void gemm_split(Context* context, const FGemm& g) { Split(context, g).run(); }

}  // namespace fastdl::cpu
