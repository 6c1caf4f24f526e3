// A cluster of blocks on one OS thread, with the bulk copies that are under way in it (hopper.h).
#pragma once

#include <vector>

#include "block.h"
#include "hopper.h"

namespace fastdl::simt {

// Threads of bulk copies, as the shadow knows them: one past a block's, in a warp of its own.
constexpr unsigned kCopyEngine = 1024;
constexpr uint16_t kBulkCopier = 0x8000;

// One box on its way into one block.
struct BulkLoad {
  TensorMap map;
  int32_t at[kMaxTensorDims];
  uint16_t offsets[kMaxPixelDims];
  Block* block;
  uint32_t to, barrier, bytes;
  Thread* issuer;
};

// Words of st.async on their way.
struct AsyncStore {
  Block* block;
  uint32_t to, barrier, bytes;
  uint32_t words[4];
  Thread* issuer;
};

struct Cluster {
  std::vector<Block*> blocks;
  std::vector<BulkLoad> loads;
  std::vector<AsyncStore> stores;
  uint32_t random;
  unsigned arrived, phase;

  void start(unsigned seed);
  // When no thread can run: completes one load, or all stores in any order. False if there was none; failures
  // are the issuer's.
  bool deliver();
  bool deliver_stores();
  // Who began a copy or store that is under way, or NULL.
  const Thread* sender() const {
    return !loads.empty() ? loads[0].issuer : !stores.empty() ? stores[0].issuer : nullptr;
  }
  uint32_t next_random() {
    random ^= random << 13, random ^= random >> 17, random ^= random << 5;
    return random;
  }
  void arrive(Thread& me);
  void release_if_complete();
};

void mbarrier_complete(Block& block, uint32_t barrier, uint32_t bytes, const Thread& issuer);

bool has_products(const Thread& thread);

// Writes what bulk copies of the thread's have read.
void write_lines(Thread& thread);

// A read by the asynchronous proxy, at once.
void note_async_read(Block& block, uint32_t address, size_t bytes, const char* reader);

}  // namespace fastdl::simt
