// The loops around the bfloat16 tiles: as gemm.cpp's, with B always in packed panels and float32 sums between
// blocks of K.
#include "cpu/gemm_bf16.h"

#include <algorithm>
#include <cstring>

#include "cpu/gemm_cut.h"
#include "cpu/kernels.h"
#include "cpu/matrix_unit.h"
#include "cpu/parallel.h"

namespace fastdl::cpu {
namespace {

using BGemm = Gemm<bfloat16>;

// A packed block of A stays in the L2 cache (1 MiB and up) while the panels of B pass by.
constexpr int64_t kABlock = 400 * 1024;
// So much of B is packed at a time: it should stay in the L3 cache, and bounds the workspace.
constexpr int64_t kPackedB = int64_t{16} << 20;
// Columns of a task whose sums wait in memory between blocks of K.
constexpr int64_t kSumCols = 512;
// With so few panels of B, rows of A are read as they lie: packing them would not pay.
constexpr int64_t kFewPanels = 2;

// Some 64 multiply-adds take the time of an elementary operation.
double cost_of(int64_t m, int64_t n, int64_t k) { return gemm_cost(m, n, k, 64); }

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

bool in_registers(const fastdl_activation& f) {
  return f.kind == FASTDL_ACT_NONE || f.kind == FASTDL_ACT_RELU;
}

// Activations are computed on float32 numbers, before the one rounding: C goes through `scratch` on its way.
void activate_rows(const BGemm& g, int64_t row, int64_t col, int64_t rows, int64_t cols, float* scratch) {
  const auto& activation = table_for<float>(*kernels().activation);
  if (g.c32) {
    for (int64_t r = 0; r < rows; ++r) {
      float* const c = g.c32 + (row + r) * g.ldc + col;
      activation.forward(g.end.activation, cols, c, c);
    }
    return;
  }
  activation.forward(g.end.activation, rows * cols, scratch, scratch);
  Bf16Tile t{};
  t.rows = static_cast<int>(rows);
  t.cols = static_cast<int>(cols);
  t.sums = scratch;
  t.ld_sums = cols;
  t.finish = true;
  t.alpha = 1;
  t.c = g.c + row * g.ldc + col;
  t.ldc = g.ldc;
  kernels().gemm_bf16->finish(t);
}

// A tile whose products are still to be set, through the activation.
void run_tile(const Bf16Kernels& kernel, const BGemm& g, Bf16Tile t, int64_t row, int64_t col) {
  if (!t.finish || in_registers(g.end.activation)) return kernel.tile(t);
  alignas(64) float scratch[32 * 32];
  if (g.c32) {
    kernel.tile(t);
  } else if (t.beta == 0) {
    t.c32 = scratch;
    t.ldc = t.cols;
    kernel.tile(t);
  } else {  // beta * C in bfloat16 is added by hand
    for (int r = 0; r < t.rows; ++r) {
      for (int j = 0; j < t.cols; ++j) {
        const uint32_t bits = static_cast<uint32_t>(t.c[r * t.ldc + j].bits) << 16;
        std::memcpy(&scratch[r * t.cols + j], &bits, 4);
      }
    }
    t.c32 = scratch;
    t.ldc = t.cols;
    kernel.tile(t);
  }
  activate_rows(g, row, col, t.rows, t.cols, scratch);
}

struct Block {
  int64_t row, col, rows, cols;
  bool pack_a;
  const bfloat16* b_panels;  // the packed panels that begin at column `col`, or null: packed here
};

// C[block] over all of K.
void compute_block(Context* context, const Bf16Kernels& kernel, const BGemm& g, const Block& block) {
  const MatrixUnit unit(kernel);
  const int64_t nr = kernel.nr, step = kernel.k_step, k_all = round_up(g.k, step);
  const int64_t mr = block.rows <= kernel.mr ? block.rows
                     : kernel.height_step > 1
                         ? kernel.mr
                         : ceil_div(block.rows, ceil_div(block.rows, kernel.mr));  // even tiles
  const int64_t kc =
      std::max(round_up(ceil_div(g.k, std::max<int64_t>(ceil_div(g.k, kernel.kc), 1)), step), step);
  const bool one = kc >= g.k;
  const int64_t height = round_up(mr, kernel.height_step);
  Workspace a_space(context,
                    block.pack_a ? static_cast<size_t>(ceil_div(block.rows, mr) * height * kc) * 2 : 0);
  Workspace b_space(context, block.b_panels ? 0 : static_cast<size_t>(nr * kc) * 2);
  Workspace sum_space(context, one ? 0 : static_cast<size_t>(block.rows * block.cols) * 4);
  bfloat16 *const a_packed = a_space.as<bfloat16>(), *const b_packed = b_space.as<bfloat16>();
  int64_t pc = 0;
  do {  // blocks of K; once even if K is empty
    const int64_t k = std::min(kc, g.k - pc), padded = round_up(k, step);
    if (block.pack_a) {
      for (int64_t i = 0, panel = 0; i < block.rows; i += mr, ++panel) {
        const int rows = static_cast<int>(std::min(mr, block.rows - i));
        kernel.pack_a(g.a + (block.row + i) * g.a_row + pc * g.a_k, g.a_row, g.a_k, k, rows,
                      static_cast<int>(height), a_packed + panel * height * padded);
      }
    }
    for (int64_t j = 0; j < block.cols; j += nr) {
      const int64_t cols = std::min(nr, block.cols - j);
      Bf16Piece piece{nullptr, b_packed, k};
      if (block.b_panels) {
        piece.b = block.b_panels + j * k_all + pc * nr;
      } else {
        kernel.pack_b(g.b + pc * g.b_k + (block.col + j) * g.b_n, g.b_k, g.b_n, k, static_cast<int>(cols),
                      b_packed);
      }
      for (int64_t i = 0, panel = 0; i < block.rows; i += mr, ++panel) {
        Bf16Tile t = tile_at(g, block.row + i, block.col + j, std::min(mr, block.rows - i), cols);
        piece.a = block.pack_a ? a_packed + panel * height * padded : g.a + (block.row + i) * g.a_row + pc;
        t.pieces = &piece;
        t.count = 1;
        t.a_row = block.pack_a ? step : g.a_row;
        t.a_step = block.pack_a ? height * step : step;
        t.resume = pc > 0;
        t.finish = pc + k == g.k;
        if (!one) {
          t.sums = sum_space.as<float>() + i * block.cols + j;
          t.ld_sums = block.cols;
        }
        run_tile(kernel, g, t, block.row + i, block.col + j);
      }
    }
    pc += k;
  } while (pc < g.k);
}

void pack_panels(Context* context, const Bf16Kernels& kernel, const BGemm& g, int64_t first, int64_t count,
                 bfloat16* out) {
  const int64_t nr = kernel.nr, panel = nr * round_up(g.k, kernel.k_step);
  parallel_for(context, count, static_cast<double>(panel) / 4, [&](int64_t p) {
    const int64_t col = (first + p) * nr;
    kernel.pack_b(g.b + col * g.b_n, g.b_k, g.b_n, g.k, static_cast<int>(std::min(nr, g.n - col)),
                  out + p * panel);
  });
}

GemmCut cut_for(const Bf16Kernels& kernel, const BGemm& g, int64_t n) {
  const int64_t kc = std::min(kernel.kc, std::max<int64_t>(g.k, 1));
  GemmCut cut = cut_of(kernel.mr, kernel.nr, std::max<int64_t>(kABlock / (kernel.mr * kc * 2), 2), g.m, n,
                       cost_of(g.m, n, g.k));
  if (g.k > kernel.kc) cut.cols = std::min(cut.cols, kSumCols);
  return cut;
}

void gemm_blocked(Context* context, const Bf16Kernels& kernel, const BGemm& g, bool pack_a) {
  const int64_t nr = kernel.nr, panels = ceil_div(g.n, nr), panel = nr * round_up(g.k, kernel.k_step);
  const bool pack_b = !g.packed_b;
  // With one block of rows each panel of B is used once: its task packs it. Otherwise they are packed for all
  // tasks.
  const bool ahead = pack_b && cut_for(kernel, g, g.n).rows < g.m;
  const int64_t most = std::max<int64_t>(kPackedB / std::max<int64_t>(panel * 2, 1), 8);
  const int64_t chunk = ahead ? std::min(panels, most) : panels;
  Workspace b_space(context, ahead ? static_cast<size_t>(chunk * panel) * 2 : 0);
  for (int64_t jc = 0; jc < panels; jc += chunk) {
    const int64_t count = std::min(chunk, panels - jc), n = std::min(count * nr, g.n - jc * nr);
    if (ahead) pack_panels(context, kernel, g, jc, count, b_space.as<bfloat16>());
    const bfloat16* b_panels = g.packed_b ? g.packed_b + jc * panel
                               : ahead    ? b_space.as<bfloat16>()
                                          : nullptr;
    const GemmCut cut = cut_for(kernel, g, n);
    const int64_t strips = ceil_div(n, cut.cols), tasks = ceil_div(g.m, cut.rows) * strips;
    parallel_for(context, tasks, cost_of(cut.rows, cut.cols, g.k), [&](int64_t task) {
      const int64_t row = task / strips * cut.rows, col = task % strips * cut.cols;
      compute_block(context, kernel, g,
                    Block{row, jc * nr + col, std::min(cut.rows, g.m - row), std::min(cut.cols, n - col),
                          pack_a, b_panels ? b_panels + col / nr * panel : nullptr});
    });
  }
}

constexpr int64_t kRowsCols = 1024;  // sums of 4 rows of as many columns fit the L1 cache
constexpr int64_t kFewRows = 4;

// Few rows: bound by reading B, once, as it lies.
void gemm_few_rows(Context* context, const Bf16Kernels& kernel, const BGemm& g) {
  const bool dot = g.a_k == 1 && g.b_k == 1;
  parallel_ranges(context, g.n, dot ? 64 : kRowsCols, cost_of(g.m, 16, g.k), [&](int64_t begin, int64_t end) {
    float sums[kFewRows * kRowsCols];
    const int64_t cols = end - begin;
    const int rows = static_cast<int>(g.m);
    const bfloat16* const b = g.b + begin * g.b_n;
    if (dot) kernel.dot(g.a, g.a_row, b, g.b_n, rows, cols, g.k, sums);
    else kernel.gemv(g.a, g.a_row, g.a_k, b, g.b_k, rows, cols, g.k, sums);
    Bf16Tile t = tile_at(g, 0, begin, g.m, cols);
    t.sums = sums;
    t.ld_sums = cols;
    if (in_registers(g.end.activation) || g.c32) {
      kernel.finish(t);
      if (!in_registers(g.end.activation)) activate_rows(g, 0, begin, g.m, cols, nullptr);
      return;
    }
    float scratch[kFewRows * kRowsCols];
    if (t.beta != 0) {
      for (int64_t r = 0; r < g.m; ++r) {
        for (int64_t j = 0; j < cols; ++j) {
          const uint32_t bits = static_cast<uint32_t>(t.c[r * t.ldc + j].bits) << 16;
          std::memcpy(&scratch[r * cols + j], &bits, 4);
        }
      }
    }
    t.c32 = scratch;
    t.ldc = cols;
    kernel.finish(t);
    activate_rows(g, 0, begin, g.m, cols, scratch);
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
  const bool pack_a = g.a_k != 1 || g.n > kFewPanels * kernel.nr;
  if (cost_of(g.m, g.n, g.k) <= kSerialCost && g.k <= kernel.kc) {  // one block: nothing to cut
    return compute_block(context, kernel, g, Block{0, 0, g.m, g.n, pack_a, g.packed_b});
  }
  gemm_blocked(context, kernel, g, pack_a);
}

template <>
void gemm_batched(Context* context, const BGemm& g, const GemmBatch& batch) {
  if (batch.count == 0 || g.m == 0 || g.n == 0) return;
  const auto item = [&](const BGemm& base, int64_t i) {
    BGemm one = base;
    one.a += i * batch.a;
    if (one.b) one.b += i * batch.b;
    if (one.c) one.c += i * batch.c;
    if (one.c32) one.c32 += i * batch.c;
    if (one.end.residual) one.end.residual += i * batch.residual;
    gemm(context, one);
  };
  const double cost = cost_of(g.m, g.n, g.k);
  BGemm base = g;
  const bool share = batch.b == 0 && batch.count > 1 && !g.packed_b && g.m > kFewRows;
  Workspace space(context, share ? static_cast<size_t>(packed_b_size<bfloat16>(g.k, g.n)) * 2 : 0);
  if (share) {
    pack_b(context, g.b, g.b_k, g.b_n, g.k, g.n, space.as<bfloat16>());
    base.packed_b = space.as<bfloat16>();
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
