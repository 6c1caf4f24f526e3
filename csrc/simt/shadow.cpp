#include "shadow.h"

#include "block.h"
#include "cluster.h"
#include "shared_ref.h"

namespace fastdl::simt {
namespace {

constexpr uint16_t kNone = 0;

std::string place_text(const Block& block, const void* address, size_t bytes) {
  const auto offset = static_cast<const unsigned char*>(address) - block.shared;
  return std::to_string(bytes) + " bytes of shared memory at offset " + std::to_string(offset);
}

std::string thread_text(const Block& block, unsigned thread) {
  if (thread == kCopyEngine) return "a bulk copy that it has not waited for";
  return "thread " + index_text(block.threads[thread].thread_idx);
}

[[noreturn]] void fail_race(const Thread& me, const char* does, const void* address, size_t bytes,
                            const std::string& other, const char* did) {
  fail(std::string("race in shared memory: it ") + does + " " + place_text(me.owner(), address, bytes) +
       ", which " + other + " " + did + " without a barrier between");
}

void check_bounds(const Thread& me, const char* does, const void* address, size_t bytes) {
  const Block& block = me.owner();
  const auto offset = static_cast<size_t>(static_cast<const unsigned char*>(address) - block.shared);
  if (offset + bytes > block.shared_bytes) {
    fail(std::string(does) + " " + place_text(block, address, bytes) + ", past the " +
         std::to_string(block.shared_bytes) + " bytes of the launch");
  }
}

[[noreturn]] void fail_in_flight(const Thread& me, const char* does, const void* address, size_t bytes,
                                 const Granule& g) {
  const bool bulk = g.copier & kBulkCopier;
  const unsigned copier = (g.copier & ~unsigned{kBulkCopier}) - 1u;
  fail(std::string(does) + " of bytes that a " + (bulk ? "bulk copy" : "cp.async") +
       " still has in flight: " + place_text(me.owner(), address, bytes) + ", copied by " +
       thread_text(me.owner(), copier));
}

struct Range {
  Granule* first;
  Granule* last;
};

Range granules_of(Thread& me, const void* address, size_t bytes) {
  Block& block = me.owner();
  const auto offset = static_cast<size_t>(static_cast<const unsigned char*>(address) - block.shared);
  Granule* all = block.shadow.granules();
  return {all + offset / Shadow::kBytes, all + (offset + bytes + Shadow::kBytes - 1) / Shadow::kBytes};
}

// Whether the write recorded in g is another thread's, and not ordered before what `me` does now.
bool unordered_write(const Granule& g, const Thread& me, const Clock& clock) {
  return g.writer != me.thread && g.write_stamp > clock.known[g.writer / 32];
}

std::string reader_text(const Block& block, const Granule& g, int warp, const Thread& me) {
  if (g.reader / 32 == warp && g.reader != me.thread) return thread_text(block, g.reader);
  if (g.second_reader && (g.second_reader - 1) / 32 == warp && g.second_reader - 1u != me.thread) {
    return thread_text(block, g.second_reader - 1u);
  }
  return "a thread in the warp of " + thread_text(block, static_cast<unsigned>(warp) * 32);
}

// The warp of a read since then that is another thread's and not ordered before what `me` does now, or -1.
// With readers in several warps only the span of their stamps is known; it is a race for certain if one of
// the warps is not ordered even for the earliest.
int unordered_reader(const Granule& g, const Thread& me, const Clock& clock) {
  if (!g.reader_warps) return -1;
  if (!(g.reader_warps & (g.reader_warps - 1))) {
    const int warp = __builtin_ctz(g.reader_warps);
    if (g.last_read <= clock.known[warp]) return -1;
    return g.reader == me.thread && !g.second_reader ? -1 : warp;
  }
  for (uint32_t set = g.reader_warps; set; set &= set - 1) {
    const int warp = __builtin_ctz(set);
    if (warp != static_cast<int>(me.warp()) && g.first_read > clock.known[warp]) return warp;
  }
  return -1;
}

void record_read(Granule& g, const Thread& me, const Clock& clock) {
  const uint32_t own = 1u << me.warp();
  bool ordered = true;  // all earlier reads happened before this one, which then stands for them
  for (uint32_t set = g.reader_warps; set; set &= set - 1) {
    if (g.last_read > clock.known[__builtin_ctz(set)]) ordered = false;
  }
  if (ordered) {
    g.reader_warps = own;
    g.first_read = g.last_read = clock.now;
    g.reader = static_cast<uint16_t>(me.thread);
    g.second_reader = 0;
  } else {
    if (g.reader != me.thread) g.second_reader = static_cast<uint16_t>(me.thread + 1);
    g.reader_warps |= own;
    if (clock.now < g.first_read) g.first_read = clock.now;
    if (clock.now > g.last_read) g.last_read = clock.now;
  }
}

}  // namespace

void fail_index(long long index, long long count) {
  fail("index " + std::to_string(index) + " of a shared array of " + std::to_string(count));
}

void note_shared_read(const void* address, size_t bytes) {
  Thread& me = running();
  check_bounds(me, "read", address, bytes);
  if (bytes < Shadow::kBytes) return;
  const Clock& clock = me.owner().warps[me.warp()].clock;
  const Range range = granules_of(me, address, bytes);
  for (Granule* g = range.first; g != range.last; ++g) {
    if (g->copier) {
      if (g->write_stamp >= me.owner().first_stamp) fail_in_flight(me, "read", address, bytes, *g);
      g->copier = kNone;
    }
    if (unordered_write(*g, me, clock)) {
      fail_race(me, "reads", address, bytes, thread_text(me.owner(), g->writer), "wrote");
    }
    if (g->last_read == clock.now && g->reader_warps >> me.warp() & 1) {  // known, but for the thread
      if (g->reader != me.thread) g->second_reader = static_cast<uint16_t>(me.thread + 1);
      continue;
    }
    record_read(*g, me, clock);
  }
}

void note_shared_write(const void* address, size_t bytes) {
  Thread& me = running();
  check_bounds(me, "write", address, bytes);
  if (bytes < Shadow::kBytes) return;
  const Clock& clock = me.owner().warps[me.warp()].clock;
  const Range range = granules_of(me, address, bytes);
  for (Granule* g = range.first; g != range.last; ++g) {
    if (g->copier) {
      if (g->write_stamp >= me.owner().first_stamp) fail_in_flight(me, "write", address, bytes, *g);
      g->copier = kNone;
    }
    if (unordered_write(*g, me, clock)) {
      fail_race(me, "writes", address, bytes, thread_text(me.owner(), g->writer), "wrote");
    }
    const int reader = unordered_reader(*g, me, clock);
    if (reader >= 0) {
      fail_race(me, "writes", address, bytes, reader_text(me.owner(), *g, reader, me), "read");
    }
    g->write_stamp = clock.now;
    g->writer = static_cast<uint16_t>(me.thread);
    g->reader_warps = 0;
  }
}

}  // namespace fastdl::simt
