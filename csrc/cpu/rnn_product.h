// Products of rows with weights packed once for all steps, on the tiles of the matrix multiplication.
#pragma once

#include <algorithm>
#include <cstring>

#include "cpu/gemm.h"
#include "cpu/kernels.h"
#include "cpu/parallel.h"

#include "cpu/gemm_bf16.h"
#include "cpu/matrix_unit.h"

namespace fastdl::cpu {

// A group's sums for so many rows at a time lie in the L1 cache.
constexpr int64_t kRnnRows = 70;

// The tiles' side of a product with one panel.
template <class S>
struct RnnTiles {
  static const GemmKernelsOf<S>& kernel() { return gemm_kernels_of<S>(*kernels().gemm); }
  static int64_t nr() { return kernel().nr; }

  // out[r * ld_out + j] = sum over k of a[r * ld + k] times the panel, + bias[j] (NULL: nothing; nr of them).
  // Each element is one chain in the order of k: how rows are grouped into tiles changes no bit.
  // ahead: what the tiles fetch meanwhile.
  static void multiply(const S* a, int64_t ld, int64_t rows, int64_t depth, const S* panel, int64_t units,
                       const S* bias, S* out, int64_t ld_out, GemmAhead ahead = {}) {
    const auto& k = kernel();
    GemmPiece<S> piece{a, panel, depth};
    GemmTile<S> t{};
    t.pieces = &piece;
    t.count = 1;
    t.a_row = ld;
    t.a_k = 1;
    t.b_k = k.nr;
    t.cols = units <= k.width ? k.width : k.nr;  // panels are full: zeros beyond the units
    t.ldc = ld_out;
    t.alpha = S(1);
    t.bias = bias;
    t.ahead = ahead.rows > 0 ? &ahead : nullptr;
    // Tiles as equal as they can be: 16 rows are 8 + 8 rather than 14 + 2.
    for (int64_t blocks = (rows + k.mr - 1) / k.mr, row = 0; blocks > 0; --blocks) {
      t.rows = static_cast<int>((rows - row) / blocks);
      piece.a = a + row * ld;
      t.c = out + row * ld_out;
      gemm_tile(k, t);
      row += t.rows;
    }
  }
  // NULL: the tiles are as good.
  static auto few_rows() { return rnn_table(*kernels().rnn, S{}).few_rows; }
  // Held around a task's products.
  struct Unit {
    Unit() {}
  };
};

template <>
struct RnnTiles<bfloat16> {
  static const Bf16Kernels& kernel() { return *kernels().gemm_bf16; }
  static int64_t nr() { return kernel().nr; }

  static void multiply(const bfloat16* a, int64_t ld, int64_t rows, int64_t depth, const bfloat16* panel,
                       int64_t, const float* bias, float* out, int64_t ld_out, GemmAhead ahead = {}) {
    const Bf16Kernels& k = kernel();
    Bf16Piece piece{a, panel, depth};
    Bf16Tile t{};
    t.pieces = &piece;
    t.count = 1;
    t.a_row = ld;
    t.a_step = k.k_step;
    t.cols = k.nr;
    t.finish = bias != nullptr;
    t.alpha = 1;
    t.bias32 = bias;
    t.ld_sums = t.ldc = ld_out;
    t.ahead = ahead.rows > 0 ? &ahead : nullptr;
    // Matrix units work on full tiles; elsewhere equal ones are better.
    const bool full = k.height_step > 1;
    for (int64_t blocks = (rows + k.mr - 1) / k.mr, row = 0; blocks > 0; --blocks) {
      t.rows = static_cast<int>(full ? std::min<int64_t>(k.mr, rows - row) : (rows - row) / blocks);
      piece.a = a + row * ld;
      t.sums = t.c32 = out + row * ld_out;
      k.tile(t);
      row += t.rows;
    }
  }
  static auto few_rows() { return kernel().few_rows; }
  struct Unit {
    MatrixUnit held{kernel()};
  };
};

// gates * count columns of `depth` weights, packed per gate into panels of nr columns. Group u is panel u of
// every gate: the columns of nr neighbouring hidden units.
template <class S>
struct RnnMatrix {
  using A = compute_t<S>;
  int64_t gates = 1, count = 0, depth = 0;
  const S* packed = nullptr;

  static int64_t nr() { return RnnTiles<S>::nr(); }
  int64_t groups() const { return (count + nr() - 1) / nr(); }
  int64_t panel_size() const { return packed_b_size<S>(depth, nr()); }
  int64_t gate_size() const { return groups() * panel_size(); }
  int64_t size() const { return gates * gate_size(); }
  int64_t units(int64_t group) const { return std::min(nr(), count - group * nr()); }
  const S* panel(int64_t gate, int64_t group) const {
    return packed + gate * gate_size() + group * panel_size();
  }

  // A panel to be used next, if the panels are more than the caches of one core keep from step to step.
  GemmAhead ahead(int64_t gate, int64_t group) const {
    constexpr int64_t kKept = 512 << 10;
    const int64_t bytes = panel_size() * static_cast<int64_t>(sizeof(S)) / 64 * 64;
    if (size() * static_cast<int64_t>(sizeof(S)) <= kKept || bytes == 0) return {};
    const char* const at = reinterpret_cast<const char*>(panel(gate, group));
    return {at, at + bytes, 0, 1, bytes};
  }

  // Packs element (k, gate, j) = source[(gate * count + j) * column_stride + k * row_stride] into `out`.
  void pack(Context* context, const S* source, int64_t column_stride, int64_t row_stride, S* out) {
    if (count % nr() == 0) {
      pack_b<S>(context, source, row_stride, column_stride, depth, gates * count, out);
    } else {
      for (int64_t g = 0; g < gates; ++g) {
        pack_b<S>(context, source + g * count * column_stride, row_stride, column_stride, depth, count,
                  out + g * gate_size());
      }
    }
    packed = out;
  }

  // finish(group, row, count, sums, gate_stride) for groups [first, last) (or from the last to the first) and
  // all rows, kRnnRows at most at a time: sums[g * gate_stride + r * nr + j] is the product of row `row` + r.
  template <class Finish>
  void each_group(const S* a, int64_t ld, int64_t rows, int64_t first, int64_t last, bool backwards,
                  Finish&& finish) const {
    constexpr int64_t kLine = 128 / sizeof(A);  // nr is no more in any instruction set
    alignas(64) A sums[4 * kRnnRows * kLine];
    if (rows <= 0) return;
    const auto few = RnnTiles<S>::few_rows();
    if (few && rows <= FewRows<S>::kMostRows) {
      // One panel alone keeps too few multiply-adds in flight: four gates, or four groups at once.
      const int64_t most = gates == 1 ? 4 : 1, stride = gates == 1 ? panel_size() : gate_size();
      for (int64_t i = first; i < last; i += most) {
        const int64_t n = std::min(most, last - i), u = backwards ? last - (i - first) - n : i;
        few({a, ld, depth, static_cast<int>(rows), gates * n, panel(0, u), stride, sums, rows * nr()});
        for (int64_t j = 0; j < n; ++j) finish(u + j, 0, rows, sums + j * rows * nr(), rows * nr());
      }
      return;
    }
    const int64_t chunks = (rows + kRnnRows - 1) / kRnnRows;
    for (int64_t i = first; i < last; ++i) {
      const int64_t u = backwards ? last - 1 - (i - first) : i;
      for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        const int64_t row = rows * chunk / chunks, count = rows * (chunk + 1) / chunks - row;
        const int64_t then = backwards ? u - 1 : u + 1;
        for (int64_t g = 0; g < gates; ++g) {
          const GemmAhead next = g + 1 < gates  ? ahead(g + 1, u)
                                 : i + 1 < last ? ahead(0, then)
                                                : GemmAhead{};
          RnnTiles<S>::multiply(a + row * ld, ld, count, depth, panel(g, u), units(u), nullptr,
                                sums + g * count * nr(), nr(), next);
        }
        finish(u, row, count, static_cast<const A*>(sums), count * nr());
      }
    }
  }
};

// C (+)= A B into full precision: contiguous C, A and B with any strides.
template <class S>
void gemm_wide(Context* context, int64_t m, int64_t n, int64_t k, const S* a, int64_t a_row, int64_t a_k,
               const S* b, int64_t b_k, int64_t b_n, compute_t<S>* c, int64_t ldc, bool add) {
  Gemm<S> g{m, n, k, a, a_row, a_k, b, b_k, b_n, nullptr, ldc};
  if constexpr (sizeof(S) == 2) g.c32 = c;
  else g.c = c;
  g.end.beta = add ? compute_t<S>(1) : compute_t<S>(0);
  gemm(context, g);
}

// C = A B, rounded to S.
template <class S>
void gemm_narrow(Context* context, int64_t m, int64_t n, int64_t k, const S* a, int64_t a_row, int64_t a_k,
                 const S* b, int64_t b_k, int64_t b_n, S* c, int64_t ldc) {
  const Gemm<S> g{m, n, k, a, a_row, a_k, b, b_k, b_n, c, ldc};
  gemm(context, g);
}

}  // namespace fastdl::cpu
