// Clusters: their barrier, and each other's shared memory.
#include "cluster.h"

#include <cstring>

#include "worker.h"

namespace fastdl::simt {

void Cluster::start(unsigned seed) {
  blocks.clear();
  loads.clear();
  stores.clear();
  random = seed * 2654435761u | 1;
  arrived = phase = 0;
}

void Cluster::arrive(Thread& me) {
  if (me.cluster_arrived) fail("barrier.cluster.arrive twice without a wait");
  Block& block = me.owner();
  Warp& warp = block.warps[me.warp()];
  block.cluster_clock.join(warp.clock);
  block.cluster_clock.known[me.warp()] = warp.clock.now;
  warp.clock.known[me.warp()] = warp.clock.now;
  warp.clock.now = block.shadow.tick();
  me.cluster_arrived = true;
  me.cluster_phase = phase;
  ++arrived;
  release_if_complete();
}

void Cluster::release_if_complete() {
  unsigned live = 0;
  for (const Block* block : blocks) live += block->live;
  if (arrived == 0 || arrived != live) return;
  arrived = 0;
  ++phase;
  for (Block* block : blocks) {
    ++block->worker->progress;
    block->cluster_released = block->cluster_clock;
    for (unsigned t = 0; t < block->thread_count; ++t) {
      Thread& thread = block->threads[t];
      if (thread.state != State::at_cluster) continue;
      Warp& warp = block->warps[thread.warp()];
      warp.clock.join(block->cluster_released);
      thread.state = State::ready;
      block->wake(warp, 1u << thread.lane());
    }
  }
}

unsigned cluster_rank() { return running().owner().cluster_rank; }
unsigned cluster_size() { return static_cast<unsigned>(running().owner().cluster->blocks.size()); }

void cluster_arrive() {
  Thread& me = running();
  me.owner().cluster->arrive(me);
}

void cluster_wait() {
  Thread& me = running();
  Block& block = me.owner();
  if (!me.cluster_arrived) fail("barrier.cluster.wait without an arrive");
  me.cluster_arrived = false;
  if (block.cluster->phase != me.cluster_phase) {
    block.warps[me.warp()].clock.join(block.cluster_released);
    return;
  }
  me.operation = "barrier.cluster.wait";
  me.state = State::at_cluster;
  block.wait(me);
}

uint32_t map_shared(uint32_t address, unsigned rank) {
  if (rank >= cluster_size()) fail("mapa: the cluster has no block " + std::to_string(rank));
  return (address & 0xFFFFFFu) | (rank + 1) << 24;
}

unsigned char* cluster_memory(const char* operation, uint32_t address, size_t bytes) {
  const Block& mine = running().owner();
  const unsigned tag = address >> 24;
  const Block& block = tag == 0 ? mine : *mine.cluster->blocks[tag - 1];
  address &= 0xFFFFFFu;
  if (!block.live) fail(std::string(operation) + ": the block whose shared memory it is has ended");
  if (address + bytes > block.shared_bytes) {
    fail(std::string(operation) + ": offset " + std::to_string(address) + " of " +
         std::to_string(block.shared_bytes) + " bytes of shared memory");
  }
  if (address % bytes) fail(std::string(operation) + ": its address is not aligned");
  unsigned char* const memory = block.shared + address;
  if (&block == &mine) note_read(memory, bytes);
  return memory;
}

void store_async(uint32_t address, const uint32_t* words, int count, uint32_t barrier) {
  constexpr const char* kName = "st.async";
  Thread& me = running();
  Cluster& cluster = *me.owner().cluster;
  AsyncStore store{};
  store.bytes = 4u * static_cast<unsigned>(count);
  const unsigned tag = address >> 24;
  if (tag == 0 || tag != barrier >> 24) {
    fail(std::string(kName) + ": its address and its mbarrier have to be mapped to one block of the cluster");
  }
  // Nobody may read what was there from here on, nor what comes before it has been waited for.
  std::memset(cluster_memory(kName, address, store.bytes), 0xFF, store.bytes);
  store.block = cluster.blocks[tag - 1];
  store.to = address & 0xFFFFFFu, store.barrier = barrier & 0xFFFFFFu;
  std::memcpy(store.words, words, store.bytes);
  store.issuer = &me;
  cluster.stores.push_back(store);
}

bool Cluster::deliver_stores() {
  const std::vector<AsyncStore> all = std::move(stores);
  stores.clear();
  for (size_t i = 0, n = all.size(), at = n ? next_random() % n : 0; i < n; ++i, at = (at + 1) % n) {
    const AsyncStore& store = all[at];
    Block& block = *store.block;
    if (!block.live) {
      record_failure(*store.issuer, "st.async: the block that it goes to has ended");
      return true;
    }
    std::memcpy(block.shared + store.to, store.words, store.bytes);
    ++block.worker->progress;
    mbarrier_complete(block, store.barrier, store.bytes, *store.issuer);
  }
  return !all.empty();
}

}  // namespace fastdl::simt
