// Outputs too large for the cache are written past it: a store to a line that is not in the cache reads the
// line first, so a copy moves three bytes for every two, and it drives out what the next op could have found.
#pragma once

#include "cpu/context.h"
#include "cpu/kernels.h"

namespace fastdl::cpu {

// True for outputs of which the last-level cache would not keep much, beside the input they come from.
bool exceeds_cache(int64_t bytes);

// The way a task writes its part of an output.
class Output {
 public:
  explicit Output(int64_t bytes) : past_cache_(exceeds_cache(bytes)) {}

  // write(p) fills p with the n elements that belong at `to`; p is `to` itself or scratch memory, so it must
  // not hold an input. n elements fit a core's cache.
  template <class S, class Write>
  void put(Context* context, S* to, int64_t n, Write&& write) const {
    if (!past_cache_) return write(to);
    const Workspace scratch(context, static_cast<size_t>(n) * sizeof(S));
    write(scratch.as<S>());
    kernels().arithmetic->stream(n * static_cast<int64_t>(sizeof(S)), scratch.as<S>(), to);
  }

  // The same in pieces, for elements that do not depend on each other: write(p, begin, end).
  template <class S, class Write>
  void put_pieces(Context* context, S* to, int64_t begin, int64_t end, Write&& write) const {
    if (!past_cache_) return write(to + begin, begin, end);
    constexpr int64_t kPiece = 8192 / sizeof(S);  // a sixth of an L1 cache: inputs pass through it as well
    const Workspace scratch(context, static_cast<size_t>(kPiece) * sizeof(S));
    for (int64_t i = begin; i < end; i += kPiece) {
      const int64_t n = end - i < kPiece ? end - i : kPiece;
      write(scratch.as<S>(), i, i + n);
      kernels().arithmetic->stream(n * static_cast<int64_t>(sizeof(S)), scratch.as<S>(), to + i);
    }
  }

  bool past_cache() const { return past_cache_; }

 private:
  bool past_cache_;
};

}  // namespace fastdl::cpu
