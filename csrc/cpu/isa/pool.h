// Kernels of the pool family: rows of windows or of input positions, over contiguous channels.
#pragma once

#include <cstdint>

#include "common/narrow.h"

namespace fastdl::cpu {

// A row of windows with the same taps: window o has them at positions[t] + o * step of the input plane.
struct PoolRow {
  int64_t outputs, step, taps;
  const int64_t* positions;
  int64_t stride;    // elements from one position to the next: all channels
  int64_t channels;  // of them, those wanted
  int64_t ahead;  // elements from here to what is wanted for the next row, if that comes from memory, else 0
};

// A row of input positions and the windows that reach them: position p of the row is reached by windows
// [first[p], last[p]) of the window rows that begin at window starts[0], starts[1], ...
struct PoolReach {
  int64_t width, rows;
  int64_t position;  // of the row's first element in its plane
  const int64_t* starts;
  const int32_t *first, *last;
  int64_t channels;
};

// A row of windows none of which shares a position with another: window o has the taps side by side from
// position + o * step on.
struct PoolApart {
  int64_t outputs, step, taps;
  int64_t position;  // in its plane
  int64_t channels;
};

template <class S>
struct PoolTable {
  using T = compute_t<S>;
  // Maxima, and their positions unless `where` is NULL; x: the input plane.
  void (*max_row)(const PoolRow& row, const S* x, S* out, int32_t* where);
  // scale * sum
  void (*sum_row)(const PoolRow& row, const S* x, T scale, S* out);
  // dx = the sum of the dy of those windows whose maximum it was; dx: the row.
  void (*max_reach)(const PoolReach& row, const S* dy, const int32_t* where, S* dx);
  // dx = the sum of dy times scales[row of windows][window].
  void (*sum_reach)(const PoolReach& row, const S* dy, const T* const* scales, S* dx);
  // The same where windows lie apart: from the first tap of the first window to the last of the last, each
  // position is written once, zeros between windows. scales: of each window.
  void (*max_apart)(const PoolApart& row, const S* dy, const int32_t* where, S* dx);
  void (*sum_apart)(const PoolApart& row, const S* dy, const T* scales, S* dx);
};

struct PoolKernels {
  PoolTable<float> f32;
  PoolTable<double> f64;
  PoolTable<bfloat16> bf16;
  PoolTable<float16> f16;
};

template <class S>
const PoolTable<S>& table_for(const PoolKernels& k) {
  return table_of<S>(k);
}

}  // namespace fastdl::cpu
