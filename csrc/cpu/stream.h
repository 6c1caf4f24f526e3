// Outputs too large for the cache are written past it: a store to a line that is not in the cache reads the
// line first, so a copy moves three bytes for every two, and it drives out what the next op could have found.
#pragma once

#include "cpu/context.h"
#include "cpu/kernels.h"

namespace fastdl::cpu {

// True for outputs of which the last-level cache would not keep much, beside the input they come from.
bool exceeds_cache(int64_t bytes);

// To be called by a task that has written past the cache itself, before another thread is told that it is
// done.
inline void end_stream() {
  char nothing;
  kernels().arithmetic->stream(0, &nothing, &nothing);
}

// The way a task writes its part of an output.
class Output {
 public:
  explicit Output(int64_t bytes) : past_cache_(exceeds_cache(bytes)) {}

  // write(p, first, count) fills p with `count` rows of n elements that belong at to + first * n; p is that
  // place itself or scratch memory, so it must not hold an input.
  template <class S, class Write>
  void put_rows(Context* context, S* to, int64_t rows, int64_t n, Write&& write) const {
    if (!past_cache_) return write(to, int64_t{0}, rows);
    const int64_t group = n < piece<S>() ? piece<S>() / n : 1;
    const Workspace scratch(context, static_cast<size_t>(group * n) * sizeof(S));
    for (int64_t first = 0; first < rows; first += group) {
      const int64_t count = rows - first < group ? rows - first : group;
      write(scratch.as<S>(), first, count);
      kernels().arithmetic->stream(count * n * static_cast<int64_t>(sizeof(S)), scratch.as<S>(),
                                   to + first * n);
    }
  }

  // The same for elements that do not depend on each other: write(p, begin, end).
  template <class S, class Write>
  void put_pieces(Context* context, S* to, int64_t begin, int64_t end, Write&& write) const {
    if (!past_cache_) return write(to + begin, begin, end);
    const Workspace scratch(context, static_cast<size_t>(piece<S>()) * sizeof(S));
    for (int64_t i = begin; i < end; i += piece<S>()) {
      const int64_t n = end - i < piece<S>() ? end - i : piece<S>();
      write(scratch.as<S>(), i, i + n);
      kernels().arithmetic->stream(n * static_cast<int64_t>(sizeof(S)), scratch.as<S>(), to + i);
    }
  }

  bool past_cache() const { return past_cache_; }

 private:
  // Elements of scratch: a sixth of an L1 cache, since inputs pass through it as well.
  template <class S>
  static constexpr int64_t piece() {
    return 8192 / static_cast<int64_t>(sizeof(S));
  }

  bool past_cache_;
};

}  // namespace fastdl::cpu
