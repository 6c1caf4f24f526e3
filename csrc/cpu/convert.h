// Conversion between float32 and the 16-bit types.
#pragma once

#include "cpu/tensor.h"

namespace fastdl::cpu {

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

}  // namespace fastdl::cpu
