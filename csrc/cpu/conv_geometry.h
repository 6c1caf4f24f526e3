// The checks of a convolution's shapes and options, and the sizes that follow from them.
#pragma once

#include "cpu/conv_plan.h"

namespace fastdl::cpu::conv {

// What a tensor is called in messages: the roles of `big` (the convolution's input) and `small` (its output)
// are exchanged in a transposed convolution.
struct Names {
  const char* op;
  const char* big;
  const char* small;
  const char* weight;
  bool transposed;
};

Geometry geometry(const View& big, const View& weight, const View& small, const fastdl_conv_options& o,
                  const Names& names);

}  // namespace fastdl::cpu::conv
