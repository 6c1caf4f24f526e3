// __syncthreads and the named barriers.
#include "block.h"
#include "worker.h"

namespace fastdl::simt {

void Block::arrive(Thread& me, const char* operation, int id, int count, int predicate, bool waits) {
  if (id < 0 || id > 15) fail(me, std::string(operation) + ": there is no barrier " + std::to_string(id));
  if (count % 32 != 0 || count < 0 || count > static_cast<int>(warp_count * 32)) {
    fail(me, std::string(operation) + ": a barrier for " + std::to_string(count) +
                 " threads; it has to be a multiple of 32 and no more than the block has");
  }
  Barrier& barrier = barriers[id];
  const unsigned expected =
      count == 0 || count > static_cast<int>(thread_count) ? thread_count : static_cast<unsigned>(count);
  // (Threads may end after bar.arrive, before the barrier is complete.)
  const bool all_wait = barrier.arrived == 0 || !barrier.arrived_only;
  if (expected == thread_count && live < thread_count && all_wait) {
    for (unsigned t = 0; t < thread_count; ++t) {
      if (threads[t].state == State::ended) {
        fail(me, std::string("divergent barrier: at ") + operation + ", but thread " +
                     index_text(threads[t].thread_idx) + " has ended");
      }
    }
  }
  if (barrier.arrived == 0) {
    barrier.expected = expected;
    barrier.operation = operation;
    barrier.sum = 0;
    barrier.arrived_only = false;
    for (uint32_t& lanes : barrier.waiting) lanes = 0;
    for (uint32_t& known : barrier.clock.known) known = 0;
  } else if (barrier.expected != expected) {
    fail(me, std::string("divergent barrier: at ") + operation + " for " + std::to_string(expected) +
                 " threads, where others wait at barrier " + std::to_string(id) + " for " +
                 std::to_string(barrier.expected));
  } else if (waits && barrier.operation != operation && std::strcmp(barrier.operation, operation) != 0 &&
             std::strcmp(barrier.operation, "bar.arrive") != 0) {
    fail(me,
         std::string("divergent barrier: at ") + operation + ", where others wait at " + barrier.operation);
  }
  if (waits) barrier.operation = operation;
  barrier.sum += predicate != 0;
  ++barrier.arrived;
  Warp& warp = warps[me.warp()];
  if (waits) {
    barrier.waiting[me.warp()] |= 1u << me.lane();
    me.barrier_id = static_cast<uint8_t>(id);
    me.state = State::at_barrier;
  } else {
    barrier.arrived_only = true;
    // It goes on at once: what it has done so far is ordered before those who wait, what it does next is not.
    barrier.clock.join(warp.clock);
    barrier.clock.known[me.warp()] = warp.clock.now;
    warp.clock.known[me.warp()] = warp.clock.now;
    warp.clock.now = shadow.tick();
  }
  if (barrier.arrived == barrier.expected) release(barrier);
}

void Block::release(Barrier& barrier) {
  ++worker->progress;
  const int sum = barrier.sum;
  Clock& all = barrier.clock;
  for (unsigned w = 0; w < warp_count; ++w) {
    if (!barrier.waiting[w]) continue;
    all.join(warps[w].clock);
    all.known[w] = warps[w].clock.now;
  }
  const uint32_t now = shadow.tick();
  for (unsigned w = 0; w < warp_count; ++w) {
    const uint32_t lanes = barrier.waiting[w];
    if (!lanes) continue;
    Warp& warp = warps[w];
    warp.clock.join(all);
    warp.clock.now = now;
    for (uint32_t set = lanes; set; set &= set - 1) {
      Thread& thread = threads[w * 32 + static_cast<unsigned>(__builtin_ctz(set))];
      thread.state = State::ready;
      thread.result = sum;
    }
    wake(warp, lanes);
  }
  barrier.arrived = 0;
}

int barrier(const char* operation, int id, int count, int predicate) {
  Thread& me = running();
  Block& block = me.owner();
  block.arrive(me, operation, id, count, predicate, true);
  // The last to arrive queues up with the others, so that it is not always the first to leave.
  block.wait(me);
  return me.result;
}

void barrier_arrive(int id, int count) {
  Thread& me = running();
  me.owner().arrive(me, "bar.arrive", id, count, 0, false);
}

}  // namespace fastdl::simt
