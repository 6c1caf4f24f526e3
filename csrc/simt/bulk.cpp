// Bulk copies: of tensor boxes (cp.async.bulk.tensor), and stores of consecutive bytes. Loads are completed
// one by one when no thread can run any more, stores at the wait for them.
#include "bulk.h"

#include <cstring>

#include "cluster.h"
#include "worker.h"

namespace fastdl::simt {
namespace {

const TensorMap& map_of(const char* operation, const void* pointer, int rank, bool im2col = false) {
  const auto& map = *static_cast<const TensorMap*>(pointer);
  if (reinterpret_cast<uintptr_t>(pointer) % 64)
    fail(std::string(operation) + ": the tensor map is not aligned to 64");
  if (map.magic != TensorMap::kMagic) fail(std::string(operation) + ": no tensor map where it should be");
  if (map.rank != rank) {
    fail(std::string(operation) + " of " + std::to_string(rank) + " dims with a tensor map of " +
         std::to_string(map.rank));
  }
  if (map.im2col != im2col) {
    fail(std::string(operation) + (im2col ? ": a tensor map of tiles" : ": a tensor map of im2col"));
  }
  return map;
}

uint32_t bytes_of(const TensorMap& map) {
  uint32_t bytes = map.item_bytes;
  for (int i = 0; i < map.rank; ++i) bytes *= map.box[i];
  return bytes;
}

void check_place(const char* operation, const TensorMap& map, uint32_t address) {
  // The pattern of a swizzle goes by addresses: it begins where the box does only if that is aligned so.
  const uint32_t alignment = map.swizzle == Swizzle::none ? 128 : 128u << static_cast<unsigned>(map.swizzle);
  if (address % alignment) {
    fail(std::string(operation) + ": its place in shared memory, offset " + std::to_string(address) +
         ", is not aligned to " + std::to_string(alignment));
  }
}

using EachChunk = void (*)(void* context, uint32_t shared, unsigned char* global, unsigned valid);
constexpr unsigned kChunk = 16;

// One row of a box: `inside` says whether there is anything at `global`, where element 0 of it would be.
void for_row_chunks(const TensorMap& map, int32_t first_element, bool inside, const unsigned char* global,
                    uint32_t row, uint32_t shared, EachChunk each, void* context) {
  const unsigned row_bytes = map.box[0] * map.item_bytes;
  for (unsigned b = 0; b < row_bytes; b += kChunk) {
    const int64_t first = static_cast<int64_t>(first_element) * map.item_bytes + b;
    const int64_t left = static_cast<int64_t>(map.dims[0]) * map.item_bytes - first;
    // (A box that begins before the tensor does so by whole chunks: coordinates are multiples of 16 bytes.)
    const unsigned valid = !inside || first < 0 || left <= 0 ? 0
                           : left < kChunk                   ? static_cast<unsigned>(left)
                                                             : kChunk;
    each(context, swizzled(map.swizzle, shared + row * row_bytes + b),
         const_cast<unsigned char*>(global) + first, valid);
  }
}

// Box copies of both directions; `shared`: the offset in the block's memory.
void for_box_chunks(const TensorMap& map, const int32_t* at, uint32_t shared, EachChunk each, void* context) {
  uint32_t rows = 1;
  for (int i = 1; i < map.rank; ++i) rows *= map.box[i];
  for (uint32_t row = 0; row < rows; ++row) {
    bool inside = true;
    const unsigned char* global = map.data;
    uint32_t rest = row;
    for (int i = 1; i < map.rank; ++i) {
      const int64_t index = static_cast<int64_t>(at[i]) + rest % map.box[i];
      rest /= map.box[i];
      inside = inside && index >= 0 && index < static_cast<int64_t>(map.dims[i]);
      global += index * static_cast<int64_t>(map.strides[i]);
    }
    for_row_chunks(map, at[0], inside, global, row, shared, each, context);
  }
}

// The same of im2col: pixel after pixel within the bounding box, then of the next image.
void for_pixel_chunks(const TensorMap& map, const int32_t* start, const uint16_t* offsets, uint32_t shared,
                      EachChunk each, void* context) {
  const int axes = map.rank - 2;
  int32_t at[kMaxTensorDims];
  std::memcpy(at, start, sizeof at);
  for (uint32_t row = 0; row < map.box[1]; ++row) {
    bool inside = at[axes + 1] >= 0 && static_cast<uint32_t>(at[axes + 1]) < map.dims[axes + 1];
    const unsigned char* global = map.data + at[axes + 1] * static_cast<int64_t>(map.strides[axes + 1]);
    for (int i = 0; i < axes; ++i) {
      const int64_t index = static_cast<int64_t>(at[i + 1]) + offsets[i];
      inside = inside && index >= 0 && index < static_cast<int64_t>(map.dims[i + 1]);
      global += index * static_cast<int64_t>(map.strides[i + 1]);
    }
    for_row_chunks(map, at[0], inside, global, row, shared, each, context);
    int i = 0;
    for (; i < axes; ++i) {
      at[i + 1] += map.steps[i];
      if (at[i + 1] < static_cast<int64_t>(map.dims[i + 1]) + map.upper[i]) break;
      at[i + 1] = map.lower[i];
    }
    if (i == axes) ++at[axes + 1];
  }
}

}  // namespace

void note_async_read(Block& block, uint32_t address, size_t bytes, const char* reader) {
  note_read(block.shared + address, bytes);
  const Granule* const first = block.shadow.granules() + address / Shadow::kBytes;
  for (const Granule* g = first; g != first + bytes / Shadow::kBytes; ++g) {
    if (g->write_stamp >= block.first_stamp && g->writer < kCopyEngine &&
        g->write_stamp >= block.threads[g->writer].proxy_fence) {
      fail(std::string(reader) + " reads shared memory at offset " + std::to_string(address) +
           " that thread " + index_text(block.threads[g->writer].thread_idx) +
           " wrote by ordinary stores, without fence.proxy.async after them");
    }
  }
}

void fence_proxy_async() {
  Thread& me = running();
  Block& block = me.owner();
  // Stamps only tell apart what lies on both sides of a tick; this one orders nothing.
  me.proxy_fence = block.warps[me.warp()].clock.now = block.shadow.tick();
}

namespace {

// Puts the load on its way. `load` has what is copied.
void start_load(BulkLoad load, uint32_t to, uint32_t barrier, uint32_t blocks) {
  constexpr const char* kName = "cp.async.bulk.tensor";
  Thread& me = running();
  Block& mine = me.owner();
  const TensorMap& map = load.map;
  check_place(kName, map, to);
  load.to = to;
  load.barrier = barrier;
  load.bytes = bytes_of(map);
  load.issuer = &me;
  if (static_cast<int64_t>(load.at[0]) * map.item_bytes % 16)
    fail("cp.async.bulk.tensor: its first coordinate is no multiple of 16 bytes");
  const uint32_t all = (1u << cluster_size()) - 1;
  const uint32_t own = 1u << mine.cluster_rank;
  if (blocks == 0) blocks = own;
  if (blocks & ~all) fail("cp.async.bulk.tensor.multicast: the cluster has no such block");
  for (uint32_t set = blocks; set; set &= set - 1) {
    Block& block = *mine.cluster->blocks[static_cast<size_t>(__builtin_ctz(set))];
    load.block = &block;
    if (!block.live) fail("cp.async.bulk.tensor: the block that it goes to has ended");
    if (to + load.bytes > block.shared_bytes) {
      fail("cp.async.bulk.tensor: " + std::to_string(load.bytes) + " bytes to offset " + std::to_string(to) +
           " of " + std::to_string(block.shared_bytes) + " bytes of shared memory");
    }
    unsigned char* const place = block.shared + to;
    if (&block == &mine) note_write(place, load.bytes);
    std::memset(place, 0xFF, load.bytes);
    Granule* g = block.shadow.granules() + to / Shadow::kBytes;
    const uint32_t stamp = &block == &mine ? 0 : block.shadow.tick();
    for (size_t i = 0; i < load.bytes / Shadow::kBytes; ++i) {
      g[i].copier = static_cast<uint16_t>(kBulkCopier | (me.thread + 1));
      if (!stamp) continue;
      g[i].write_stamp = stamp;
      g[i].writer = kCopyEngine;
      g[i].reader_warps = 0;
    }
    mine.cluster->loads.push_back(load);
  }
}

}  // namespace

void tensor_load(uint32_t to, const void* map, int rank, const int32_t* at, uint32_t barrier,
                 uint32_t blocks) {
  BulkLoad load{};
  load.map = map_of("cp.async.bulk.tensor", map, rank);
  for (int i = 0; i < rank; ++i) load.at[i] = at[i];
  start_load(load, to, barrier, blocks);
}

void tensor_load_im2col(uint32_t to, const void* map, int rank, const int32_t* at, const uint16_t* offsets,
                        uint32_t barrier, uint32_t blocks) {
  constexpr const char* kName = "cp.async.bulk.tensor.im2col";
  BulkLoad load{};
  load.map = map_of(kName, map, rank, true);
  for (int i = 0; i < rank; ++i) load.at[i] = at[i];
  for (int i = 0; i < rank - 2; ++i) {
    // Offsets have as many bits together whatever the rank.
    const int most = rank == 3 ? 0xFFFF : rank == 4 ? 0xFF : 0x1F;
    if (offsets[i] > most) fail(std::string(kName) + ": an offset of more than " + std::to_string(most));
    if (at[i + 1] < load.map.lower[i] ||
        at[i + 1] >= static_cast<int64_t>(load.map.dims[i + 1]) + load.map.upper[i]) {
      fail(std::string(kName) + ": position " + std::to_string(at[i + 1]) + " of axis " + std::to_string(i) +
           " is outside the bounding box");
    }
    load.offsets[i] = offsets[i];
  }
  start_load(load, to, barrier, blocks);
}

bool Cluster::deliver() {
  if (loads.empty()) return deliver_stores();
  const size_t chosen = next_random() % loads.size();
  const BulkLoad load = loads[chosen];
  loads.erase(loads.begin() + static_cast<std::ptrdiff_t>(chosen));
  Block& block = *load.block;
  if (!block.live) {
    record_failure(*load.issuer, "cp.async.bulk.tensor: the block that it goes to has ended");
    return true;
  }
  const uint32_t stamp = block.shadow.tick();
  Granule* g = block.shadow.granules() + load.to / Shadow::kBytes;
  for (size_t i = 0; i < load.bytes / Shadow::kBytes; ++i) {
    g[i].copier = 0;
    g[i].write_stamp = stamp;
    g[i].writer = kCopyEngine;
    g[i].reader_warps = 0;
  }
  const EachChunk copy = [](void* memory, uint32_t shared, unsigned char* global, unsigned valid) {
    unsigned char* const to = static_cast<unsigned char*>(memory) + shared;
    if (valid) std::memcpy(to, global, valid);
    std::memset(to + valid, 0, kChunk - valid);
  };
  if (load.map.im2col) for_pixel_chunks(load.map, load.at, load.offsets, load.to, copy, block.shared);
  else for_box_chunks(load.map, load.at, load.to, copy, block.shared);
  ++block.worker->progress;
  mbarrier_complete(block, load.barrier, load.bytes, *load.issuer);
  return true;
}

void tensor_store(const void* map_pointer, int rank, const int32_t* at, uint32_t from) {
  constexpr const char* kName = "cp.async.bulk.tensor (store)";
  Thread& me = running();
  const TensorMap& map = map_of(kName, map_pointer, rank);
  check_place(kName, map, from);
  if (from + bytes_of(map) > me.block->shared_bytes)
    fail("cp.async.bulk.tensor (store): from past the shared memory");
  BulkStore store{};
  store.map = map_pointer;
  for (int i = 0; i < rank; ++i) store.at[i] = at[i];
  store.from = from;
  note_async_read(me.owner(), from, bytes_of(map), kName);
  me.stores.push_back(store);
}

void bulk_line(void* to, uint32_t from, uint32_t bytes, bool add) {
  const char* const name = add ? "cp.reduce.async.bulk" : "cp.async.bulk (store)";
  Thread& me = running();
  if (bytes % 16 || from % 16 || reinterpret_cast<uintptr_t>(to) % 16)
    fail(std::string(name) + ": its addresses or size are no multiples of 16 bytes");
  if (uint64_t{from} + bytes > me.block->shared_bytes)
    fail(std::string(name) + ": from past the shared memory");
  BulkStore store{};
  store.from = from, store.to = to, store.bytes = bytes, store.add = add;
  note_async_read(me.owner(), from, bytes, name);
  me.stores.push_back(store);
}

void write_lines(Thread& thread) {
  for (const BulkLine& line : thread.lines) {
    if (!line.add) {
      std::memcpy(line.to, line.bytes.data(), line.bytes.size());
      continue;
    }
    auto* const sums = static_cast<float*>(line.to);
    for (size_t i = 0; i < line.bytes.size() / sizeof(float); ++i) {
      float x;
      std::memcpy(&x, line.bytes.data() + i * sizeof x, sizeof x);
      sums[i] += x;
    }
  }
  thread.lines.clear();
}

void bulk_wait_written() {
  bulk_wait(0);
  write_lines(running());
}

void bulk_commit() {
  Thread& me = running();
  me.store_groups.push_back(me.stores.size());
}

void bulk_wait(int pending) {
  Thread& me = running();
  Block& block = me.owner();
  std::vector<size_t>& ends = me.store_groups;
  if (ends.size() <= static_cast<size_t>(pending)) return;
  const size_t done = ends.size() - static_cast<size_t>(pending), count = ends[done - 1];
  for (size_t i = 0; i < count; ++i) {
    const BulkStore& store = me.stores[i];
    if (!store.map) {
      const unsigned char* const bytes = block.shared + store.from;
      note_async_read(block, store.from, store.bytes, "cp.async.bulk (store)");
      me.lines.push_back({store.to, store.add, {bytes, bytes + store.bytes}});
      continue;
    }
    const auto& map = *static_cast<const TensorMap*>(store.map);
    // Read only now: a kernel that overwrites it before the wait is wrong.
    note_async_read(block, store.from, bytes_of(map), "cp.async.bulk.tensor (store)");
    for_box_chunks(
        map, store.at, store.from,
        [](void* memory, uint32_t shared, unsigned char* global, unsigned valid) {
          // The engine clips a store by chunks: the last one of a row is written whole.
          if (valid) std::memcpy(global, static_cast<unsigned char*>(memory) + shared, kChunk);
        },
        block.shared);
  }
  me.stores.erase(me.stores.begin(), me.stores.begin() + static_cast<std::ptrdiff_t>(count));
  ends.erase(ends.begin(), ends.begin() + static_cast<std::ptrdiff_t>(done));
  for (size_t& end : ends) end -= count;
}

}  // namespace fastdl::simt
