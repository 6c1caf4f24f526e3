// What every family needs to accept any strides: copies and contiguous stand-ins, in device memory.
#pragma once

#include "common/view.h"
#include "cuda/context.h"

namespace fastdl::cuda {

// Copies src into dst (same shape and dtype, any strides, no overlap).
void copy(Context* context, const View& src, const View& dst);
// The same between float dtypes, rounding once.
void convert(Context* context, const View& src, const View& dst);

// A C-contiguous view of `v`: `v` itself when it is contiguous, else a copy that lives as long as this
// object.
class Contiguous {
 public:
  Contiguous(Context* context, const View& v);
  const View& operator*() const { return view_; }
  const View* operator->() const { return &view_; }

 private:
  Workspace workspace_;
  View view_;
};

// A C-contiguous destination for `v`: `v` itself when contiguous, else scratch that write_back() copies to
// `v`.
class ContiguousOut {
 public:
  ContiguousOut(Context* context, const View& v);
  const View& operator*() const { return view_; }
  const View* operator->() const { return &view_; }
  void write_back();

 private:
  Context* context_;
  View target_;
  Workspace workspace_;
  View view_;
};

}  // namespace fastdl::cuda
