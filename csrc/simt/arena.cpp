#include "arena.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <new>

#include "sanitizer.h"
#include "simt.h"

namespace fastdl::simt {
namespace {

// Some 64 KiB on either side, as indices that are wrong are often wrong by more than a page.
size_t guard_bytes() { return 16 * static_cast<size_t>(sysconf(_SC_PAGESIZE)); }
size_t usable_bytes() {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return (kMaxSharedBytes + page - 1) / page * page;
}

}  // namespace

Arena::~Arena() {
  if (!memory_) return;
  FASTDL_SIMT_UNPOISON(memory_ + guard_bytes(), usable_bytes());
  munmap(memory_, usable_bytes() + 2 * guard_bytes());
}

unsigned char* Arena::prepare(size_t bytes) {
  if (!memory_) {
    void* memory = mmap(nullptr, usable_bytes() + 2 * guard_bytes(), PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    memory_ = static_cast<unsigned char*>(memory);
    end_ = memory_ + guard_bytes() + usable_bytes();
    mprotect(memory_ + guard_bytes(), usable_bytes(), PROT_READ | PROT_WRITE);
  }
  const size_t rounded = (bytes + 15) / 16 * 16;
  unsigned char* start = end_ - rounded;
  FASTDL_SIMT_UNPOISON(start, rounded);
  std::memset(start, 0xFF, rounded);
  // What the rounding added is nobody's; neither is what lies before the start.
  FASTDL_SIMT_POISON(start + bytes, rounded - bytes);
  FASTDL_SIMT_POISON(memory_ + guard_bytes(), static_cast<size_t>(start - memory_) - guard_bytes());
  return start;
}

bool Arena::is_guard(const void* address) const {
  const auto* p = static_cast<const unsigned char*>(address);
  if (!memory_) return false;
  return (p >= memory_ && p < memory_ + guard_bytes()) || (p >= end_ && p < end_ + guard_bytes());
}

}  // namespace fastdl::simt
