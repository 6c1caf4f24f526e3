#include "fiber.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#if !defined(__x86_64__) && !defined(__aarch64__) && !defined(FASTDL_SIMT_UCONTEXT)
#define FASTDL_SIMT_UCONTEXT
#endif

#if defined(FASTDL_SIMT_UCONTEXT)
#include <ucontext.h>
#elif defined(__x86_64__)
// rdi: where to leave our stack pointer, rsi: the other one's. Leaves by ret and not by a jump: fibers wait
// in the same place, so that the processor's prediction of returns, which goes by the calls made, holds for
// them too. A new fiber finds in r12 its argument, in r13 its entry.
__asm__(R"(
.text
.p2align 4
.globl fastdl_simt_switch
.hidden fastdl_simt_switch
.type fastdl_simt_switch,@function
fastdl_simt_switch:
  .cfi_startproc
  pushq %rbp
  .cfi_adjust_cfa_offset 8
  .cfi_rel_offset %rbp, 0
  pushq %rbx
  .cfi_adjust_cfa_offset 8
  .cfi_rel_offset %rbx, 0
  pushq %r12
  .cfi_adjust_cfa_offset 8
  .cfi_rel_offset %r12, 0
  pushq %r13
  .cfi_adjust_cfa_offset 8
  .cfi_rel_offset %r13, 0
  pushq %r14
  .cfi_adjust_cfa_offset 8
  .cfi_rel_offset %r14, 0
  pushq %r15
  .cfi_adjust_cfa_offset 8
  .cfi_rel_offset %r15, 0
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  .cfi_adjust_cfa_offset -8
  .cfi_restore %r15
  popq %r14
  .cfi_adjust_cfa_offset -8
  .cfi_restore %r14
  popq %r13
  .cfi_adjust_cfa_offset -8
  .cfi_restore %r13
  popq %r12
  .cfi_adjust_cfa_offset -8
  .cfi_restore %r12
  popq %rbx
  .cfi_adjust_cfa_offset -8
  .cfi_restore %rbx
  popq %rbp
  .cfi_adjust_cfa_offset -8
  .cfi_restore %rbp
  ret
  .cfi_endproc
.size fastdl_simt_switch, .-fastdl_simt_switch

.p2align 4
.type fastdl_simt_start,@function
fastdl_simt_start:
  .cfi_startproc
  .cfi_undefined %rip
  movq %r12, %rdi
  callq *%r13
  ud2
  .cfi_endproc
.size fastdl_simt_start, .-fastdl_simt_start
)");
#elif defined(__aarch64__)
// x0: where to leave our stack pointer, x1: the other one's. A new fiber finds in x19 its argument, in x20
// its entry.
__asm__(R"(
.text
.p2align 4
.globl fastdl_simt_switch
.hidden fastdl_simt_switch
.type fastdl_simt_switch,%function
fastdl_simt_switch:
  stp x19, x20, [sp, #-160]!
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  ldp x19, x20, [sp], #160
  ret
.size fastdl_simt_switch, .-fastdl_simt_switch

.p2align 4
.type fastdl_simt_start,%function
fastdl_simt_start:
  .cfi_startproc
  .cfi_undefined x30
  mov x0, x19
  blr x20
  brk #0
  .cfi_endproc
.size fastdl_simt_start, .-fastdl_simt_start
)");
#endif

extern "C" __attribute__((visibility("hidden"))) void fastdl_simt_start();

namespace fastdl::simt {
namespace {

size_t page_bytes() {
  static const size_t bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

// Room for printf and for unoptimised kernels with large arrays; only pages that are touched cost memory.
size_t stack_bytes() {
  static const size_t bytes = [] {
    size_t kib = FASTDL_SIMT_ASAN ? 1024 : 256;
    if (const char* text = std::getenv("FASTDL_SIMT_STACK")) {
      const long value = std::atol(text);
      if (value >= 16 && value <= 1 << 20) kib = static_cast<size_t>(value);
    }
    const size_t page = page_bytes();
    return (kib * 1024 + page - 1) / page * page;
  }();
  return bytes;
}

}  // namespace

void allocate_stack(Fiber& fiber) {
  const size_t page = page_bytes();
  void* memory = mmap(nullptr, stack_bytes() + page, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  mprotect(memory, page, PROT_NONE);
  fiber.stack_low = static_cast<unsigned char*>(memory) + page;
  fiber.stack_bytes = stack_bytes();
}

void free_stack(Fiber& fiber) {
  if (!fiber.stack_low) return;
  FASTDL_SIMT_UNPOISON(fiber.stack_low, fiber.stack_bytes);
  munmap(fiber.stack_low - page_bytes(), fiber.stack_bytes + page_bytes());
  fiber.stack_low = nullptr;
}

bool is_stack_guard(const Fiber& fiber, const void* address) {
  const auto* p = static_cast<const unsigned char*>(address);
  // A large frame may step over the guard page's upper end by less than a page.
  return fiber.stack_low && p < fiber.stack_low && p >= fiber.stack_low - page_bytes();
}

void describe_own_stack(Fiber& fiber) {
#if FASTDL_SIMT_ASAN && defined(__linux__)
  pthread_attr_t attributes;
  if (pthread_getattr_np(pthread_self(), &attributes) == 0) {
    void* low = nullptr;
    pthread_attr_getstack(&attributes, &low, &fiber.stack_bytes);
    fiber.stack_low = static_cast<unsigned char*>(low);
    pthread_attr_destroy(&attributes);
  }
#else
  (void)fiber;
#endif
}

#if defined(FASTDL_SIMT_UCONTEXT)

// The portable way, for other processors: a system call per switch.
extern "C" void fastdl_simt_switch(void** from, void* to) {
  ucontext_t here;
  *from = &here;
  swapcontext(&here, static_cast<ucontext_t*>(to));
}

namespace {
struct Start {
  ucontext_t context;
  void (*entry)(void*);
  void* argument;
};
void start(unsigned high, unsigned low) {
  auto* s = reinterpret_cast<Start*>(static_cast<uintptr_t>(high) << 16 << 16 | low);
  s->entry(s->argument);
}
}  // namespace

void prepare_fiber(Fiber& fiber, void (*entry)(void*), void* argument, size_t) {
  auto* s = reinterpret_cast<Start*>(fiber.stack_low + fiber.stack_bytes - (sizeof(Start) + 63) / 64 * 64);
  getcontext(&s->context);
  s->entry = entry;
  s->argument = argument;
  s->context.uc_link = nullptr;
  s->context.uc_stack.ss_sp = fiber.stack_low;
  s->context.uc_stack.ss_size = static_cast<size_t>(reinterpret_cast<unsigned char*>(s) - fiber.stack_low);
  const auto address = reinterpret_cast<uintptr_t>(s);
  makecontext(&s->context, reinterpret_cast<void (*)()>(start), 2, static_cast<unsigned>(address >> 16 >> 16),
              static_cast<unsigned>(address));
  fiber.stack_pointer = &s->context;
}

#else

void prepare_fiber(Fiber& fiber, void (*entry)(void*), void* argument, size_t color) {
  // Stacks lie a multiple of a page apart: without an offset of its own, each would compete for the same
  // lines of the first-level cache. 576 bytes are nine lines, and the offsets repeat only after 64 fibers.
  unsigned char* top = fiber.stack_low + fiber.stack_bytes - (color % 64) * 576;
#if defined(__x86_64__)
  // r15 r14 r13 r12 rbx rbp and the address to go to; above them two words, which keep the stack a multiple
  // of 16.
  void** frame = reinterpret_cast<void**>(top) - 9;
  std::memset(frame, 0, 9 * sizeof(void*));
  frame[2] = reinterpret_cast<void*>(entry);
  frame[3] = argument;
  frame[6] = reinterpret_cast<void*>(&fastdl_simt_start);
  fiber.stack_pointer = frame;
#else
  void** frame = reinterpret_cast<void**>(top) - 20;
  std::memset(frame, 0, 20 * sizeof(void*));
  frame[0] = argument;
  frame[1] = reinterpret_cast<void*>(entry);
  frame[11] = reinterpret_cast<void*>(&fastdl_simt_start);
  fiber.stack_pointer = frame;
#endif
}

#endif

}  // namespace fastdl::simt
