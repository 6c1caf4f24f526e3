// The loops around the register tiles, after Goto & van de Geijn, "Anatomy of High-Performance Matrix
// Multiplication" (ACM TOMS 34(3), 2008), with BLIS's names for loops and block sizes.
#include "cpu/gemm.h"

#include <algorithm>
#include <type_traits>

#include "cpu/gemm_cut.h"
#include "cpu/gemm_end.h"
#include "cpu/gemm_few_rows.h"
#include "cpu/gemm_split.h"
#include "cpu/kernels.h"
#include "cpu/parallel.h"

namespace fastdl::cpu {
namespace {

// A packed block of A stays in the L2 cache (1 MiB and up) while the panels of B pass by.
constexpr int64_t kABlock = 344 * 1024;
// So much of B is packed at a time: it should stay in the L3 cache, and bounds the workspace.
constexpr int64_t kPackedB = int64_t{16} << 20;
// Operands of so many bytes together are read as they lie: packing costs more than it saves. Rows a multiple
// of a page apart fall into the same few cache sets, so that such operands must (nearly) fit the L2 cache.
// With few rows packing B never pays.
constexpr int64_t kDirect = 5 << 20;
constexpr int64_t kDirectAliased = 1280 << 10;
constexpr int64_t kPage = 4096;
constexpr int64_t kFewRows = 28;
// A panel of B of so many elements is packed on the stack: that saves a small product half of its overhead.
constexpr int64_t kSmallPanel = 2048;

// K block in chains: a panel of B (80 KiB in every vector width but AVX2's and SSE2's, where it is less)
// streams from the L2 cache without slowing the multiply-adds; each further block would fetch all of C once
// more. A panel that a task packs for itself alone may be longer.
constexpr int64_t kBlockChains = 2, kOwnChains = 5;

// Where one block of C gets its operands from, and its place in C.
template <class T>
struct Block {
  int64_t row, col, rows, cols;
  bool pack_a, pack_b;  // here, one K block at a time
  const T* b_panels;    // the packed panels that begin at column `col`, or null
};

template <class T>
void pack_a_panel(const GemmKernelsOf<T>& kernel, const Gemm<T>& g, int64_t k0, int64_t k, int64_t row,
                  int64_t rows, int64_t width, T* out) {
  const int lanes = static_cast<int>(rows), w = static_cast<int>(width);
  if (g.a_packer.pack) g.a_packer.pack(g.a_packer.self, k0, k, row, lanes, w, out);
  else kernel.pack(g.a + row * g.a_row + k0 * g.a_k, g.a_k, g.a_row, k, lanes, w, out);
}

template <class T>
void pack_b_panel(const GemmKernelsOf<T>& kernel, const Gemm<T>& g, int64_t k0, int64_t k, int64_t col,
                  int64_t cols, int64_t width, T* out) {
  const int lanes = static_cast<int>(cols), w = static_cast<int>(width);
  if (g.b_packer.pack) g.b_packer.pack(g.b_packer.self, k0, k, col, lanes, w, out);
  else kernel.pack(g.b + k0 * g.b_k + col * g.b_n, g.b_k, g.b_n, k, lanes, w, out);
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

// C[block] over all of K.
template <class T>
void compute_block(Context* context, const GemmKernelsOf<T>& kernel, const Gemm<T>& g,
                   const Block<T>& block) {
  const int64_t nr = kernel.nr;
  const int64_t mr = block.rows <= kernel.mr
                         ? block.rows
                         : ceil_div(block.rows, ceil_div(block.rows, kernel.mr));  // even tiles
  // Rows of A and B read as they lie need no blocks of K: nothing would move to a closer cache. Columns of A
  // do: the next tile uses the other half of their cache lines. Blocks are whole chains, so that they change
  // no bit.
  const bool blocked = block.pack_a || block.pack_b || block.b_panels || g.a_row == 1;
  const int64_t chain = even_part(g.k, kChain);
  const int64_t kc =
      std::max<int64_t>(std::min(g.k, blocked ? chain * (block.pack_b ? kOwnChains : kBlockChains) : g.k), 1);
  Workspace a_space(context, block.pack_a ? static_cast<size_t>((block.rows + mr) * kc) * sizeof(T) : 0);
  alignas(64) T b_small[kSmallPanel];
  const bool b_fits = nr * kc <= kSmallPanel;
  Workspace b_space(context, block.pack_b && !b_fits ? static_cast<size_t>(nr * kc) * sizeof(T) : 0);
  T* const b_packed = b_fits ? b_small : b_space.template as<T>();
  T* const a_packed = a_space.template as<T>();
  int64_t pc = 0;
  do {  // 4th loop (pc): blocks of K; once even if K is empty
    const int64_t k = std::min(kc, g.k - pc);
    const bool first = pc == 0, last = pc + k == g.k;
    if (block.pack_a) {
      for (int64_t i = 0; i < block.rows; i += mr)
        pack_a_panel(kernel, g, pc, k, block.row + i, std::min(mr, block.rows - i), mr, a_packed + i * k);
    }
    for (int64_t j = 0; j < block.cols; j += nr) {  // 2nd loop (jr): a panel of B stays in the L1 cache
      const int64_t cols = std::min(nr, block.cols - j);
      GemmPiece<T> piece;
      piece.k = k;
      const int64_t width = block.pack_b && cols <= kernel.width ? kernel.width : nr;  // of the panel
      if (block.pack_b) pack_b_panel(kernel, g, pc, k, block.col + j, cols, width, b_packed);
      piece.b = block.pack_b     ? b_packed
                : block.b_panels ? block.b_panels + j * g.k + pc * nr
                                 : g.b + pc * g.b_k + block.col + j;
      for (int64_t i = 0; i < block.rows; i += mr) {  // 1st loop (ir): tiles of C
        piece.a = block.pack_a ? a_packed + i * k : g.a + (block.row + i) * g.a_row + pc * g.a_k;
        GemmTile<T> t = tile_at(g, block.row + i, block.col + j, std::min(mr, block.rows - i), cols);
        t.a_row = block.pack_a ? 1 : g.a_row;
        t.a_k = block.pack_a ? mr : g.a_k;
        t.b_k = block.pack_b || block.b_panels ? width : g.b_k;
        sum_in_chains(kernel, t, piece, chain, first, last);
      }
    }
    pc += k;
  } while (pc < g.k);
  activate_rows(g.end.activation, g.c + block.row * g.ldc + block.col, g.ldc, block.rows, block.cols);
}

// Panels [first, first + count) of B.
template <class T>
void pack_panels(Context* context, const GemmKernelsOf<T>& kernel, const Gemm<T>& g, int64_t first,
                 int64_t count, T* out) {
  const int64_t nr = kernel.nr;
  parallel_for(context, count, static_cast<double>(g.k * nr) / 4, [&](int64_t p) {
    const int64_t col = (first + p) * nr;
    pack_b_panel(kernel, g, 0, g.k, col, std::min(nr, g.n - col), nr, out + p * nr * g.k);
  });
}

// Any cut gives the same bits.
template <class T>
GemmCut cut_for(const GemmKernelsOf<T>& kernel, int64_t m, int64_t n, int64_t k) {
  return cut_of(kernel.mr, kernel.nr, kABlock / (kernel.mr * kBlockChains * kChain * int64_t{sizeof(T)}), m,
                n, multiply_adds_cost(m, n, k));
}

template <class T>
void gemm_blocked(Context* context, const GemmKernelsOf<T>& kernel, const Gemm<T>& g, bool pack_a,
                  bool pack_b) {
  const int64_t nr = kernel.nr, panels = ceil_div(g.n, nr);
  // With one block of rows each panel of B is used once: its task packs it. Otherwise they are packed for all
  // tasks.
  const bool alone = pack_b && cut_for(kernel, g.m, g.n, g.k).rows >= g.m;
  const bool ahead = pack_b && !alone;
  const int64_t most = std::max<int64_t>(kPackedB / std::max<int64_t>(g.k * nr * int64_t{sizeof(T)}, 1), 8);
  const int64_t chunk = ahead ? std::min(panels, most) : panels;
  Workspace b_space(context, ahead ? static_cast<size_t>(chunk * nr * g.k) * sizeof(T) : 0);
  for (int64_t jc = 0; jc < panels;
       jc += chunk) {  // 5th loop (jc): as much of B as the L3 cache holds, packed
    const int64_t count = std::min(chunk, panels - jc), n = std::min(count * nr, g.n - jc * nr);
    if (ahead) pack_panels(context, kernel, g, jc, count, b_space.as<T>());
    const T* b_panels = g.packed_b ? g.packed_b + jc * nr * g.k : ahead ? b_space.as<T>() : nullptr;
    const GemmCut cut = cut_for(kernel, g.m, n, g.k);
    const int64_t strips = ceil_div(n, cut.cols), tasks = ceil_div(g.m, cut.rows) * strips;
    parallel_for(context, tasks, multiply_adds_cost(cut.rows, cut.cols, g.k),
                 [&](int64_t task) {  // 3rd loop (ic): blocks of A
                   const int64_t row = task / strips * cut.rows, col = task % strips * cut.cols;
                   compute_block(context, kernel, g,
                                 Block<T>{row, jc * nr + col, std::min(cut.rows, g.m - row),
                                          std::min(cut.cols, n - col), pack_a, alone,
                                          b_panels ? b_panels + col * g.k : nullptr});
                 });
  }
}

// A small C with a long sum (gradients of weights): K is cut into parts of a fixed length whose sums are
// added in order.
constexpr int64_t kSplitK = 2048;
constexpr int64_t kSmallC = 65536;  // the partial sums of a task stay in the L2 cache

// float32 products made of bfloat16 ones, where that is faster.
template <class T>
bool gemm_in_parts(Context* context, const Gemm<T>& g) {
  if constexpr (std::is_same_v<T, float>) {
    if (split_pays(context, g)) {
      gemm_split(context, g);
      return true;
    }
  }
  return false;
}

template <class T>
void gemm_split_k(Context* context, const GemmKernelsOf<T>& kernel, const Gemm<T>& g) {
  const int64_t parts = g.k / kSplitK, size = g.m * g.n;
  Workspace space(context, static_cast<size_t>(parts * size) * sizeof(T));
  T* const sums = space.as<T>();
  parallel_for(context, parts, multiply_adds_cost(g.m, g.n, kSplitK), [&](int64_t p) {
    const int64_t begin = p * kSplitK, end = p + 1 == parts ? g.k : begin + kSplitK;
    Gemm<T> part{g.m,
                 g.n,
                 end - begin,
                 g.a + begin * g.a_k,
                 g.a_row,
                 g.a_k,
                 g.b + begin * g.b_k,
                 g.b_k,
                 g.b_n,
                 sums + p * size,
                 g.n};
    if (!gemm_in_parts(context, part)) gemm_in_tiles(context, part);
  });
  for (int64_t p = 1; p < parts; ++p) {
    for (int64_t i = 0; i < size; ++i) sums[i] += sums[p * size + i];
  }
  finish_rows(kernel, g, 0, g.n, sums, g.n);
}

}  // namespace

template <class T>
void gemm(Context* context, const Gemm<T>& g) {
  if (g.m == 0 || g.n == 0) return;
  const GemmKernelsOf<T>& kernel = gemm_kernels_of<T>(*kernels().gemm);
  const bool plain_a = !g.a_packer.pack, plain_b = !g.b_packer.pack && !g.packed_b;
  if (plain_a && plain_b && g.k > 0) {
    if (g.m <= kernel.dot_rows && g.a_k == 1 && g.b_k == 1) return gemm_dot(context, g);
    if (g.n == 1 && g.m > 1) return gemm_column(context, g);
    if (g.k >= 2 * kSplitK && g.m * g.n <= kSmallC && g.m > 1) return gemm_split_k(context, kernel, g);
    if (g.m <= kernel.gemv_rows && g.b_n == 1) return gemm_gemv(context, g);
  }
  if (gemm_in_parts(context, g)) return;
  const int64_t a_bytes = g.m * g.k * int64_t{sizeof(T)}, b_bytes = g.k * g.n * int64_t{sizeof(T)};
  const bool aliased = g.a_row * int64_t{sizeof(T)} % kPage == 0 || g.b_k * int64_t{sizeof(T)} % kPage == 0;
  const bool direct = a_bytes + b_bytes <= (aliased ? kDirectAliased : kDirect);
  const bool pack_b = !g.packed_b && (!plain_b || g.b_n != 1 || !(direct || g.m <= kFewRows));
  const bool pack_a = !plain_a || !(direct || a_bytes <= kDirectAliased / 5 || g.n <= 2 * kernel.nr);
  if (!pack_a &&
      multiply_adds_cost(g.m, g.n, g.k) <= kSerialCost) {  // one block: nothing to cut, nothing to pack ahead
    return compute_block(context, kernel, g, Block<T>{0, 0, g.m, g.n, false, pack_b, g.packed_b});
  }
  gemm_blocked(context, kernel, g, pack_a, pack_b);
}

template <class T>
void gemm_in_tiles(Context* context, const Gemm<T>& g) {
  compute_block(context, gemm_kernels_of<T>(*kernels().gemm), g,
                Block<T>{0, 0, g.m, g.n, false, g.b_n != 1, nullptr});
}

// For `count` products with one B: the size of its parts if they should be made once for all, else 0.
template <class T>
int64_t shared_split_bytes(const Context* context, const Gemm<T>& g, int64_t count) {
  if constexpr (std::is_same_v<T, float>) {
    Gemm<float> all = g, one = g;
    all.m *= count;
    one.split_b = g.b;  // as if they were there
    if (!g.packed_b && split_pays(context, all) && split_pays(context, one)) return split_b_bytes(g.k, g.n);
  }
  return 0;
}

template <class T>
void gemm_batched(Context* context, const Gemm<T>& g, const GemmBatch& batch) {
  if (batch.count == 0 || g.m == 0 || g.n == 0) return;
  const auto item = [&](const Gemm<T>& base, int64_t i) {
    Gemm<T> one = base;
    one.a += i * batch.a;
    if (one.b) one.b += i * batch.b;
    one.c += i * batch.c;
    if (one.end.residual) one.end.residual += i * batch.residual;
    gemm(context, one);
  };
  const double cost = multiply_adds_cost(g.m, g.n, g.k);
  Gemm<T> base = g;
  // One B for all items: worth packing once if the items would each pack it.
  const bool one_b = batch.b == 0 && batch.count > 1;
  const int64_t parts = one_b ? shared_split_bytes(context, g, batch.count) : 0;
  const Workspace parts_space(context, static_cast<size_t>(parts));
  if constexpr (std::is_same_v<T, float>) {
    if (parts) {
      split_b(context, g.b, g.b_k, g.b_n, g.k, g.n, parts_space.as<void>());
      base.split_b = parts_space.as<void>();
    }
  }
  const bool share = one_b && !parts && !g.packed_b && g.b_n != 1 && g.m > 4 && g.n > 1 &&
                     (g.k < 2 * kSplitK || g.m * g.n > kSmallC);
  Workspace space(context, share ? static_cast<size_t>(packed_b_size<T>(g.k, g.n)) * sizeof(T) : 0);
  if (share) {
    pack_b(context, g.b, g.b_k, g.b_n, g.k, g.n, space.as<T>());
    base.packed_b = space.as<T>();
  }
  if (batch.count >= 8 || cost < kSerialCost) {
    const int64_t grain = std::max<int64_t>(1, static_cast<int64_t>(kSerialCost / 4 / (cost + 1)));
    parallel_ranges(context, batch.count, grain, cost, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) item(base, i);
    });
  } else {
    for (int64_t i = 0; i < batch.count; ++i) item(base, i);
  }
}

template <class T>
int64_t packed_b_size(int64_t k, int64_t n) {
  const int64_t nr = gemm_kernels_of<T>(*kernels().gemm).nr;
  return ceil_div(n, nr) * nr * k;
}

template <class T>
void pack_b(Context* context, const T* b, int64_t b_k, int64_t b_n, int64_t k, int64_t n, T* out) {
  const GemmKernelsOf<T>& kernel = gemm_kernels_of<T>(*kernels().gemm);
  Gemm<T> g{0, n, k, nullptr, 0, 0, b, b_k, b_n, nullptr, 0};
  pack_panels(context, kernel, g, 0, ceil_div(n, kernel.nr), out);
}

#define FASTDL_INSTANTIATE(T)                                                \
  template void gemm<T>(Context*, const Gemm<T>&);                           \
  template void gemm_in_tiles<T>(Context*, const Gemm<T>&);                  \
  template void gemm_batched<T>(Context*, const Gemm<T>&, const GemmBatch&); \
  template int64_t packed_b_size<T>(int64_t, int64_t);                       \
  template void pack_b<T>(Context*, const T*, int64_t, int64_t, int64_t, int64_t, T*);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl::cpu
