// A block of threads on one OS thread: its fibers, who can run, who waits where, and its barriers.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "arena.h"
#include "async.h"
#include "fiber.h"
#include "shadow.h"
#include "simt.h"

namespace fastdl::simt {

struct Block;

enum class State : uint8_t { ready, at_barrier, in_collective, at_mbarrier, at_cluster, ended };

// A box on its way to global memory.
struct BulkStore {
  const void* map;  // NULL: consecutive bytes
  int32_t at[5];
  uint32_t from;
  void* to;
  uint32_t bytes;
  bool add;
};
// Consecutive bytes that were read, and are still to be written.
struct BulkLine {
  void* to;
  bool add;
  std::vector<unsigned char> bytes;
};
struct WgmmaState;  // wgmma.cpp
struct FreeWgmma {
  void operator()(WgmmaState* state) const;
};

struct Thread : ThreadState {
  Fiber fiber;
  State state;
  uint8_t barrier_id;
  uint32_t mask;          // of the collective it is in
  const char* operation;  // where it waits
  const void* in;         // its input to the collective
  void* out;
  int result;        // of a barrier with a reduction
  unsigned atomics;  // see spin()
  AsyncCopies copies;
  uint32_t wait_address;  // the mbarrier it waits at, and the parity
  uint8_t wait_parity;
  bool cluster_arrived;
  unsigned cluster_phase;
  uint32_t proxy_fence;  // its stores before this stamp are fenced for the asynchronous proxy
  std::vector<BulkStore> stores;
  std::vector<size_t> store_groups;
  std::vector<BulkLine> lines;
  std::unique_ptr<WgmmaState, FreeWgmma> products;
  void* fault_address;  // set by the signal handler
  unsigned warp() const { return thread / 32; }
  unsigned lane() const { return thread % 32; }
  Block& owner() const { return *reinterpret_cast<Block*>(block); }
};

// A set of lanes on their way into the same collective.
struct Meeting {
  uint32_t mask, arrived;
  const char* operation;
};

struct Warp {
  uint32_t lanes;    // that exist
  uint32_t ready;    // can run now
  uint32_t yielded;  // can run once nobody else can
  uint32_t ended;
  uint32_t at_barrier;
  uint8_t rotation;  // which ready lane is next
  bool descending;
  unsigned meetings_open;
  Meeting meetings[32];
  Clock clock;  // what this warp's stores are ordered after
};

struct Barrier {
  const char* operation;  // of those who wait
  unsigned expected, arrived;
  int sum;
  bool arrived_only;     // somebody arrived without waiting
  uint32_t waiting[32];  // lanes, per warp
  Clock clock;           // what those who arrived without waiting have done
};

// An mbarrier in shared memory.
struct Mbarrier {
  uint32_t address;
  unsigned expected, pending, phase;
  int64_t bytes;  // that are still to come
  bool fenced;    // and so known beyond the threads of the block
  const Thread* maker;
  Clock clock, released;  // of those who arrived; the same when the last phase ended
  std::vector<Thread*> waiting;
};

struct Cluster;
class Worker;

struct Block : BlockState {
  Worker* worker;
  const char* kernel;
  const std::function<void()>* body;
  unsigned thread_count, warp_count;
  unsigned current_warp;
  uint32_t ready_warps, yielded_warps;
  unsigned live;  // threads that have not ended
  uint32_t random;
  uint32_t first_stamp;  // of this run: what the shadow recorded earlier is another block's
  bool failed = false;
  std::string failure;
  std::vector<Thread> threads;  // as many as any launch needed so far
  Warp warps[32];
  Barrier barriers[16];
  Arena arena;
  Shadow shadow;
  std::vector<Mbarrier> mbarriers;
  Cluster* cluster;
  unsigned cluster_rank;
  Clock cluster_clock, cluster_released;

  Block() = default;
  ~Block();
  Block(const Block&) = delete;
  void start(unsigned seed);
  void run();             // until nobody can run, or somebody failed
  bool resume_yielded();  // whether there were any
  std::string describe_stuck();
  std::string where(const Thread& thread) const;  // "kernel k, block (x, y, z), thread (x, y, z)"

  Thread* next();
  void wake(Warp& warp, uint32_t lanes);
  // Lets others run until the running thread is ready again.
  void wait(Thread& me);
  void arrive(Thread& me, const char* operation, int id, int count, int predicate, bool waits);
  void release(Barrier& barrier);
  void end_thread(Thread& me);
  Mbarrier& mbarrier(const char* operation, uint32_t address);
  void complete_if_done(Mbarrier& barrier);
};

// Unwinds the running fiber, whose block has failed.
struct Failure {};
void record_failure(const Thread& thread, const std::string& what);
[[noreturn]] void fail(const Thread& thread, const std::string& what);
[[noreturn]] void leave_thread(Thread& me);

inline Thread& running() { return *static_cast<Thread*>(self); }
std::string index_text(uint3 index);

// The next of the set bits of `set` in an order given by rotation and direction.
inline unsigned pick_bit(uint32_t set, unsigned rotation, bool descending) {
  const uint32_t turned = set >> rotation | set << (31 & (32 - rotation));
  const unsigned bit = descending ? 31u - static_cast<unsigned>(__builtin_clz(turned))
                                  : static_cast<unsigned>(__builtin_ctz(turned));
  return (bit + rotation) & 31;
}

}  // namespace fastdl::simt
