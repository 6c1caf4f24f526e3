// The loops around the bfloat16 tiles: as gemm.cpp's, with B always in packed panels and float32 sums between
// blocks of K.
#include "cpu/gemm_bf16.h"

#include <algorithm>

#include "cpu/gemm_batch.h"
#include "cpu/gemm_bf16_end.h"
#include "cpu/gemm_cut.h"
#include "cpu/gemm_few_rows.h"
#include "cpu/kernels.h"
#include "cpu/matrix_unit.h"
#include "cpu/parallel.h"

namespace fastdl::cpu {
namespace {

using BGemm = Gemm<bfloat16>;

// Some 64 multiply-adds take the time of an elementary operation.
double cost_of(int64_t m, int64_t n, int64_t k) { return gemm_cost(m, n, k, 64); }

// Rows of an operand whose lanes are contiguous (B as it is, A transposed) are packed in slabs of so many,
// all panels of a slab before the next slab: each row is read in one run, and the rows of a slab share an
// L1 cache set even if they are a multiple of a page apart.
constexpr int64_t kSlab = 8;
constexpr int64_t kTaskSteps = 64;  // of such an operand, packed by one task
// Operands at least so far apart, a multiple of a page, fall into the same few sets of the L1 cache: rows of
// A, if more than kAliasedRows, do not stay there from one step of k to the next.
constexpr int64_t kPage = 4096, kAliasedRows = 8;

Bf16Tile tile_at(const BGemm& g, int64_t row, int64_t col, int64_t rows, int64_t cols) {
  Bf16Tile t{};
  t.rows = static_cast<int>(rows);
  t.cols = static_cast<int>(cols);
  t.c = g.c ? g.c + row * g.ldc + col : nullptr;
  t.c32 = g.c32 ? g.c32 + row * g.ldc + col : nullptr;
  t.ldc = g.ldc;
  t.alpha = g.end.alpha;
  t.beta = g.end.beta;
  t.bias = g.end.bias ? g.end.bias + col : nullptr;
  t.residual = g.end.residual ? g.end.residual + row * g.end.ld_residual + col : nullptr;
  t.ld_residual = g.end.ld_residual;
  t.relu = g.end.activation.kind == FASTDL_ACT_RELU;
  t.finish = true;
  return t;
}

// A product and how it is done.
struct Job {
  const Bf16Kernels& kernel;
  const BGemm& g;
  int64_t mr, height;                  // rows of a tile, of a packed panel of A
  int64_t kc;                          // K block
  bool pack_a;                         // by each task
  const bfloat16* a_panels = nullptr;  // or packed for all tasks
  const bfloat16* b_panels = nullptr;  // or null: packed by each task
  int64_t b_col = 0;                   // the first column of b_panels

  Job(const Bf16Kernels& k, const BGemm& problem) : kernel(k), g(problem) {
    const int64_t m = g.m;
    mr = m <= k.mr ? m : k.height_step > 1 ? k.mr : ceil_div(m, ceil_div(m, k.mr));  // even tiles
    height = round_up(mr, k.height_step);
    set_kc(k.kc);
    const bool aliased = std::min(mr, m) > kAliasedRows && g.a_row * 2 % kPage == 0;
    pack_a = g.a_k != 1 || (k.height_step > 1 ? g.n > 2 * k.nr : aliased);
  }
  void set_kc(int64_t most) {
    const int64_t step = kernel.k_step;
    kc = std::max(round_up(ceil_div(g.k, std::max<int64_t>(ceil_div(g.k, most), 1)), step), step);
  }
  int64_t k_all() const { return round_up(g.k, kernel.k_step); }
};

// pack(k0, k, lane, lanes) for all panels of `width` lanes, in slabs where the lanes are contiguous.
template <class Pack>
void for_panels(const Bf16Kernels& kernel, bool contiguous, int64_t k, int64_t lanes, int64_t width,
                Pack&& pack) {
  const int64_t slab = contiguous ? std::max<int64_t>(kSlab, kernel.k_step) : std::max<int64_t>(k, 1);
  for (int64_t k0 = 0; k0 < k; k0 += slab) {
    for (int64_t i = 0; i < lanes; i += width) {
      pack(k0, std::min(slab, k - k0), i, std::min(width, lanes - i));
    }
  }
}

// A[row.., k0..] as panels `length` steps of k long.
void pack_rows(const Job& job, int64_t row, int64_t rows, int64_t k0, int64_t k, int64_t length,
               bfloat16* out) {
  const BGemm& g = job.g;
  for_panels(job.kernel, g.a_row == 1, k, rows, job.mr,
             [&](int64_t at, int64_t steps, int64_t i, int64_t lanes) {
               job.kernel.pack_a(g.a + (row + i) * g.a_row + (k0 + at) * g.a_k, g.a_row, g.a_k, steps,
                                 static_cast<int>(lanes), static_cast<int>(job.height),
                                 out + i / job.mr * job.height * length + at * job.height);
             });
}

// B[k0.., col..] as panels `length` steps of k long.
void pack_columns(const Bf16Kernels& kernel, const BGemm& g, int64_t col, int64_t cols, int64_t k0, int64_t k,
                  int64_t length, bfloat16* out) {
  for_panels(kernel, g.b_n == 1, k, cols, kernel.nr,
             [&](int64_t at, int64_t steps, int64_t j, int64_t lanes) {
               kernel.pack_b(g.b + (k0 + at) * g.b_k + (col + j) * g.b_n, g.b_k, g.b_n, steps,
                             static_cast<int>(lanes), out + j * length + at * kernel.nr);
             });
}

struct Block {
  int64_t row, col, rows, cols;
};

// B[k0.., col..], to be packed next, where it lies; nothing if it is not made of rows or columns.
GemmAhead ahead_of(const BGemm& g, int64_t col, int64_t cols, int64_t k0, int64_t k) {
  constexpr int64_t line = 64, size = sizeof(bfloat16);
  const char* const at = reinterpret_cast<const char*>(g.b + k0 * g.b_k + col * g.b_n);
  if (cols <= 0 || k <= 0 || (g.b_n != 1 && g.b_k != 1)) return {at, nullptr, 0, 0, 0};
  const int64_t width = round_up((g.b_n == 1 ? cols : k) * size, line);
  return {at, at + width, (g.b_n == 1 ? g.b_k : g.b_n) * size, g.b_n == 1 ? k : cols, width};
}

// C[block] over all of K.
void compute_block(Context* context, const Job& job, const Block& block) {
  const Bf16Kernels& kernel = job.kernel;
  const BGemm& g = job.g;
  const MatrixUnit unit(kernel);
  const int64_t mr = job.mr, height = job.height, nr = kernel.nr, step = kernel.k_step, kc = job.kc;
  const int64_t k_all = job.k_all();
  const bool one = kc >= g.k, pack_a = job.pack_a && !job.a_panels, packed_a = job.pack_a || job.a_panels;
  Workspace a_space(context, pack_a ? static_cast<size_t>(ceil_div(block.rows, mr) * height * kc) * 2 : 0);
  Workspace b_space(context, job.b_panels ? 0 : static_cast<size_t>(round_up(block.cols, nr) * kc) * 2);
  Workspace sum_space(context, one ? 0 : static_cast<size_t>(block.rows * block.cols) * 4);
  bfloat16 *const a_packed = a_space.as<bfloat16>(), *const b_packed = b_space.as<bfloat16>();
  alignas(64) float scratch[32 * 32];
  int64_t pc = 0;
  do {  // blocks of K; once even if K is empty
    const int64_t k = std::min(kc, g.k - pc), padded = round_up(k, step);
    if (pack_a) pack_rows(job, block.row, block.rows, pc, k, padded, a_packed);
    if (!job.b_panels) pack_columns(kernel, g, block.col, block.cols, pc, k, padded, b_packed);
    // The next block of this strip, or the first one of the next strip.
    const bool more = pc + k < g.k;
    const int64_t next_col = more ? block.col : block.col + block.cols;
    GemmAhead ahead = job.b_panels ? GemmAhead{}
                                   : ahead_of(g, next_col, std::min(block.cols, g.n - next_col),
                                              more ? pc + k : 0, std::min(kc, more ? g.k - pc - k : g.k));
    for (int64_t j = 0; j < block.cols; j += nr) {
      Bf16Piece piece{nullptr, nullptr, k};
      piece.b =
          job.b_panels ? job.b_panels + (block.col - job.b_col + j) * k_all + pc * nr : b_packed + j * padded;
      if (job.b_panels && j + nr < block.cols) {  // the next panel
        const char* const at = reinterpret_cast<const char*>(piece.b + nr * k_all);
        ahead = {at, at + padded * nr * 2, 0, 1, padded * nr * 2};
      }
      for (int64_t i = 0; i < block.rows; i += mr) {
        const int64_t row = block.row + i;
        Bf16Tile t =
            tile_at(g, row, block.col + j, std::min(mr, block.rows - i), std::min(nr, block.cols - j));
        piece.a = job.a_panels ? job.a_panels + row / mr * height * k_all + pc * height
                  : pack_a     ? a_packed + i / mr * height * padded
                               : g.a + row * g.a_row + pc;
        t.pieces = &piece;
        t.count = 1;
        t.a_row = packed_a ? step : g.a_row;
        t.a_step = packed_a ? height * step : step;
        t.ahead = ahead.rows > 0 ? &ahead : nullptr;
        t.resume = pc > 0;
        t.finish = pc + k == g.k;
        if (!one) {
          t.sums = sum_space.as<float>() + i * block.cols + j;
          t.ld_sums = block.cols;
        }
        run_end(g.end.activation, t, scratch, kernel.tile);
      }
    }
    pc += k;
  } while (pc < g.k);
}

// All of A, in panels over all of K.
void pack_all_rows(Context* context, const Job& job, bfloat16* out) {
  const int64_t panels = ceil_div(job.g.m, job.mr), length = job.k_all();
  parallel_ranges(context, panels, 4, static_cast<double>(job.mr * length) / 8,
                  [&](int64_t begin, int64_t end) {
                    const int64_t row = begin * job.mr;
                    pack_rows(job, row, std::min(end * job.mr, job.g.m) - row, 0, job.g.k, length,
                              out + begin * job.height * length);
                  });
}

// `count` panels of B from panel `first` on, over all of K.
void pack_panels(Context* context, const Bf16Kernels& kernel, const BGemm& g, int64_t first, int64_t count,
                 bfloat16* out) {
  const int64_t nr = kernel.nr, length = round_up(g.k, kernel.k_step), col0 = first * nr;
  const bool slabs = g.b_n == 1;
  const int64_t width = slabs ? 16 : 1, strips = ceil_div(count, width);  // panels of a task
  const int64_t depth = slabs ? kTaskSteps : std::max<int64_t>(g.k, 1), tasks = strips * ceil_div(g.k, depth);
  parallel_for(context, tasks, static_cast<double>(width * nr * depth) / 8, [&](int64_t task) {
    const int64_t p = task % strips * width, k0 = task / strips * depth, col = col0 + p * nr;
    pack_columns(kernel, g, col, std::min(std::min(p + width, count) * nr, g.n - col0) - p * nr, k0,
                 std::min(depth, g.k - k0), length, out + p * nr * length + k0 * nr);
  });
}

// Up to so many rows each task packs its own strip of B, a block of K at a time: it stays in the L2 cache,
// beside the block of A.
constexpr int64_t kStripRows = 768, kStripCols = 256, kStripBytes = 256 << 10, kStripA = 512 << 10;
constexpr int64_t kStrips = 16;                       // wanted, to balance a few threads
constexpr int64_t kStripPackedA = int64_t{16} << 20;  // most bytes of A to be packed for all strips

void gemm_strips(Context* context, Job job) {
  const BGemm& g = job.g;
  const int64_t nr = job.kernel.nr, panels = ceil_div(g.n, nr);
  const int64_t cols = std::max<int64_t>(std::min(panels / kStrips, kStripCols / nr), 1) * nr;
  if (!g.packed_b) job.set_kc(std::max<int64_t>(std::min(kStripBytes / (cols * 2), kStripA / (g.m * 2)), 64));
  job.b_panels = g.packed_b;
  Workspace a_space(
      context,
      job.pack_a ? static_cast<size_t>(round_up(g.m, job.mr) / job.mr * job.height * job.k_all()) * 2 : 0);
  if (job.pack_a) {
    pack_all_rows(context, job, a_space.as<bfloat16>());
    job.a_panels = a_space.as<bfloat16>();
  }
  parallel_ranges(context, g.n, cols, cost_of(g.m, 1, g.k), [&](int64_t begin, int64_t end) {
    compute_block(context, job, Block{0, begin, g.m, end - begin});
  });
}

// A packed block of A stays in the L2 cache (1 MiB and up) while the panels of B pass by.
constexpr int64_t kABlock = 512 * 1024;
// So much of B is packed at a time: it should stay in the L3 cache, and bounds the workspace.
constexpr int64_t kPackedB = int64_t{16} << 20;
// Columns of a task whose sums wait in memory between blocks of K.
constexpr int64_t kSumCols = 512;

GemmCut cut_for(const Job& job, int64_t n) {
  const BGemm& g = job.g;
  GemmCut cut = cut_of(job.mr, job.kernel.nr, std::max<int64_t>(kABlock / (job.height * job.kc * 2), 2), g.m,
                       n, cost_of(g.m, n, g.k));
  if (g.k > job.kc) cut.cols = std::min(cut.cols, kSumCols);
  return cut;
}

// Panels of B are packed for all tasks.
void gemm_blocked(Context* context, Job job) {
  const BGemm& g = job.g;
  const int64_t nr = job.kernel.nr, panels = ceil_div(g.n, nr), panel = nr * job.k_all();
  const int64_t most = std::max<int64_t>(kPackedB / std::max<int64_t>(panel * 2, 1), 8);
  job.pack_a = true;
  const int64_t chunk = g.packed_b ? panels : std::min(panels, most);
  Workspace b_space(context, g.packed_b ? 0 : static_cast<size_t>(chunk * panel) * 2);
  for (int64_t jc = 0; jc < panels; jc += chunk) {
    const int64_t count = std::min(chunk, panels - jc), n = std::min(count * nr, g.n - jc * nr);
    if (!g.packed_b) pack_panels(context, job.kernel, g, jc, count, b_space.as<bfloat16>());
    job.b_panels = g.packed_b ? g.packed_b : b_space.as<bfloat16>();
    job.b_col = g.packed_b ? 0 : jc * nr;
    const GemmCut cut = cut_for(job, n);
    const int64_t strips = ceil_div(n, cut.cols), tasks = ceil_div(g.m, cut.rows) * strips;
    parallel_for(context, tasks, cost_of(cut.rows, cut.cols, g.k), [&](int64_t task) {
      const int64_t row = task / strips * cut.rows, col = task % strips * cut.cols;
      compute_block(context, job,
                    Block{row, jc * nr + col, std::min(cut.rows, g.m - row), std::min(cut.cols, n - col)});
    });
  }
}

constexpr int64_t kFewRows = 4;

// Few rows: bound by reading B, once, as it lies.
void gemm_few_rows(Context* context, const Bf16Kernels& kernel, const BGemm& g) {
  const bool dot = g.a_k == 1 && g.b_k == 1;
  const int64_t strip = dot ? 64 : gemv_strip(g.n);
  parallel_ranges(context, g.n, strip, cost_of(g.m, 16, g.k), [&](int64_t begin, int64_t end) {
    float sums[kFewRows * kGemvCols];
    const int64_t cols = end - begin;
    const int rows = static_cast<int>(g.m);
    const bfloat16* const b = g.b + begin * g.b_n;
    if (dot) kernel.dot(g.a, g.a_row, b, g.b_n, rows, cols, g.k, sums);
    else kernel.gemv(g.a, g.a_row, g.a_k, b, g.b_k, rows, cols, g.k, sums);
    Bf16Tile t = tile_at(g, 0, begin, g.m, cols);
    t.sums = sums;
    t.ld_sums = cols;
    float scratch[kFewRows * kGemvCols];
    run_end(g.end.activation, t, scratch, kernel.finish);
  });
}

}  // namespace

template <>
void gemm(Context* context, const BGemm& g) {
  if (g.m == 0 || g.n == 0) return;
  const Bf16Kernels& kernel = *kernels().gemm_bf16;
  if (g.m <= kFewRows && !g.packed_b && g.k > 0 && ((g.a_k == 1 && g.b_k == 1) || g.b_n == 1)) {
    return gemm_few_rows(context, kernel, g);
  }
  Job job(kernel, g);
  if (cost_of(g.m, g.n, g.k) <= kSerialCost) {  // one block: nothing to cut
    job.b_panels = g.packed_b;
    return compute_block(context, job, Block{0, 0, g.m, g.n});
  }
  const bool packs_much = job.pack_a && g.m * g.k * int64_t{sizeof(bfloat16)} > kStripPackedA;
  if (g.m <= kStripRows && !packs_much) return gemm_strips(context, job);
  gemm_blocked(context, job);
}

template <>
void gemm_batched(Context* context, const BGemm& g, const GemmBatch& batch) {
  if (batch.count == 0 || g.m == 0 || g.n == 0) return;
  BGemm base = g;
  const bool share = batch.b == 0 && batch.count > 1 && !g.packed_b && g.m > kFewRows;
  Workspace space(context, share ? static_cast<size_t>(packed_b_size<bfloat16>(g.k, g.n)) * 2 : 0);
  if (share) {
    pack_b(context, g.b, g.b_k, g.b_n, g.k, g.n, space.as<bfloat16>());
    base.packed_b = space.as<bfloat16>();
  }
  gemm_items(context, base, batch, cost_of(g.m, g.n, g.k));
}

template <>
int64_t packed_b_size<bfloat16>(int64_t k, int64_t n) {
  const Bf16Kernels& kernel = *kernels().gemm_bf16;
  return round_up(n, kernel.nr) * round_up(k, kernel.k_step);
}

template <>
void pack_b(Context* context, const bfloat16* b, int64_t b_k, int64_t b_n, int64_t k, int64_t n,
            bfloat16* out) {
  const Bf16Kernels& kernel = *kernels().gemm_bf16;
  BGemm g{0, n, k, nullptr, 0, 0, b, b_k, b_n, nullptr, 0};
  pack_panels(context, kernel, g, 0, ceil_div(n, kernel.nr), out);
}

}  // namespace fastdl::cpu
