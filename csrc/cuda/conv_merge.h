// Convolutions of few channels, of which a step of 64 would be mostly empty: the taps of the innermost axis,
// or of more, become channels. What is left is a convolution with as many positions, one tap along those axes
// and no padding, that Hopper's kernel takes as any other:
//
//   R x S taps of C channels  ->  R x 1 taps of S * C channels (conv_config.h: ConvMerge)
//
// Its image is made here, in memory of its own. Where `overlaps`, that is the padded image with a few
// channels more: the pixels that a line of taps meets lie side by side, so neighbouring positions overlap and
// their distance is less than their length. Else each position has its own copy. Zeros stand exactly where
// the convolution has its padding.
#pragma once

#include <optional>

#include "cuda/conv.h"
#include "cuda/conv_config.h"

namespace fastdl::cuda {

// How a forward pass or a weight gradient is merged, if Hopper's kernel is there for it and it pays.
std::optional<ConvMerge> merge_gather(Context* context, const ConvGeometry& g, const View& x);
std::optional<ConvMerge> merge_weight(Context* context, const ConvGeometry& g, const View& x);

class MergedConv {
 public:
  MergedConv(Context* context, const ConvGeometry& g, const View& x, const ConvMerge& m);
  const ConvGeometry& geometry() const { return geometry_; }
  const View& image() const { return image_; }
  const MergedTaps& taps() const { return taps_; }

 private:
  ConvGeometry geometry_;
  View image_;
  MergedTaps taps_;
  std::optional<Workspace> space_;
};

}  // namespace fastdl::cuda
