// A block's dynamic shared memory. It ends at a page nobody may touch, so that an access past its end faults
// at once.
#pragma once

#include <cstddef>

namespace fastdl::simt {

class Arena {
 public:
  Arena() = default;
  ~Arena();
  Arena(const Arena&) = delete;

  // Gives `bytes`, rounded up to 16, full of 0xFF (NaN). The start is aligned to the largest power of two up
  // to 1024 that divides the rounded size: a struct of alignment a, whose size is a multiple of a, is
  // therefore aligned.
  unsigned char* prepare(size_t bytes);
  bool is_guard(const void* address) const;

 private:
  unsigned char* memory_ = nullptr;  // first guard page
  unsigned char* end_ = nullptr;     // last guard page
};

}  // namespace fastdl::simt
