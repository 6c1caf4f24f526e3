// Warp collectives: lanes meet, the last one computes for all.
#include <cstdio>

#include "block.h"
#include "worker.h"

namespace fastdl::simt {
namespace {

std::string mask_text(uint32_t mask) {
  char text[16];
  std::snprintf(text, sizeof text, "0x%08x", mask);
  return text;
}

bool same_operation(const char* a, const char* b) { return a == b || std::strcmp(a, b) == 0; }

[[noreturn]] void fail_divergent(Thread& me, const char* operation, uint32_t mask, unsigned lane,
                                 const std::string& there) {
  const Thread& other = me.owner().threads[me.warp() * 32 + lane];
  fail(me, std::string("divergent ") + operation + ": its mask " + mask_text(mask) + " names thread " +
               index_text(other.thread_idx) + ", which " + there);
}

// The meeting of this mask; a new one if me is the first to come.
Meeting& find_meeting(Thread& me, Warp& warp, const char* operation, uint32_t mask) {
  Meeting* found = nullptr;
  for (unsigned m = 0; m < warp.meetings_open; ++m) {
    Meeting& meeting = warp.meetings[m];
    if (meeting.mask == mask) {
      found = &meeting;
      if (!same_operation(meeting.operation, operation)) {
        fail_divergent(me, operation, mask, static_cast<unsigned>(__builtin_ctz(meeting.arrived)),
                       std::string("is in ") + meeting.operation);
      }
    }
  }
  if (!found) {
    found = &warp.meetings[warp.meetings_open++];
    *found = {mask, 0, operation};
  }
  found->arrived |= 1u << me.lane();
  if (warp.meetings_open > 1) {
    // Lanes may meet in parts before all meet; but two meetings that wait for each other never end.
    for (unsigned m = 0; m < warp.meetings_open; ++m) {
      const Meeting& other = warp.meetings[m];
      if (&other != found && (other.arrived & mask) && (found->arrived & other.mask)) {
        fail_divergent(me, operation, mask, static_cast<unsigned>(__builtin_ctz(other.arrived & mask)),
                       std::string("is in ") + other.operation + " with mask " + mask_text(other.mask));
      }
    }
  }
  return *found;
}

}  // namespace

void collective(const char* operation, uint32_t mask, const void* in, void* out, Compute compute,
                void* context) {
  Thread& me = running();
  Block& block = me.owner();
  Warp& warp = block.warps[me.warp()];
  mask &= warp.lanes;
  const uint32_t own = 1u << me.lane();
  if (!(mask & own)) {
    fail(me, std::string("divergent ") + operation + ": its mask " + mask_text(mask) +
                 " does not name the thread itself");
  }
  if (mask & warp.ended) {
    fail_divergent(me, operation, mask, static_cast<unsigned>(__builtin_ctz(mask & warp.ended)), "has ended");
  }
  Meeting& meeting = find_meeting(me, warp, operation, mask);
  me.in = in;
  me.out = out;
  if (meeting.arrived != mask) {
    me.mask = mask;
    me.operation = operation;
    me.state = State::in_collective;
    block.wait(me);
    return;
  }
  // Gone before compute: it may fail, and a lane may come back with the same mask.
  meeting = warp.meetings[--warp.meetings_open];
  const void* inputs[32];
  void* outputs[32];
  Thread* lanes = &block.threads[me.warp() * 32];
  for (unsigned lane = 0; lane < 32; ++lane) {
    const bool present = mask >> lane & 1;
    inputs[lane] = present ? lanes[lane].in : nullptr;
    outputs[lane] = present ? lanes[lane].out : nullptr;
    if (present) lanes[lane].state = State::ready;
  }
  compute(context, inputs, outputs);
  ++block.worker->progress;
  if (mask != own) block.wake(warp, mask & ~own);
}

void sync_warp(uint32_t mask) {
  Thread& me = running();
  collective(
      "__syncwarp", mask, nullptr, nullptr,
      [](void* context, const void* const(&)[32], void* const(&)[32]) {
        Thread& last = *static_cast<Thread*>(context);
        Block& block = last.owner();
        Clock& clock = block.warps[last.warp()].clock;
        clock.known[last.warp()] = clock.now;
        clock.now = block.shadow.tick();
      },
      &me);
}

unsigned active_lanes() {
  const Thread& me = running();
  const Warp& warp = me.owner().warps[me.warp()];
  return warp.lanes & ~warp.ended;
}

}  // namespace fastdl::simt
