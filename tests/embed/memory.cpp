// A host's allocator gets every block of scratch, and gives none at some time: then the call says so, gives
// back what it has, and the next one works. The same of the C++ heap.
//
//   memory [STRIDE]        every STRIDE-th allocation fails once (11)
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <new>

#include "problems.h"

namespace {

std::atomic<long> fail_at{-1};      // how many more allocations of the C++ heap succeed; below 0: all
std::atomic<bool> counting{false};  // whether large blocks of the C++ heap are counted
std::atomic<int> large{0};
int failures = 0;

void* from_heap(std::size_t bytes, std::size_t alignment) {
  if (fail_at >= 0 && fail_at-- == 0) return nullptr;
  return alignment ? std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment)
                   : std::malloc(bytes);
}

struct Host {
  std::atomic<int> blocks{0}, calls{0};
  int refused = -1;  // the call that gets nothing
};
void* take(std::size_t bytes, void* user) {
  Host& host = *static_cast<Host*>(user);
  if (host.calls++ == host.refused) return nullptr;
  ++host.blocks;
  return std::aligned_alloc(64, (bytes + 63) / 64 * 64);
}
void give(void* p, std::size_t, void* user) {
  --static_cast<Host*>(user)->blocks;
  std::free(p);
}

void fail(const std::string& name, const char* what) {
  std::printf("%s: %s\n", name.c_str(), what);
  ++failures;
}

}  // namespace

// The program's, and so the library's: scratch of its own comes from the one with an alignment. Not inlined:
// compilers would find free() called for what comes from new.
#define NOT_INLINE __attribute__((noinline))
NOT_INLINE void* operator new(std::size_t bytes) {
  if (void* p = from_heap(bytes, 0)) return p;
  throw std::bad_alloc();
}
NOT_INLINE void* operator new(std::size_t bytes, std::align_val_t alignment) {
  if (counting && bytes >= 4096) ++large;
  if (void* p = from_heap(bytes, static_cast<std::size_t>(alignment))) return p;
  throw std::bad_alloc();
}
NOT_INLINE void operator delete(void* p) noexcept { std::free(p); }
NOT_INLINE void operator delete(void* p, std::size_t) noexcept { std::free(p); }
NOT_INLINE void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
NOT_INLINE void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }

int main(int argc, char** argv) {
  const int stride = argc > 1 ? std::atoi(argv[1]) : 11;
  Host host;
  fastdl_context_options options = FASTDL_CONTEXT_OPTIONS_INIT;
  options.num_threads = 3;
  options.allocate = take;
  options.deallocate = give;
  options.user = &host;
  const fastdl::Context hosted(options), own(3);
  // First of all: threads keep blocks of their own for later calls.
  for (const Problem& problem : problems()) {
    large = 0;
    counting = true;
    problem.run(hosted);
    counting = false;
    if (large) fail(problem.name, "scratch that is not from the host's allocator");
  }
  for (const Problem& problem : problems()) {
    const Bytes expected = problem.run(own);
    host.refused = -1;
    host.calls = 0;
    if (problem.run(hosted) != expected) fail(problem.name, "other bits with the host's allocator");
    const int calls = host.calls;
    for (int refused = 0; refused < calls; refused += stride) {
      host.calls = 0;
      host.refused = refused;
      try {
        // Threads share the work out anew each time: fewer calls may be made than before.
        if (problem.run(hosted) != expected) fail(problem.name, "other bits");
      } catch (const fastdl::Error& e) {
        if (e.status() != FASTDL_ERROR_MEMORY) fail(problem.name, e.what());
      }
      if (host.blocks != 0) fail(problem.name, "blocks were not given back"), host.blocks = 0;
    }
    host.refused = -1;

    bool completed = false;
    for (long k = 0; !completed && k < 5000; k += stride) {
      try {
        fail_at = k;
        const Bytes result = problem.run(own);
        completed = fail_at >= 0;
        fail_at = -1;
        if (result != expected) fail(problem.name, "other bits");
      } catch (const fastdl::Error& e) {
        fail_at = -1;
        if (e.status() != FASTDL_ERROR_MEMORY) fail(problem.name, e.what());
      } catch (const std::bad_alloc&) {  // the program's own vectors
        fail_at = -1;
      }
    }
    if (!completed) fail(problem.name, "has not come to its end");
    if (problem.run(own) != expected) fail(problem.name, "other bits afterwards");
  }
  return failures ? 1 : 0;
}
