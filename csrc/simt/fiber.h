// Fibers: one CUDA thread's stack and registers. Switching costs a few nanoseconds: it saves only what a call
// has to preserve, and makes no system call (swapcontext makes one for the signal mask).
#pragma once

#include <cstddef>

#include "sanitizer.h"

namespace fastdl::simt {

struct Fiber {
  void* stack_pointer = nullptr;       // where it stands while another one runs
  unsigned char* stack_low = nullptr;  // the usable part of its stack
  size_t stack_bytes = 0;
  void* fake_stack = nullptr;  // AddressSanitizer's
};

// Makes `fiber` start with entry(argument) at the next switch to it. entry must not return.
void prepare_fiber(Fiber& fiber, void (*entry)(void*), void* argument, size_t color);

// Gives a fiber a stack below which the first access faults. Stacks are kept until their owner dies.
void allocate_stack(Fiber& fiber);
void free_stack(Fiber& fiber);
// Whether an access at `address` is an overflow of this fiber's stack.
bool is_stack_guard(const Fiber& fiber, const void* address);
// Describes the calling thread's own stack, so that fibers can switch back to it.
void describe_own_stack(Fiber& fiber);

extern "C" void fastdl_simt_switch(void** from, void* to);

inline void switch_fiber(Fiber& from, const Fiber& to) {
#if FASTDL_SIMT_ASAN
  __sanitizer_start_switch_fiber(&from.fake_stack, to.stack_low, to.stack_bytes);
#endif
  fastdl_simt_switch(&from.stack_pointer, to.stack_pointer);
#if FASTDL_SIMT_ASAN
  __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
}

// To be called first in a fiber's entry.
inline void entered_fiber() {
#if FASTDL_SIMT_ASAN
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
}

}  // namespace fastdl::simt
