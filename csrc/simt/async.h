// Asynchronous copies of one thread (cp.async). Bulk copies with mbarriers belong here too.
#pragma once

#include <cstddef>
#include <vector>

namespace fastdl::simt {

struct AsyncCopy {
  unsigned char* destination;
  const unsigned char* source;
  unsigned bytes, valid_bytes;
};

// Copies in the order of their issue; `group_ends[i]` is one past the last copy of committed group i.
struct AsyncCopies {
  std::vector<AsyncCopy> copies;
  std::vector<size_t> group_ends;
  void clear() {
    copies.clear();
    group_ends.clear();
  }
};

}  // namespace fastdl::simt
