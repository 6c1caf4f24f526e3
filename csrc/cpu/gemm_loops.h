// The loops around the register tiles of float32 and float64, after Goto & van de Geijn, "Anatomy of
// High-Performance Matrix Multiplication" (ACM TOMS 34(3), 2008), with BLIS's names for loops and block
// sizes.
#pragma once

#include <algorithm>

#include "cpu/gemm_cut.h"
#include "cpu/gemm_end.h"
#include "cpu/kernels.h"
#include "cpu/parallel.h"

namespace fastdl::cpu {

// Rows a multiple of a page apart fall into the same few cache sets: more than kAliasedRows of A do not stay
// in the L1 cache from one step of k to the next, and B is better packed.
constexpr int64_t kPage = 4096, kAliasedRows = 8;
template <class T>
bool aliased(int64_t stride) {
  return stride * int64_t{sizeof(T)} % kPage == 0;
}

// What lies along the lanes of panels (B as it is, A transposed) is packed in slabs of so many steps of k,
// all panels of a slab before the next slab: each row is read in one run, and the rows of a slab share a
// cache set even if they are aliased.
constexpr int64_t kSlab = 8;
constexpr int64_t kTaskSteps = 64;  // of such an operand, packed by one task

// K block in chains: a panel of B (80 KiB in every vector width but AVX2's and SSE2's, where it is less)
// streams from the L2 cache without slowing the multiply-adds; each further block would fetch all of C once
// more. A panel that a task packs for itself alone may be longer.
constexpr int64_t kBlockChains = 2, kOwnChains = 5;

// A product and how it is done.
template <class T>
struct GemmJob {
  const GemmKernelsOf<T>& kernel;
  const Gemm<T>& g;
  int64_t mr;                   // rows of a tile
  int64_t chain, kc;            // K block: whole chains, so that blocks change no bit
  bool pack_a;                  // by each task, or
  const T* a_panels = nullptr;  // packed for all tasks
  bool pack_b;                  // by each task, so many columns at a time, or
  int64_t group;
  const T* b_panels = nullptr;  // packed for all tasks,
  int64_t b_col = 0;            // their first column

  GemmJob(const GemmKernelsOf<T>& k, const Gemm<T>& problem) : kernel(k), g(problem) {
    mr = g.m <= k.mr ? std::max<int64_t>(g.m, 1) : ceil_div(g.m, ceil_div(g.m, k.mr));  // even tiles
    chain = even_part(g.k, kChain);
    pack_a = false;
    pack_b = !g.packed_b && g.b_n != 1;
    group = k.nr;
    b_panels = g.packed_b;
    // Rows of A and B read as they lie need no blocks of K: nothing would move to a closer cache. Columns of
    // A do: the next tile uses the other half of their cache lines.
    if (pack_b) set_kc(kOwnChains * chain);
    else if (b_panels || g.a_row == 1) set_kc(kBlockChains * chain);
    else kc = std::max<int64_t>(g.k, 1);
  }
  void set_kc(int64_t most) { kc = chain * std::max<int64_t>(most / chain, 1); }
};

// pack(k0, k, lane, lanes) for all panels of `width` lanes, in slabs where the lanes are contiguous.
template <class Pack>
void for_panels(bool contiguous, int64_t k, int64_t lanes, int64_t width, Pack&& pack) {
  const int64_t slab = contiguous && lanes > width ? kSlab : std::max<int64_t>(k, 1);
  for (int64_t k0 = 0; k0 < k; k0 += slab) {
    for (int64_t i = 0; i < lanes; i += width) {
      pack(k0, std::min(slab, k - k0), i, std::min(width, lanes - i));
    }
  }
}

// A[row.., k0..] as panels `length` steps of k long.
template <class T>
void pack_rows(const GemmJob<T>& job, int64_t row, int64_t rows, int64_t k0, int64_t k, int64_t length,
               T* out) {
  const Gemm<T>& g = job.g;
  for_panels(g.a_row == 1, k, rows, job.mr, [&](int64_t at, int64_t steps, int64_t i, int64_t lanes) {
    job.kernel.pack(g.a + (row + i) * g.a_row + (k0 + at) * g.a_k, g.a_k, g.a_row, steps,
                    static_cast<int>(lanes), static_cast<int>(job.mr), out + i * length + at * job.mr);
  });
}

// B[k0.., col..] as panels `length` steps of k long and `width` wide.
template <class T>
void pack_columns(const GemmKernelsOf<T>& kernel, const Gemm<T>& g, int64_t col, int64_t cols, int64_t k0,
                  int64_t k, int64_t length, int64_t width, T* out) {
  for_panels(g.b_n == 1, k, cols, width, [&](int64_t at, int64_t steps, int64_t j, int64_t lanes) {
    kernel.pack(g.b + (k0 + at) * g.b_k + (col + j) * g.b_n, g.b_k, g.b_n, steps, static_cast<int>(lanes),
                static_cast<int>(width), out + j * length + at * width);
  });
}

// The piece's products in chains of `chain` steps, one after the other while C's tile is in the L1 cache;
// `first` and `last`: of C's terms.
template <class T>
void sum_in_chains(const GemmKernelsOf<T>& kernel, GemmTile<T> t, GemmPiece<T> piece, int64_t chain,
                   bool first, bool last) {
  t.pieces = &piece;
  t.count = 1;
  const GemmTile<T> end = t;
  const int64_t k = piece.k;
  int64_t begin = 0;
  do {
    piece.k = std::min(chain, k - begin);
    const bool finish = last && begin + piece.k == k;
    if (!first || begin > 0) t.beta = T(1);
    t.bias = finish ? end.bias : nullptr;
    t.residual = finish ? end.residual : nullptr;
    t.relu = finish && end.relu;
    gemm_tile(kernel, t);
    piece.a += piece.k * t.a_k;
    piece.b += piece.k * t.b_k;
    begin += piece.k;
  } while (begin < k);
}

struct GemmBlock {
  int64_t row, col, rows, cols;
};

// B[k0.., col..] where it lies, to be read next; nothing if it is not made of rows or columns.
template <class T>
GemmAhead ahead_of(const Gemm<T>& g, int64_t col, int64_t cols, int64_t k0, int64_t k) {
  constexpr int64_t line = 64, size = sizeof(T);
  const char* const at = reinterpret_cast<const char*>(g.b + k0 * g.b_k + col * g.b_n);
  if (cols <= 0 || k <= 0 || (g.b_n != 1 && g.b_k != 1)) return {at, nullptr, 0, 0, 0};
  const int64_t width = round_up((g.b_n == 1 ? cols : k) * size, line);
  return {at, at + width, (g.b_n == 1 ? g.b_k : g.b_n) * size, g.b_n == 1 ? k : cols, width};
}

// A panel of B of so many elements is packed on the stack: that saves a small product half of its overhead.
constexpr int64_t kSmallPanel = 2048;

// C[block] over all of K.
template <class T>
void compute_block(Context* context, const GemmJob<T>& job, const GemmBlock& block, bool prefetch = false) {
  const GemmKernelsOf<T>& kernel = job.kernel;
  const Gemm<T>& g = job.g;
  const int64_t nr = kernel.nr, mr = job.mr, kc = job.kc,
                group = std::min(job.group, round_up(block.cols, nr));
  Workspace a_space(context, job.pack_a ? static_cast<size_t>((block.rows + mr) * kc) * sizeof(T) : 0);
  alignas(64) T b_small[kSmallPanel];
  const bool b_fits = group * kc <= kSmallPanel;
  Workspace b_space(context, job.pack_b && !b_fits ? static_cast<size_t>(group * kc) * sizeof(T) : 0);
  T* const b_packed = b_fits ? b_small : b_space.template as<T>();
  T* const a_packed = a_space.template as<T>();
  int64_t pc = 0;
  do {  // 4th loop (pc): blocks of K; once even if K is empty
    const int64_t k = std::min(kc, g.k - pc);
    const bool first = pc == 0, last = pc + k == g.k;
    if (job.pack_a) pack_rows(job, block.row, block.rows, pc, k, k, a_packed);
    GemmAhead ahead{};
    if (prefetch) {  // the next block of this strip, or the first one of the next strip
      const int64_t col = last ? block.col + block.cols : block.col;
      ahead = ahead_of(g, col, std::min(block.cols, g.n - col), last ? 0 : pc + k,
                       std::min(kc, last ? g.k : g.k - pc - k));
    }
    for (int64_t j = 0; j < block.cols; j += nr) {  // 2nd loop (jr): a panel of B stays near the L1 cache
      const int64_t cols = std::min(nr, block.cols - j);
      const int64_t width = job.pack_b && group == nr && cols <= kernel.width ? kernel.width : nr;
      if (job.pack_b && j % group == 0) {
        pack_columns(kernel, g, block.col + j, std::min(group, block.cols - j), pc, k, k, width, b_packed);
      }
      GemmPiece<T> piece{nullptr, nullptr, k};
      piece.b = job.pack_b     ? b_packed + j % group * k
                : job.b_panels ? job.b_panels + (block.col - job.b_col + j) * g.k + pc * nr
                               : g.b + pc * g.b_k + block.col + j;
      if (job.b_panels && j + nr < block.cols) {  // the next panel
        const char* const at = reinterpret_cast<const char*>(piece.b + nr * g.k);
        const int64_t bytes = round_up(k * nr * int64_t{sizeof(T)}, 64);
        ahead = {at, at + bytes, 0, 1, bytes};
      }
      for (int64_t i = 0; i < block.rows; i += mr) {  // 1st loop (ir): tiles of C
        const int64_t row = block.row + i;
        piece.a = job.a_panels ? job.a_panels + row * g.k + pc * mr
                  : job.pack_a ? a_packed + i * k
                               : g.a + row * g.a_row + pc * g.a_k;
        GemmTile<T> t = tile_at(g, row, block.col + j, std::min(mr, block.rows - i), cols);
        const bool packed = job.a_panels || job.pack_a;
        t.a_row = packed ? 1 : g.a_row;
        t.a_k = packed ? mr : g.a_k;
        t.b_k = job.pack_b || job.b_panels ? width : g.b_k;
        t.ahead = ahead.rows > 0 ? &ahead : nullptr;
        sum_in_chains(kernel, t, piece, job.chain, first, last);
      }
    }
    pc += k;
  } while (pc < g.k);
  activate_rows(g.end.activation, g.c + block.row * g.ldc + block.col, g.ldc, block.rows, block.cols);
}

// All of A, in panels over all of K.
template <class T>
void pack_all_rows(Context* context, const GemmJob<T>& job, T* out) {
  const int64_t panels = ceil_div(job.g.m, job.mr);
  parallel_ranges(
      context, panels, 4, static_cast<double>(job.mr * job.g.k) / 4, [&](int64_t begin, int64_t end) {
        const int64_t row = begin * job.mr;
        pack_rows(job, row, std::min(end * job.mr, job.g.m) - row, 0, job.g.k, job.g.k, out + row * job.g.k);
      });
}

// Panels [first, first + count) of B.
template <class T>
void pack_panels(Context* context, const GemmKernelsOf<T>& kernel, const Gemm<T>& g, int64_t first,
                 int64_t count, T* out) {
  const int64_t nr = kernel.nr, col0 = first * nr;
  const bool slabs = g.b_n == 1;
  const int64_t width = slabs ? 16 : 1, strips = ceil_div(count, width);  // panels of a task
  const int64_t depth = slabs ? kTaskSteps : std::max<int64_t>(g.k, 1), tasks = strips * ceil_div(g.k, depth);
  parallel_for(context, tasks, static_cast<double>(width * nr * depth) / 4, [&](int64_t task) {
    const int64_t p = task % strips * width, k0 = task / strips * depth, col = col0 + p * nr;
    pack_columns(kernel, g, col, std::min(std::min(p + width, count) * nr, g.n - col0) - p * nr, k0,
                 std::min(depth, g.k - k0), g.k, nr, out + p * nr * g.k + k0 * nr);
  });
}

// Up to kStripRows rows each task packs its own strip of B, a block of K at a time: it stays in the L2 cache,
// beside the block of A. The strip of few rows is read as it lies.
constexpr int64_t kStripRows = 768, kStripCols = 256, kStripBytes = 256 << 10;
constexpr int64_t kStrips = 16;  // wanted, to balance a few threads
constexpr int64_t kFewRows = 28;

constexpr int64_t kStripA = int64_t{16} << 20;  // most bytes of A to be packed for all strips

// A is made neither of rows nor of columns, or they are aliased.
template <class T>
bool strips_pack_a(const GemmJob<T>& job) {
  const Gemm<T>& g = job.g;
  if (g.a_row == 1) return aliased<T>(g.a_k);
  return g.a_k != 1 || (job.mr > kAliasedRows && aliased<T>(g.a_row));
}

template <class T>
bool few_enough_rows(const GemmJob<T>& job) {
  const Gemm<T>& g = job.g;
  return g.m <= kStripRows && !(strips_pack_a(job) && g.m * g.k * int64_t{sizeof(T)} > kStripA);
}

template <class T>
void gemm_strips(Context* context, GemmJob<T> job) {
  const Gemm<T>& g = job.g;
  const int64_t nr = job.kernel.nr, panels = ceil_div(g.n, nr);
  const int64_t cols = std::max<int64_t>(std::min(panels / kStrips, kStripCols / nr), 1) * nr;
  job.pack_b = !g.packed_b && (g.b_n != 1 || g.m > kFewRows || aliased<T>(g.b_k));
  job.group = cols;
  job.set_kc(kStripBytes / (cols * int64_t{sizeof(T)}));
  const bool pack_a = strips_pack_a(job);
  Workspace a_space(context, pack_a ? static_cast<size_t>(round_up(g.m, job.mr) * g.k) * sizeof(T) : 0);
  if (pack_a) {
    pack_all_rows(context, job, a_space.template as<T>());
    job.a_panels = a_space.template as<T>();
  }
  parallel_ranges(context, g.n, cols, multiply_adds_cost(g.m, 1, g.k), [&](int64_t begin, int64_t end) {
    compute_block(context, job, GemmBlock{0, begin, g.m, end - begin}, !g.packed_b);
  });
}

// A packed block of A stays in the L2 cache (1 MiB and up) while the panels of B pass by.
constexpr int64_t kABlock = 512 * 1024;
// So much of B is packed at a time: it should stay in the L3 cache, and bounds the workspace.
constexpr int64_t kPackedB = int64_t{16} << 20;
// Any cut gives the same bits.
template <class T>
GemmCut cut_for(const GemmJob<T>& job, int64_t n) {
  const Gemm<T>& g = job.g;
  return cut_of(job.mr, job.kernel.nr, std::max<int64_t>(kABlock / (job.mr * job.kc * int64_t{sizeof(T)}), 1),
                g.m, n, multiply_adds_cost(g.m, n, g.k));
}

// Panels of B are packed for all tasks, blocks of A by each.
template <class T>
void gemm_blocked(Context* context, GemmJob<T> job) {
  const Gemm<T>& g = job.g;
  const int64_t nr = job.kernel.nr, panels = ceil_div(g.n, nr), panel = nr * g.k;
  const int64_t most = std::max<int64_t>(kPackedB / std::max<int64_t>(panel * int64_t{sizeof(T)}, 1), 8);
  job.pack_a = true;
  job.pack_b = false;
  job.set_kc(job.chain * kBlockChains);
  const int64_t chunk = g.packed_b ? panels : std::min(panels, most);
  Workspace b_space(context, g.packed_b ? 0 : static_cast<size_t>(chunk * panel) * sizeof(T));
  for (int64_t jc = 0; jc < panels;
       jc += chunk) {  // 5th loop (jc): as much of B as the L3 cache holds, packed
    const int64_t count = std::min(chunk, panels - jc), n = std::min(count * nr, g.n - jc * nr);
    if (!g.packed_b) {
      pack_panels(context, job.kernel, g, jc, count, b_space.as<T>());
      job.b_panels = b_space.as<T>();
      job.b_col = jc * nr;
    }
    const GemmCut cut = cut_for(job, n);
    const int64_t strips = ceil_div(n, cut.cols), tasks = ceil_div(g.m, cut.rows) * strips;
    parallel_for(
        context, tasks, multiply_adds_cost(cut.rows, cut.cols, g.k), [&](int64_t task) {  // 3rd loop (ic)
          const int64_t row = task / strips * cut.rows, col = task % strips * cut.cols;
          compute_block(
              context, job,
              GemmBlock{row, jc * nr + col, std::min(cut.rows, g.m - row), std::min(cut.cols, n - col)});
        });
  }
}

}  // namespace fastdl::cpu
