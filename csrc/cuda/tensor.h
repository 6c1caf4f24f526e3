// What every family needs to accept any strides: copies and contiguous stand-ins, in device memory.
#pragma once

#include "common/view.h"
#include "cuda/context.h"

namespace fastdl::cuda {

// Copies src into dst (same shape and dtype, any strides, no overlap).
void copy(Context* context, const View& src, const View& dst);
// The same between float dtypes, rounding once.
void convert(Context* context, const View& src, const View& dst);

// A C-contiguous view of `v`: `v` itself when it is contiguous and begins at a multiple of 16 bytes, else a
// copy that lives as long as this object.
class Contiguous {
 public:
  Contiguous(Context* context, const View& v);
  const View& operator*() const { return view_; }
  const View* operator->() const { return &view_; }

 private:
  Workspace workspace_;
  View view_;
};

// A C-contiguous destination for `v`: `v` itself when it is so, else scratch that write_back() copies to
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

// Parameters and statistics, which are few beside the data: contiguous in the type they are computed with, a
// copy where they are stored in 16 bits (or strided). NULL for a view without data.
class Computed {
 public:
  Computed(Context* context, const View& v);
  template <class T>
  T* as() const {
    return view_.as<T>();
  }

 private:
  Workspace workspace_;
  View view_;
};

// A destination like that; write_back() rounds or copies to `v` where they differ.
class ComputedOut {
 public:
  ComputedOut(Context* context, const View& v);
  template <class T>
  T* as() const {
    return view_.as<T>();
  }
  void write_back();

 private:
  Context* context_;
  View target_;
  Workspace workspace_;
  View view_;
};

}  // namespace fastdl::cuda
