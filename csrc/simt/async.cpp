#include "async.h"

#include "block.h"

namespace fastdl::simt {
namespace {

void mark_in_flight(Thread& me, const void* address, size_t bytes, uint16_t copier) {
  Block& block = me.owner();
  const auto offset = static_cast<size_t>(static_cast<const unsigned char*>(address) - block.shared);
  Granule* g = block.shadow.granules() + offset / Shadow::kBytes;
  for (size_t i = 0; i < bytes / Shadow::kBytes; ++i) g[i].copier = copier;
}

// Delivers the first `count` copies, in the order of their issue.
void deliver(Thread& me, size_t count) {
  std::vector<AsyncCopy>& copies = me.copies.copies;
  for (size_t i = 0; i < count; ++i) {
    const AsyncCopy& copy = copies[i];
    mark_in_flight(me, copy.destination, copy.bytes, 0);
    note_write(copy.destination, copy.bytes);
    // The source is read only now: a kernel that overwrites it before the wait is wrong.
    std::memcpy(copy.destination, copy.source, copy.valid_bytes);
    std::memset(copy.destination + copy.valid_bytes, 0, copy.bytes - copy.valid_bytes);
  }
  copies.erase(copies.begin(), copies.begin() + static_cast<std::ptrdiff_t>(count));
}

}  // namespace

void async_copy(void* destination, const void* source, size_t bytes, size_t valid_bytes) {
  Thread& me = running();
  if (bytes != 4 && bytes != 8 && bytes != 16) {
    fail("cp.async copies 4, 8 or 16 bytes, not " + std::to_string(bytes));
  }
  if (valid_bytes > bytes) fail("cp.async: more source bytes than bytes");
  if (!in_shared(destination)) fail("cp.async: its destination is not in the block's shared memory");
  if (in_shared(source)) fail("cp.async: its source is in shared memory");
  if (reinterpret_cast<uintptr_t>(destination) % bytes || reinterpret_cast<uintptr_t>(source) % bytes) {
    fail("cp.async of " + std::to_string(bytes) + " bytes: source or destination is not aligned to that");
  }
  note_write(destination, bytes);
  std::memset(destination, 0xFF, bytes);
  mark_in_flight(me, destination, bytes, static_cast<uint16_t>(me.thread + 1));
  me.copies.copies.push_back({static_cast<unsigned char*>(destination),
                              static_cast<const unsigned char*>(source), static_cast<unsigned>(bytes),
                              static_cast<unsigned>(valid_bytes)});
}

void async_commit() {
  AsyncCopies& mine = running().copies;
  mine.group_ends.push_back(mine.copies.size());
}

void async_wait(int pending) {
  Thread& me = running();
  std::vector<size_t>& ends = me.copies.group_ends;
  if (pending < 0) fail("cp.async.wait_group with a negative count");
  if (ends.size() <= static_cast<size_t>(pending)) return;
  const size_t done = ends.size() - static_cast<size_t>(pending);
  const size_t count = ends[done - 1];
  deliver(me, count);
  ends.erase(ends.begin(), ends.begin() + static_cast<std::ptrdiff_t>(done));
  for (size_t& end : ends) end -= count;
}

void async_wait_all() {
  Thread& me = running();
  deliver(me, me.copies.copies.size());
  me.copies.clear();
}

}  // namespace fastdl::simt
