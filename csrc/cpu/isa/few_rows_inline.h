// The loops of FewRows for what multiplies: `Step` has Storage, Sum, Factor (one vector of a panel), kLanes
// (sums of a vector), kDepth (terms of a step), zero(), factor(p), row(p), last_row(p) (the first term of a
// step only, of a row), add(sum, row, factor), store(sum, p).
#pragma once

#include "few_rows.h"
#include "simd.h"

namespace fastdl::cpu::FASTDL_ISA {

template <class Step, bool kLast, int kRows, int kPanels>
FASTDL_INLINE void few_rows_step(typename Step::Sum (&sums)[kPanels][kRows][2],
                                 const typename Step::Storage* a, int64_t ld, const typename Step::Storage* w,
                                 int64_t stride) {
  constexpr int kVector = Step::kLanes * Step::kDepth;
  FASTDL_UNROLL for (int p = 0; p < kPanels; ++p) {
    const typename Step::Factor lo = Step::factor(w + p * stride),
                                hi = Step::factor(w + p * stride + kVector);
    FASTDL_UNROLL for (int r = 0; r < kRows; ++r) {
      const auto row = kLast ? Step::last_row(a + r * ld) : Step::row(a + r * ld);
      sums[p][r][0] = Step::add(sums[p][r][0], row, lo);
      sums[p][r][1] = Step::add(sums[p][r][1], row, hi);
    }
  }
}

template <class Step, int kRows, int kPanels>
void few_rows_of(const FewRows<typename Step::Storage>& f) {
  typename Step::Sum sums[kPanels][kRows][2];
  FASTDL_UNROLL for (int p = 0; p < kPanels; ++p) {
    FASTDL_UNROLL for (int r = 0; r < kRows; ++r) sums[p][r][0] = sums[p][r][1] = Step::zero();
  }
  const typename Step::Storage *a = f.a, *w = f.packed;
  const int64_t ld = f.ld, stride = f.panel_stride;
  for (int64_t k = f.depth / Step::kDepth; k > 0; --k) {
    few_rows_step<Step, false>(sums, a, ld, w, stride);
    a += Step::kDepth;
    w += 2 * Step::kLanes * Step::kDepth;
  }
  if (f.depth % Step::kDepth) few_rows_step<Step, true>(sums, a, ld, w, stride);
  FASTDL_UNROLL for (int p = 0; p < kPanels; ++p) {
    FASTDL_UNROLL for (int r = 0; r < kRows; ++r) {
      auto* const out = f.out + p * f.out_stride + r * 2 * Step::kLanes;
      Step::store(sums[p][r][0], out);
      Step::store(sums[p][r][1], out + Step::kLanes);
    }
  }
}

// kFit: rows times panels whose two vectors of sums each fit the registers.
template <class Step, int kFit>
void few_rows(const FewRows<typename Step::Storage>& f) {
  using F = void (*)(const FewRows<typename Step::Storage>&);
  constexpr F table[4][4] = {
      {few_rows_of<Step, 1, 1>, few_rows_of<Step, 1, 2>, few_rows_of<Step, 1, 3>, few_rows_of<Step, 1, 4>},
      {few_rows_of<Step, 2, 1>, few_rows_of<Step, 2, 2>, few_rows_of<Step, 2, 3>, few_rows_of<Step, 2, 4>},
      {few_rows_of<Step, 3, 1>, few_rows_of<Step, 3, 2>, few_rows_of<Step, 3, 3>, few_rows_of<Step, 3, 4>},
      {few_rows_of<Step, 4, 1>, few_rows_of<Step, 4, 2>, few_rows_of<Step, 4, 3>, few_rows_of<Step, 4, 4>}};
  const int fit = kFit / f.rows, most = fit < 4 ? fit : 4;
  FewRows<typename Step::Storage> some = f;
  for (int64_t left = f.panels; left > 0;) {
    const int64_t times = (left + most - 1) / most;
    const int n = static_cast<int>((left + times - 1) / times);  // even: one panel alone would wait again
    table[f.rows - 1][n - 1](some);
    some.packed += n * f.panel_stride;
    some.out += n * f.out_stride;
    left -= n;
  }
}

}  // namespace fastdl::cpu::FASTDL_ISA
