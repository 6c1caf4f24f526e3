// An access to a guard page becomes an error of the thread that made it: the signal handler makes the fiber
// go on in a function that reports it. Other faults are described on stderr and left to whoever handled them
// before.
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <mutex>

#include "block.h"
#include "worker.h"

#if defined(__x86_64__) || defined(__aarch64__)
#include <ucontext.h>
#define FASTDL_SIMT_REDIRECT 1
#endif

namespace fastdl::simt {
namespace {

struct sigaction previous_segv;
struct sigaction previous_bus;

__attribute__((noinline)) void record_fault(Thread& me) {
  if (is_stack_guard(me.fiber, me.fault_address)) {
    record_failure(me, "overflow of its stack of " + std::to_string(me.fiber.stack_bytes / 1024) +
                           " KiB (FASTDL_SIMT_STACK sets it)");
    return;
  }
  const Block& block = me.owner();
  const std::ptrdiff_t offset = static_cast<unsigned char*>(me.fault_address) - block.shared;
  record_failure(me, "access outside shared memory: offset " + std::to_string(offset) + " of " +
                         std::to_string(block.shared_bytes) + " bytes");
}

// Runs on the fiber's stack, where the faulting instruction would have gone on. It may have been anywhere:
// its frames are left as they are.
[[noreturn]] void report_fault() {
  Thread& me = running();
  FASTDL_SIMT_UNPOISON(me.fiber.stack_low, me.fiber.stack_bytes);
  record_fault(me);
  leave_thread(me);
}

void chain(const struct sigaction& previous, int signal, siginfo_t* info, void* context) {
  if (previous.sa_flags & SA_SIGINFO) {
    previous.sa_sigaction(signal, info, context);
  } else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
    previous.sa_handler(signal);
  } else {
    // The instruction faults again and ends the process as it would have without us.
    struct sigaction standard = {};
    standard.sa_handler = SIG_DFL;
    sigaction(signal, &standard, nullptr);
  }
}

void describe_fault(const Thread& me, const void* address) {
  const Block& block = *static_cast<Block*>(me.block);
  char text[400];
  const int length = std::snprintf(
      text, sizeof text,
      "fastdl simt: fault at address %p in kernel %.200s, block (%u, %u, %u), thread (%u, %u, %u)\n", address,
      block.kernel, block.block_idx.x, block.block_idx.y, block.block_idx.z, me.thread_idx.x, me.thread_idx.y,
      me.thread_idx.z);
  if (length > 0 && write(2, text, static_cast<size_t>(length)) < 0) return;
}

void on_fault(int signal, siginfo_t* info, void* context) {
  if (self) {
    Thread& me = running();
    const bool stack = is_stack_guard(me.fiber, info->si_addr);
#if defined(FASTDL_SIMT_REDIRECT)
    if (stack || me.owner().arena.is_guard(info->si_addr)) {
      me.fault_address = info->si_addr;
      auto* machine = &static_cast<ucontext_t*>(context)->uc_mcontext;
      // A full stack is reused from its top: nothing on it is needed any more.
      unsigned char* top = me.fiber.stack_low + me.fiber.stack_bytes;
#if defined(__x86_64__)
      auto* pointer = stack ? top : reinterpret_cast<unsigned char*>(machine->gregs[REG_RSP]);
      // Below the red zone, and aligned as if called.
      const uintptr_t aligned = (reinterpret_cast<uintptr_t>(pointer) - 256) & ~uintptr_t{15};
      machine->gregs[REG_RSP] = static_cast<greg_t>(aligned - 8);
      machine->gregs[REG_RIP] = reinterpret_cast<greg_t>(&report_fault);
#else
      auto* pointer = stack ? top : reinterpret_cast<unsigned char*>(machine->sp);
      machine->sp = (reinterpret_cast<uintptr_t>(pointer) - 256) & ~uintptr_t{15};
      machine->pc = reinterpret_cast<uintptr_t>(&report_fault);
#endif
      return;
    }
#endif
    describe_fault(me, info->si_addr);
  }
  chain(signal == SIGBUS ? previous_bus : previous_segv, signal, info, context);
}

void install_handler() {
  struct sigaction action = {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  sigaction(SIGSEGV, &action, &previous_segv);
  sigaction(SIGBUS, &action, &previous_bus);
}

constexpr size_t kSignalStackBytes = 64 * 1024;

// One per OS thread that ever ran a kernel without a signal stack of its own.
struct SignalStack {
  void* memory = mmap(nullptr, kSignalStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ~SignalStack() { munmap(memory, kSignalStackBytes); }
};

}  // namespace

FaultHandling::FaultHandling() {
  static std::once_flag once;
  std::call_once(once, install_handler);
  stack_t current = {};
  sigaltstack(nullptr, &current);
  if (!(current.ss_flags & SS_DISABLE)) return;
  thread_local SignalStack own;
  if (own.memory == MAP_FAILED) return;
  stack_t stack = {};
  stack.ss_sp = own.memory;
  stack.ss_size = kSignalStackBytes;
  installed_ = sigaltstack(&stack, nullptr) == 0;
}

FaultHandling::~FaultHandling() {
  if (!installed_) return;
  stack_t none = {};
  none.ss_flags = SS_DISABLE;
  sigaltstack(&none, nullptr);
}

}  // namespace fastdl::simt
