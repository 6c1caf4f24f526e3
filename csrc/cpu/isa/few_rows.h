// A few rows times several packed panels at once: a tile of one to four rows alone keeps too few sums in
// flight to hide the latency of its instructions.
#pragma once

#include <cstdint>

#include "common/narrow.h"

namespace fastdl::cpu {

// Panel p begins p * panel_stride after `packed`, its sums p * out_stride after `out`, rows nr apart. Panels
// are as the tiles of S have them, and so is the order of every sum.
template <class S>
struct FewRows {
  static constexpr int kMostRows = 4;
  const S* a;
  int64_t ld, depth;
  int rows;  // up to kMostRows
  int64_t panels;
  const S* packed;
  int64_t panel_stride;
  compute_t<S>* out;
  int64_t out_stride;
};

}  // namespace fastdl::cpu
