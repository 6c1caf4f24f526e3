// What embedding.cu and embedding_bag.cu share: indices read with a look at their range, and sums of rows.
#pragma once

#include "cuda/errors.cuh"
#include "cuda/map.cuh"
#include "cuda/tensor.h"

namespace fastdl::cuda {

struct ReadIndex {
  static constexpr bool kUsesIndex = true;  // in C order
  int64_t limit;
  uint32_t* error;
  template <class I>
  __device__ int64_t operator()(int64_t, I index) const {
    if (index >= 0 && index < limit) return index;
    note_error(error);
    return -1;
  }
};

// Indices of any strides as int64 in C order, -1 where they are outside [0, limit). A view of any other dtype
// stands for none.
class Indices {
 public:
  Indices(Context* context, const View& v, int64_t limit)
      : workspace_(context, is_float(v.dtype) ? 0 : static_cast<size_t>(v.size()) * sizeof(int64_t)) {
    if (is_float(v.dtype)) return;
    View flat = v;
    flat.dtype = DType::kInt64;
    flat.data = workspace_.as<void>();
    set_c_strides(flat);
    const ReadIndex read{limit, error_word()};
    if (v.dtype == DType::kInt64) map<int64_t, int64_t>(context, read, flat, v);
    else map<int64_t, int32_t>(context, read, flat, v);
  }
  int64_t* data() const { return workspace_.as<int64_t>(); }

 private:
  Workspace workspace_;
};

constexpr int kTableWarps = 8;  // of a block: each has a row of a table, or a share of a long sum
constexpr int kTableThreads = kTableWarps * kWarp;

// Which summands a row of a table is the sum of.
template <class T>
struct RowSums {
  int64_t limit, columns;
  const int64_t* places;  // sorted by row, and where each row's begin: see PlacesByRow
  const int64_t* starts;
  const int64_t* source;  // the row of the gradient that a place stands for; NULL: the place itself
  const T* factors;       // by place, or NULL
  const int64_t* which;   // NULL; else only where which[source][column] is the row, and once for each source
  bool by_frequency;      // divide by the number of places
};

// grad_weight[row] for every row of the table; see embedding.cu.
template <class S>
void sum_rows(Context* context, const RowSums<compute_t<S>>& sums, const S* grad, S* grad_weight);

}  // namespace fastdl::cuda
