// Places grouped by the row they name: a stable radix sort of (row, place), so that the places of a row stay
// in rising order, and where each row's group begins.
#pragma once

#include "cuda/context.h"

namespace fastdl::cuda {

class PlacesByRow {
 public:
  // rows[n]: each in [0, limit), or any other number for a place that belongs to no group.
  PlacesByRow(Context* context, const int64_t* rows, int64_t n, int64_t limit);
  const int64_t* places() const { return places_; }
  // Row r's places are places()[starts()[r]] .. places()[starts()[r + 1]].
  const int64_t* starts() const { return starts_; }

 private:
  Workspace workspace_;
  int64_t* places_;
  int64_t* starts_;
};

}  // namespace fastdl::cuda
