// Conversion between float32 and the 16-bit types.
#pragma once

#include "cpu/tensor.h"

namespace fastdl::cpu {

// dst = src rounded to dst's dtype: same shape, no overlap, one of the two float32, the other bfloat16 or
// float16; any strides.
void convert(Context* context, const View& src, const View& dst);

// A C-contiguous float32 copy of a 16-bit view.
class Float32Copy {
 public:
  Float32Copy(Context* context, const View& v);
  const View& operator*() const { return view_; }
  const View* operator->() const { return &view_; }

 private:
  Workspace workspace_;
  View view_;
};

// Parameters and statistics, which are few beside the data: contiguous in the type they are computed with, a
// copy where they are stored in 16 bits (or strided).
class Computed {
 public:
  Computed(Context* context, const View& v);
  template <class T>
  T* as() const {
    return view_.as<T>();
  }

 private:
  Workspace workspace_;
  Contiguous contiguous_;
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
  ContiguousOut contiguous_;
  View view_;
};

}  // namespace fastdl::cpu
