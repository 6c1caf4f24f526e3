// A float32 number is the sum of three bfloat16 numbers (8 + 8 + 8 bits of mantissa), exactly. Of the nine
// products of two such sums, the six largest leave out no more than a float32 product's own rounding error:
// with |a1| <= 2^-8 |a| and |a2| <= 2^-17 |a|, the terms a2 b1, a1 b2 and a2 b2 are 2^-24 of a b together.
// The matrix unit does a bfloat16 product in a sixteenth of the time of a multiply-add, so that six of them
// cost 6/16. (G. Henry, P. T. P. Tang, A. Heinecke, "Leveraging the bfloat16 Artificial Intelligence Datatype
// for Higher-Precision Computations", ARITH 2019.) Three products keep some 16 bits, one keeps 8.
//
// The exponents must leave room: bfloat16 products take subnormal numbers for zero, an Inf has no second
// part. Packing notes the exponents of each panel. Where those of two panels do not fit together (`fits`
// below), each row of the tile decides by itself, and the rows that do not fit are multiplied and added: the
// bits of a row of C depend on that row of A and on B, never on other rows or on threads.
#include "cpu/gemm_split.h"

#include <algorithm>

#include "cpu/gemm_cut.h"
#include "cpu/gemm_split_planes.h"
#include "cpu/kernels.h"
#include "cpu/matrix_unit.h"
#include "cpu/parallel.h"

namespace fastdl::cpu {
namespace {

constexpr int kMaxProducts = 6, kTile = 32;
// Three planes of A and of B, 32 x 128 each, are 48 KiB: the five small products read them from the L1 cache.
constexpr int64_t kSubBlock = 128;
// Planes of a block of A stay in the L2 cache beside a panel of B; so much of B is packed at a time.
constexpr int64_t kABlock = 640 * 1024, kPackedB = int64_t{16} << 20;
// So many strips of B, and A is packed once, ahead, instead of once per strip.
constexpr int64_t kManyStrips = 3;
constexpr int32_t kBias = 127;

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

const Scheme& scheme_of(const Context* context) {
  switch (float32_precision(context)) {
    case FASTDL_PRECISION_HIGH:
      return kHigh;
    case FASTDL_PRECISION_MEDIUM:
      return kMedium;
    default:
      return kHighest;
  }
}

double cost_of(int64_t m, int64_t n, int64_t k) { return gemm_cost(m, n, k, 64); }

class Split {
 public:
  Split(Context* context, const Gemm<float>& g)
      : context_(context),
        g_(g),
        kernel_(*kernels().gemm_bf16),
        scheme_(scheme_of(context)),
        kc_(k_block(kernel_, g.k)) {
    for (int64_t k = 1; k < g.k; k *= 2) --most_exponents_;
  }

  void run() const {
    const int64_t mr = kernel_.mr, nr = kernel_.nr, panels = ceil_div(g_.n, nr), blocks = ceil_div(g_.k, kc_);
    const int64_t most = std::max<int64_t>(kABlock / (mr * kc_ * 2 * scheme_.planes), 2);
    // With one block of rows each panel of B is used once: its task packs it. Otherwise B is packed for all
    // tasks, all of K if that is little, else a block of K at a time.
    const bool ahead_b =
        !g_.split_b && cut_of(mr, nr, most, g_.m, g_.n, cost_of(g_.m, g_.n, g_.k)).rows < g_.m;
    const int64_t block_bytes = planes_of(nr, 0, kc_).bytes(1);
    const int64_t step = ahead_b ? std::clamp<int64_t>(kPackedB / (block_bytes * panels), 1, blocks) : blocks;
    const int64_t chunk =
        ahead_b ? std::min(panels, std::max<int64_t>(kPackedB / (block_bytes * step), 8)) : panels;
    for (int64_t jc = 0; jc < panels; jc += chunk) {
      const int64_t count = std::min(chunk, panels - jc), n = std::min(count * nr, g_.n - jc * nr);
      const GemmCut cut = cut_of(mr, nr, most, g_.m, n, cost_of(g_.m, n, g_.k));
      for (int64_t begin = 0; begin < g_.k; begin += step * kc_) {
        columns(jc * nr, n, begin, std::min(begin + step * kc_, g_.k), cut, ahead_b);
      }
    }
  }

 private:
  Planes planes_of(int64_t lanes, int64_t begin, int64_t end) const {
    return {nullptr, nullptr, lanes, kernel_.k_step, kc_, begin, end, scheme_.planes};
  }

  // C[all rows x n columns from `col` on] += the products over k in [begin, end).
  void columns(int64_t col, int64_t n, int64_t begin, int64_t end, const GemmCut& cut, bool ahead_b) const {
    const int64_t mr = kernel_.mr, nr = kernel_.nr;
    const int64_t strips = ceil_div(n, cut.cols), tasks = ceil_div(g_.m, cut.rows) * strips;
    const int64_t tiles = strips >= kManyStrips ? ceil_div(g_.m, mr) : 0,
                  panels = ahead_b ? ceil_div(n, nr) : 0;
    Planes a = planes_of(mr, begin, end), b = planes_of(nr, begin, end);
    const Workspace a_space(context_, static_cast<size_t>(a.bytes(tiles)));
    const Workspace b_space(context_, static_cast<size_t>(b.bytes(panels)));
    a.place(a_space.as<void>(), tiles);
    b.place(b_space.as<void>(), panels);
    parallel_for(context_, tiles + panels, cost_of(mr, nr, end - begin), [&](int64_t p) {
      for (int64_t k0 = begin; k0 < end; k0 += kc_) {
        const int64_t k = std::min(kc_, end - k0);
        if (p < tiles) {
          a.range(p, k0) = split_a_block(kernel_, g_, a.planes, p * mr, k0, k, a.at(p, k0)).range;
        } else {
          const int64_t q = p - tiles;
          b.range(q, k0) = split_b_block(kernel_, g_, b.planes, col + q * nr, k0, k, b.at(q, k0)).range;
        }
      }
    });
    parallel_for(context_, tasks, cost_of(cut.rows, cut.cols, end - begin), [&](int64_t task) {
      const int64_t row = task / strips * cut.rows, first = task % strips * cut.cols;
      block(row, std::min(cut.rows, g_.m - row), col, first, std::min(cut.cols, n - first), begin, end,
            tiles ? &a : nullptr, panels ? &b : nullptr);
    });
  }

  // C[rows x cols] at (row, col + first). What is not packed is packed here, one K block at a time.
  void block(int64_t row, int64_t rows, int64_t col, int64_t first, int64_t cols, int64_t begin, int64_t end,
             const Planes* a_ahead, const Planes* b_ahead) const {
    const MatrixUnit unit(kernel_);
    const int64_t mr = kernel_.mr, nr = kernel_.nr, tiles = ceil_div(rows, mr);
    const int64_t size = planes_of(mr, 0, kc_).panel();
    Planes given{};
    if (g_.split_b) {
      given = all_of_b(kernel_, g_.k);
      given.place(const_cast<void*>(g_.split_b), ceil_div(g_.n, nr));  // and only read
    }
    const Workspace a_space(context_, a_ahead ? 0 : static_cast<size_t>(tiles * size) * 2);
    const Workspace b_space(
        context_, b_ahead || g_.split_b ? 0 : static_cast<size_t>(planes_of(nr, 0, kc_).panel()) * 2);
    const Workspace row_space(context_, static_cast<size_t>(tiles) * sizeof(RowBlock));
    RowBlock* const a = row_space.as<RowBlock>();
    for (int64_t k0 = begin; k0 < end; k0 += kc_) {
      const int64_t k = std::min(kc_, end - k0);
      for (int64_t i = 0; i < tiles; ++i) {
        a[i].known = false;
        a[i].panel = a_ahead ? a_ahead->block(row / mr + i, k0)
                             : split_a_block(kernel_, g_, scheme_.planes, row + i * mr, k0, k,
                                             a_space.as<bfloat16>() + i * size);
      }
      for (int64_t j = first; j < first + cols; j += nr) {
        const PanelBlock b =
            g_.split_b ? given.block((col + j) / nr, k0)
            : b_ahead  ? b_ahead->block(j / nr, k0)
                       : split_b_block(kernel_, g_, scheme_.planes, col + j, k0, k, b_space.as<bfloat16>());
        for (int64_t i = 0; i < tiles; ++i) {
          tile({row + i * mr, col + j, std::min(mr, row + rows - (row + i * mr)),
                std::min(nr, first + cols - j), k0, k},
               a[i], b);
        }
      }
    }
    const fastdl_activation& f = g_.end.activation;
    if (end < g_.k || f.kind == FASTDL_ACT_NONE || f.kind == FASTDL_ACT_RELU) return;
    const auto& activation = table_for<float>(*kernels().activation);
    for (int64_t r = row; r < row + rows; ++r) {
      float* const c = g_.c + r * g_.ldc + col + first;
      activation.forward(f, cols, c, c);
    }
  }

  // One K block of a tile's rows of A.
  struct RowBlock {
    PanelBlock panel;
    bool known;
    ExponentRange rows[kTile];  // if known
  };
  struct Place {  // of a tile, and its block of K
    int64_t row, col, rows, cols, k0, k;
  };

  // See the top. |x| >= 2^-100 has its last bit above 2^-126, what rounds up below 2^127 stays finite, and
  // sums of K of the largest products, below 2^(2 + the sum of their exponents), stay below 2^127. The five
  // small products may each lose 2^-126, which is rounding error to a product of 2^-96.
  bool fits(const ExponentRange& a, const ExponentRange& b) const {
    return a.low >= kBias - 100 && b.low >= kBias - 100 && a.high < kBias + 127 && b.high < kBias + 127 &&
           a.low + b.low >= 2 * kBias - 96 && a.high + b.high <= most_exponents_;
  }

  void tile(const Place& at, RowBlock& a, const PanelBlock& b) const {
    Bf16Tile t = tile_at(at);
    if (fits(a.panel.range, b.range)) return products(t, a.panel, b, at.k);
    if (!a.known) {
      for (int64_t r = 0; r < at.rows; ++r) {
        a.rows[r] = range_of(g_.a + (at.row + r) * g_.a_row + at.k0 * g_.a_k, g_.a_k, at.k);
      }
      a.known = true;
    }
    bool good[kTile], any = false;
    for (int64_t r = 0; r < at.rows; ++r) any |= good[r] = fits(a.rows[r], b.range);
    alignas(64) float sums[kTile * kTile];
    if (any) {
      t.sums = sums;
      t.ld_sums = kTile;
      t.finish = false;
      products(t, a.panel, b, at.k);
    }
    for (int64_t r = 0, next; r < at.rows; r = next) {
      for (next = r + 1; next < at.rows && good[next] == good[r];) ++next;
      Place part = at;
      part.row += r;
      part.rows = next - r;
      if (!good[r]) {
        multiply_adds(part);
        continue;
      }
      t = tile_at(part);
      t.sums = sums + r * kTile;
      t.ld_sums = kTile;
      kernel_.finish(t);
    }
  }

  // Between blocks of K the sums wait in C.
  GemmEpilogue<float> end_at(const Place& at) const {
    GemmEpilogue<float> end = g_.end;
    if (at.k0 > 0) end.beta = 1;
    const bool last = at.k0 + at.k == g_.k;
    end.bias = last && end.bias ? end.bias + at.col : nullptr;
    end.residual = last && end.residual ? end.residual + at.row * end.ld_residual + at.col : nullptr;
    if (!last || end.activation.kind != FASTDL_ACT_RELU) end.activation = {FASTDL_ACT_NONE, 0, 0};
    return end;
  }

  Bf16Tile tile_at(const Place& at) const {
    const GemmEpilogue<float> end = end_at(at);
    Bf16Tile t{};
    t.rows = static_cast<int>(at.rows);
    t.cols = static_cast<int>(at.cols);
    t.finish = true;
    t.alpha = end.alpha;
    t.beta = end.beta;
    t.c32 = g_.c + at.row * g_.ldc + at.col;
    t.ldc = g_.ldc;
    t.bias32 = end.bias;
    t.residual32 = end.residual;
    t.ld_residual = end.ld_residual;
    t.relu = end.activation.kind == FASTDL_ACT_RELU;
    return t;
  }

  void products(Bf16Tile& t, const PanelBlock& a, const PanelBlock& b, int64_t k) const {
    Bf16Piece pieces[kKBlock / kSubBlock * kMaxProducts];
    const auto add = [&](const Product& p, int64_t k0, int64_t steps) {
      pieces[t.count++] = {a.data + p.a * a.plane + k0 * kernel_.mr, b.data + p.b * b.plane + k0 * kernel_.nr,
                           steps};
    };
    // The largest terms last: their sum alone is rounded at its full size, once per step of tiles.
    for (int64_t k0 = 0; k0 < k; k0 += kSubBlock) {
      for (int s = 0; s + 1 < scheme_.products; ++s) {
        add(scheme_.product[s], k0, std::min(kSubBlock, k - k0));
      }
    }
    add(scheme_.product[scheme_.products - 1], 0, k);
    t.pieces = pieces;
    t.a_row = kernel_.k_step;
    t.a_step = kernel_.mr * kernel_.k_step;
    kernel_.tile(t);
  }

  void multiply_adds(const Place& at) const {
    const int64_t nr = gemm_kernels_of<float>(*kernels().gemm).nr;
    Gemm<float> part = g_;
    part.m = at.rows;
    part.k = at.k;
    part.a += at.row * g_.a_row + at.k0 * g_.a_k;
    part.packed_b = nullptr;
    for (int64_t j = 0; j < at.cols; j += nr) {
      Place here = at;
      here.col += j;
      part.n = std::min(nr, at.cols - j);
      part.c = g_.c + at.row * g_.ldc + here.col;
      part.end = end_at(here);
      if (g_.packed_b) {  // a panel's rows lie side by side
        part.b = g_.packed_b + here.col * g_.k + at.k0 * nr;
        part.b_k = nr;
        part.b_n = 1;
      } else {
        part.b = g_.b + at.k0 * g_.b_k + here.col * g_.b_n;
      }
      gemm_in_tiles(context_, part);
    }
  }

  Context* context_;
  const Gemm<float>& g_;
  const Bf16Kernels& kernel_;
  const Scheme& scheme_;
  int64_t kc_;
  int32_t most_exponents_ = 2 * kBias + 125;  // less log2(k), rounded up
};

}  // namespace

// Counted, in float32 multiply-adds of one thread: `products` bfloat16 products of whole tile registers at 16
// times the speed, and 8 a plane for each element that is cut and packed (0.75 cycles for three planes, at
// two 16-lane multiply-adds a cycle).
bool split_pays(const Context* context, const Gemm<float>& g) {
  constexpr double kRate = 16;
  const Bf16Kernels* const kernel = unit_kernels();
  if (!kernel || (g.packed_b && !g.split_b) || g.m < kLeastLanes || g.n < kLeastLanes ||
      g.k < kernel->k_step) {
    return false;
  }
  const Scheme& scheme = scheme_of(context);
  const auto product = [](int64_t m, int64_t n, int64_t k) { return gemm_cost(m, n, k, 1); };
  const double packing = product(g.k, g.split_b ? g.m : g.m + g.n, 8 * scheme.planes);
  const double tiles =
      product(round_up(g.m, kLeastLanes), round_up(g.n, kLeastLanes), round_up(g.k, kernel->k_step));
  return tiles * scheme.products / kRate + packing < product(g.m, g.n, g.k);
}

void gemm_split(Context* context, const Gemm<float>& g) { Split(context, g).run(); }

}  // namespace fastdl::cpu
