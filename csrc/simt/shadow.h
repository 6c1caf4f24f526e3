// Finds races in shared memory: for every two bytes, who wrote them last and who has read them since, each
// with a time stamp. An access is in order with an earlier one by another thread if a barrier (or __syncwarp,
// within a warp) lies between: every warp knows, for every warp, up to which stamp that one's accesses are
// ordered before its own. Stamps only grow, over barriers and blocks alike, so nothing has to be cleared
// between blocks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fastdl::simt {

struct Clock {
  uint32_t now;        // stamp of this warp's next accesses (unused in barriers)
  uint32_t known[33];  // accesses of warp w up to stamp known[w] happened before; [32]: of bulk copies

  void join(const Clock& other) {
    for (int w = 0; w < 33; ++w) known[w] = known[w] > other.known[w] ? known[w] : other.known[w];
  }
};

struct Granule {
  uint32_t write_stamp;
  uint32_t first_read, last_read;  // stamps of the reads since the last write
  uint32_t reader_warps;           // and the warps that made them
  uint16_t writer;
  uint16_t reader;         // one of the readers
  uint16_t second_reader;  // another one, + 1
  uint16_t copier;         // thread whose copy is under way, + 1 (and 0x8000 for a bulk copy)
};

class Shadow {
 public:
  static constexpr size_t kBytes = 2;  // per granule: the smallest type kernels share memory in
  uint32_t tick() { return ++stamp_; }
  // Makes room for `bytes` and gives the first stamp of a new block.
  uint32_t begin(size_t bytes) {
    const size_t count = (bytes + kBytes - 1) / kBytes;
    if (granules_.size() < count) granules_.resize(count);
    if (stamp_ > 0xF0000000u) {
      granules_.assign(granules_.size(), Granule());
      stamp_ = 0;
    }
    return stamp_ += 2;
  }
  Granule* granules() { return granules_.data(); }

 private:
  std::vector<Granule> granules_;
  uint32_t stamp_ = 0;
};

}  // namespace fastdl::simt
