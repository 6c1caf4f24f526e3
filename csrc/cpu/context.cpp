#include "cpu/context.h"

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <vector>

#include "common/error.h"
#include "common/version.h"
#include "cpu/parallel.h"
#include "cpu/tensor.h"

namespace fastdl::cpu {
namespace {

constexpr size_t kAlignment = 64;                  // a cache line, and the widest vector
constexpr size_t kCacheLimit = size_t{256} << 20;  // bytes a thread keeps between calls

void* allocate_aligned(size_t bytes) {
  void* p = ::operator new(bytes, std::align_val_t{kAlignment});
  return p;
}
void free_aligned(void* p) { ::operator delete(p, std::align_val_t{kAlignment}); }

// Free blocks of one thread, smallest first. Blocks go back where they were taken, so no locking is needed.
class BlockCache {
 public:
  struct Block {
    void* data;
    size_t bytes;
  };
  ~BlockCache() {
    for (const Block& b : free_) free_aligned(b.data);
  }
  Block take(size_t bytes) {
    for (size_t i = 0; i < free_.size(); ++i) {
      if (free_[i].bytes >= bytes && free_[i].bytes / 4 <= bytes + 4096) {
        Block b = free_[i];
        free_.erase(free_.begin() + static_cast<std::ptrdiff_t>(i));
        total_ -= b.bytes;
        return b;
      }
    }
    free_.reserve(free_.size() + 8);  // give() must not allocate: it runs in destructors
    return {allocate_aligned(bytes), bytes};
  }
  void give(Block b) noexcept {
    if (total_ + b.bytes > kCacheLimit || free_.size() == free_.capacity()) {
      free_aligned(b.data);
      return;
    }
    size_t i = 0;
    while (i < free_.size() && free_[i].bytes < b.bytes) ++i;
    free_.insert(free_.begin() + static_cast<std::ptrdiff_t>(i), b);
    total_ += b.bytes;
  }

 private:
  std::vector<Block> free_;
  size_t total_ = 0;
};

std::atomic<int32_t> default_precision{FASTDL_PRECISION_HIGHEST};

BlockCache& block_cache() {
  thread_local BlockCache cache;
  return cache;
}

}  // namespace

Workspace::Workspace(Context* context, size_t bytes) : context_(context), data_(nullptr), bytes_(bytes) {
  if (bytes == 0) return;
  if (bytes > SIZE_MAX / 2) throw std::bad_alloc();
  bytes_ = (bytes + 4095) / 4096 * 4096;  // few distinct sizes, so that blocks fit again
  if (context_ && context_->allocate) {
    data_ = context_->allocate(bytes_, context_->user);
    if (!data_) fail(FASTDL_ERROR_MEMORY, "the context's allocator returned NULL for %zu bytes", bytes_);
    return;
  }
  context_ = nullptr;
  const BlockCache::Block b = block_cache().take(bytes_);
  data_ = b.data;
  bytes_ = b.bytes;
}

Workspace::~Workspace() {
  if (!data_) return;
  if (context_) {
    if (context_->deallocate) context_->deallocate(data_, bytes_, context_->user);
  } else {
    block_cache().give({data_, bytes_});
  }
}

int num_threads(const Context* context) {
  return context && context->num_threads > 0 ? context->num_threads : default_num_threads();
}

fastdl_precision float32_precision(const Context* context) {
  const int32_t own = context ? context->float32_precision : -1;
  return static_cast<fastdl_precision>(own >= 0 ? own : default_precision.load(std::memory_order_relaxed));
}

}  // namespace fastdl::cpu

using namespace fastdl::cpu;

extern "C" {

fastdl_status fastdl_context_create(const fastdl_context_options* options, fastdl_context** out) {
  return guarded([&] {
    FASTDL_CHECK(out != nullptr, FASTDL_ERROR_VALUE, "context_create: out is NULL");
    const fastdl_context_options o =
        read_options(options, fastdl_context_options FASTDL_CONTEXT_OPTIONS_INIT, "context_create");
    FASTDL_CHECK(o.num_threads >= 0 && o.num_threads <= 1024, FASTDL_ERROR_VALUE,
                 "context_create: expected 0 to 1024 threads, got %d", o.num_threads);
    FASTDL_CHECK((o.allocate != nullptr) == (o.deallocate != nullptr), FASTDL_ERROR_VALUE,
                 "context_create: allocate and deallocate go together");
    FASTDL_CHECK(o.float32_precision >= -1 && o.float32_precision <= FASTDL_PRECISION_MEDIUM,
                 FASTDL_ERROR_VALUE, "context_create: expected a float32_precision of -1 to 2, got %d",
                 o.float32_precision);
    *out = new fastdl_context{o.num_threads,       o.allocate,     o.deallocate,   o.user,
                              o.float32_precision, o.parallel_for, o.parallel_user};
  });
}

void fastdl_context_destroy(fastdl_context* context) { delete context; }

const char* fastdl_version(void) { return version(); }
fastdl_status fastdl_version_check(int32_t header) {
  return guarded([&] { check_version(header); });
}

int32_t fastdl_get_num_threads(void) { return default_num_threads(); }

fastdl_status fastdl_set_num_threads(int32_t n) {
  return guarded([&] {
    FASTDL_CHECK(n >= 1 && n <= 1024, FASTDL_ERROR_VALUE,
                 "set_num_threads: expected 1 to 1024 threads, got %d", n);
    set_default_num_threads(n);
  });
}

int32_t fastdl_get_float32_precision(void) { return float32_precision(nullptr); }

fastdl_status fastdl_set_float32_precision(int32_t precision) {
  return guarded([&] {
    FASTDL_CHECK(precision >= FASTDL_PRECISION_HIGHEST && precision <= FASTDL_PRECISION_MEDIUM,
                 FASTDL_ERROR_VALUE, "set_float32_precision: expected 0 to 2, got %d", precision);
    default_precision.store(precision, std::memory_order_relaxed);
  });
}
}
