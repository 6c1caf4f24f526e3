#include "block.h"

#include <cstdio>
#include <map>

#include "cluster.h"
#include "device/atomic.h"
#include "worker.h"

namespace fastdl::simt {

__thread ThreadState* self __attribute__((tls_model("initial-exec"))) = nullptr;

namespace {

// Apart from thread_main, as the C++ runtime has to see the end of an exception on this stack.
__attribute__((noinline)) void run_body(Thread& me) {
  try {
    (*me.owner().body)();
    me.owner().end_thread(me);
  } catch (const Failure&) {
  } catch (const std::exception& e) {
    record_failure(me, e.what());
  } catch (...) {
    record_failure(me, "an exception");
  }
}

// What a thread's fiber runs. Nothing here has a frame that AddressSanitizer would mark: it is left for good.
void thread_main(void* argument) {
  entered_fiber();
  run_body(*static_cast<Thread*>(argument));
  leave_thread(*static_cast<Thread*>(argument));
}

std::string plural(unsigned count, const char* singular, const char* many) {
  return std::to_string(count) + " " + (count == 1 ? singular : many);
}

}  // namespace

std::string index_text(uint3 index) {
  return "(" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " + std::to_string(index.z) +
         ")";
}

Block::~Block() {
  for (Thread& thread : threads) free_stack(thread.fiber);
}

std::string Block::where(const Thread& thread) const {
  return std::string("kernel ") + kernel + ", block " + index_text(block_idx) + ", thread " +
         index_text(thread.thread_idx);
}

void Block::start(unsigned seed) {
  thread_count = block_dim.x * block_dim.y * block_dim.z;
  warp_count = (thread_count + 31) / 32;
  live = thread_count;
  // A failed block leaves stacks with frames on them, which AddressSanitizer still knows.
  for (size_t t = 0; failed && t < threads.size(); ++t) {
    FASTDL_SIMT_UNPOISON(threads[t].fiber.stack_low, threads[t].fiber.stack_bytes);
  }
  failed = false;
  failure.clear();
  random = seed | 1;
  current_warp = 0;
  ready_warps = yielded_warps = 0;
  shared = arena.prepare(shared_bytes);
  const uint32_t stamp = shadow.begin(shared_bytes);
  first_stamp = stamp;
  while (threads.size() < thread_count) {
    threads.emplace_back();
    allocate_stack(threads.back().fiber);
  }
  for (unsigned w = 0; w < warp_count; ++w) {
    Warp& warp = warps[w];
    const unsigned lanes = thread_count - w * 32 < 32 ? thread_count - w * 32 : 32;
    warp.lanes = lanes == 32 ? 0xFFFFFFFFu : (1u << lanes) - 1;
    warp.ready = warp.yielded = warp.ended = warp.at_barrier = 0;
    warp.meetings_open = 0;
    warp.clock.now = stamp;
    for (uint32_t& known : warp.clock.known) known = stamp - 1;
    wake(warp, warp.lanes);
  }
  for (Barrier& barrier : barriers) {
    barrier.operation = nullptr;
    barrier.arrived = 0;
  }
  mbarriers.clear();
  for (uint32_t& known : cluster_clock.known) known = 0;
  cluster_released = cluster_clock;
  uint3 index{0, 0, 0};
  for (unsigned t = 0; t < thread_count; ++t) {
    Thread& thread = threads[t];
    thread.thread_idx = index;
    thread.thread = t;
    thread.block = this;
    thread.state = State::ready;
    thread.operation = nullptr;
    thread.atomics = 0;
    thread.copies.clear();
    thread.stores.clear();
    thread.store_groups.clear();
    thread.lines.clear();
    thread.products.reset();
    thread.cluster_arrived = false;
    thread.cluster_phase = 0;
    thread.proxy_fence = 0;
    prepare_fiber(thread.fiber, thread_main, &thread, t);
    if (++index.x == block_dim.x) {
      index.x = 0;
      if (++index.y == block_dim.y) index.y = 0, ++index.z;
    }
  }
}

// --- who runs ---

void Block::wake(Warp& warp, uint32_t lanes) {
  random ^= random << 13;
  random ^= random >> 17;
  random ^= random << 5;
  warp.rotation = random & 31;
  warp.descending = random >> 5 & 1;
  warp.ready |= lanes;
  ready_warps |= 1u << (&warp - warps);
}

// Stays in a warp while any of its lanes can run: their stacks are in the cache.
Thread* Block::next() {
  Warp* warp = &warps[current_warp];
  if (!warp->ready) {
    if (!ready_warps) return nullptr;
    current_warp = pick_bit(ready_warps, random >> 8 & 31, random >> 13 & 1);
    warp = &warps[current_warp];
  }
  const unsigned lane = pick_bit(warp->ready, warp->rotation, warp->descending);
  warp->ready &= ~(1u << lane);
  if (!warp->ready) ready_warps &= ~(1u << current_warp);
  return &threads[current_warp * 32 + lane];
}

void Block::wait(Thread& me) {
  Thread* other = next();
  if (other == &me) return;
  self = other;
  switch_fiber(me.fiber, other ? other->fiber : worker->fiber);
}

void Block::run() {
  Thread* first = next();
  if (!first) return;
  self = first;
  switch_fiber(worker->fiber, first->fiber);
  self = nullptr;
}

bool Block::resume_yielded() {
  if (!yielded_warps) return false;
  for (uint32_t set = yielded_warps; set; set &= set - 1) {
    Warp& warp = warps[__builtin_ctz(set)];
    wake(warp, warp.yielded);
    warp.yielded = 0;
  }
  yielded_warps = 0;
  return true;
}

void spin() {
  Thread& me = running();
  Block& block = me.owner();
  block.warps[me.warp()].yielded |= 1u << me.lane();
  block.yielded_warps |= 1u << me.warp();
  me.operation = "a loop that waits for another thread";
  block.wait(me);
}

void count_atomic() {
  if (self && ++running().atomics % 256 == 0) spin();
}

void Block::end_thread(Thread& me) {
  if (!me.copies.copies.empty()) {
    fail(me, "ended with " + plural(static_cast<unsigned>(me.copies.copies.size()), "cp.async", "cp.asyncs") +
                 " that it never waited for");
  }
  if (!me.stores.empty()) {
    fail(me, "ended with " + plural(static_cast<unsigned>(me.stores.size()), "bulk store", "bulk stores") +
                 " that it never waited for");
  }
  write_lines(me);
  if (has_products(me)) fail(me, "ended with a wgmma that it never waited for");
  Warp& warp = warps[me.warp()];
  me.state = State::ended;
  warp.ended |= 1u << me.lane();
  --live;
  ++worker->progress;
  if (me.cluster_arrived) --cluster->arrived;
  cluster->release_if_complete();
  for (const Barrier& barrier : barriers) {
    if (barrier.arrived && barrier.expected == thread_count && !barrier.arrived_only) {
      fail(me, std::string("divergent barrier: it ended while ") +
                   plural(barrier.arrived, "other thread waits", "other threads wait") + " at " +
                   barrier.operation);
    }
  }
  for (unsigned m = 0; m < warp.meetings_open; ++m) {
    const Meeting& meeting = warp.meetings[m];
    if (meeting.mask >> me.lane() & 1) {
      const unsigned lane = static_cast<unsigned>(__builtin_ctz(meeting.arrived));
      fail(threads[me.warp() * 32 + lane], std::string("divergent ") + meeting.operation + ": thread " +
                                               index_text(me.thread_idx) +
                                               ", which its mask names, has ended");
    }
  }
}

// --- what went wrong ---

// Goes on with somebody else; nobody comes back. After a failure the other fibers stay where they are.
void leave_thread(Thread& me) {
  Block& block = me.owner();
  Thread* other = block.failed ? nullptr : block.next();
  self = other;
  switch_fiber(me.fiber, other ? other->fiber : block.worker->fiber);
  __builtin_unreachable();
}

void record_failure(const Thread& thread, const std::string& what) {
  Block& block = thread.owner();
  block.failed = true;
  block.failure = block.where(thread) + ": " + what;
}

void fail(const Thread& thread, const std::string& what) {
  record_failure(thread, what);
  throw Failure();
}

void fail(const std::string& what) {
  if (!self) throw Error(what);
  fail(running(), what);
}

// Where every thread stands, those at the same place together.
std::string Block::describe_stuck() {
  struct Group {
    unsigned count = 0;
    const Thread* example = nullptr;
  };
  std::map<std::string, Group> groups;
  const Thread* stuck = nullptr;     // a thread to name: rather one in a collective,
  const Thread* diverged = nullptr;  // as others then are most likely where they should not be
  for (unsigned t = 0; t < thread_count; ++t) {
    const Thread& thread = threads[t];
    std::string place = "ended";
    if (thread.state == State::at_barrier) {
      const Barrier& b = barriers[thread.barrier_id];
      place = std::string("at ") + b.operation + " (barrier " + std::to_string(thread.barrier_id) + ": " +
              std::to_string(b.arrived) + " of " + std::to_string(b.expected) + " threads arrived)";
    } else if (thread.state == State::in_collective) {
      char mask[16];
      std::snprintf(mask, sizeof mask, "0x%08x", thread.mask);
      place = std::string("in ") + thread.operation + " with mask " + mask;
      if (!diverged) diverged = &thread;
    } else if (thread.state == State::at_mbarrier) {
      for (const Mbarrier& b : mbarriers) {
        if (b.address != thread.wait_address) continue;
        place = "at the mbarrier at offset " + std::to_string(b.address) +
                " for the end of a phase of parity " + std::to_string(thread.wait_parity) + " (in phase " +
                std::to_string(b.phase) + ": " + std::to_string(b.pending) + " of " +
                std::to_string(b.expected) + " arrivals missing, " + std::to_string(b.bytes) +
                " bytes to come)";
      }
    } else if (thread.state == State::at_cluster) {
      place = "at barrier.cluster.wait (" + std::to_string(cluster->arrived) + " threads arrived)";
    } else if (thread.state == State::ready) {
      place = std::string("in ") + (thread.operation ? thread.operation : "the kernel");
    }
    if (thread.state != State::ended && !stuck) stuck = &thread;
    Group& group = groups[place];
    if (group.count++ == 0) group.example = &thread;
  }
  const Thread& named = diverged ? *diverged : *stuck;
  std::string text = where(named) + ": " +
                     (diverged ? std::string("divergent ") + diverged->operation : std::string("deadlock")) +
                     ", no thread of the block can go on:";
  const char* separator = " ";
  for (const auto& [place, group] : groups) {
    text += separator + plural(group.count, "thread", "threads") + " " + place + ", such as " +
            index_text(group.example->thread_idx);
    separator = "; ";
  }
  return text;
}

}  // namespace fastdl::simt
