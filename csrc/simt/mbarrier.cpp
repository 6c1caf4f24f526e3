// mbarriers: phases that end when all arrivals and all bytes have come.
#include <cstring>

#include "cluster.h"
#include "worker.h"

namespace fastdl::simt {
namespace {

constexpr unsigned kMostCount = (1u << 20) - 1;

unsigned char* own_pointer(uint32_t address) { return running().block->shared + address; }

// What came before an arrival is ordered before what follows the end of the phase; what comes after is not.
void release_clock(Thread& me, Mbarrier& barrier) {
  Block& block = me.owner();
  Warp& warp = block.warps[me.warp()];
  barrier.clock.join(warp.clock);
  barrier.clock.known[me.warp()] = warp.clock.now;
  warp.clock.known[me.warp()] = warp.clock.now;
  warp.clock.now = block.shadow.tick();
}

}  // namespace

uint32_t shared_address(const void* pointer) {
  const BlockState& block = *self->block;
  const auto offset = static_cast<size_t>(static_cast<const unsigned char*>(pointer) - block.shared);
  if (offset > block.shared_bytes) fail("an address that is not in the block's shared memory");
  return static_cast<uint32_t>(offset);
}

Mbarrier& Block::mbarrier(const char* operation, uint32_t address) {
  for (Mbarrier& barrier : mbarriers) {
    if (barrier.address == address) return barrier;
  }
  fail(std::string(operation) + ": no mbarrier was initialised at offset " + std::to_string(address) +
       " of the shared memory of block " + index_text(block_idx));
}

void Block::complete_if_done(Mbarrier& barrier) {
  if (barrier.pending != 0 || barrier.bytes != 0) return;
  ++barrier.phase;
  barrier.pending = barrier.expected;
  barrier.released = barrier.clock;
  ++worker->progress;
  for (Thread* thread : barrier.waiting) {
    Warp& warp = warps[thread->warp()];
    warp.clock.join(barrier.released);
    thread->state = State::ready;
    wake(warp, 1u << thread->lane());
  }
  barrier.waiting.clear();
}

void mbarrier_init(uint32_t address, unsigned count) {
  Thread& me = running();
  Block& block = me.owner();
  if (address % 8) fail("mbarrier.init: its address is not aligned to 8 bytes");
  if (count == 0 || count > kMostCount) fail("mbarrier.init: a count of " + std::to_string(count));
  for (const Mbarrier& barrier : block.mbarriers) {
    if (barrier.address == address) fail("mbarrier.init of an mbarrier that is in use");
  }
  note_write(own_pointer(address), 8);
  Mbarrier barrier{};
  barrier.address = address;
  barrier.expected = barrier.pending = count;
  barrier.maker = &me;
  block.mbarriers.push_back(barrier);
}

void mbarrier_fence_init() {
  Thread& me = running();
  for (Mbarrier& barrier : me.owner().mbarriers) {
    if (barrier.maker == &me) barrier.fenced = true;
  }
}

void mbarrier_arrive(const char* operation, uint32_t address, unsigned count, unsigned bytes) {
  Thread& me = running();
  const unsigned tag = address >> 24;
  const bool own = tag == 0 || tag - 1 == me.owner().cluster_rank;
  Block& block = own ? me.owner() : *me.owner().cluster->blocks[tag - 1];
  address &= 0xFFFFFFu;
  if (!block.live) fail(std::string(operation) + ": the block of the mbarrier has ended");
  if (own) note_read(own_pointer(address), 8);
  Mbarrier& barrier = block.mbarrier(operation, address);
  if (!own && !barrier.fenced) {
    fail(std::string(operation) + ": another block's mbarrier without fence.mbarrier_init after its init");
  }
  barrier.bytes += bytes;
  if (barrier.bytes > static_cast<int64_t>(kMostCount))
    fail(std::string(operation) + ": more bytes than an mbarrier can count");
  if (count > barrier.pending) {
    fail(std::string(operation) + ": more arrivals in a phase than the " + std::to_string(barrier.expected) +
         " of its init");
  }
  barrier.pending -= count;
  if (own) release_clock(me, barrier);
  block.complete_if_done(barrier);
}

void mbarrier_complete(Block& block, uint32_t address, uint32_t bytes, const Thread& issuer) {
  for (Mbarrier& barrier : block.mbarriers) {
    if (barrier.address != address) continue;
    if (!barrier.fenced) {
      return record_failure(issuer, "bulk copy: its mbarrier was not made known by fence.mbarrier_init");
    }
    barrier.bytes -= bytes;
    barrier.clock.known[kCopyEngine / 32] = block.shadow.tick();
    return block.complete_if_done(barrier);
  }
  record_failure(issuer, "bulk copy: no mbarrier was initialised at offset " + std::to_string(address));
}

void mbarrier_wait(uint32_t address, unsigned parity) {
  Thread& me = running();
  Block& block = me.owner();
  note_read(own_pointer(address), 8);
  Mbarrier& barrier = block.mbarrier("mbarrier.try_wait", address);
  if ((barrier.phase & 1) != (parity & 1)) {
    block.warps[me.warp()].clock.join(barrier.released);
    return;
  }
  me.operation = "mbarrier.try_wait";
  me.wait_address = address;
  me.wait_parity = parity & 1;
  me.state = State::at_mbarrier;
  barrier.waiting.push_back(&me);
  block.wait(me);
}

}  // namespace fastdl::simt
