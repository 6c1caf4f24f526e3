#include "cuda/context.h"

#include <atomic>
#include <cstdio>
#include <map>
#include <mutex>
#include <new>

#include "common/error.h"
#include "common/place.h"
#include "common/version.h"
#include "common/view.h"
#include "cuda/launch_loop.h"
#include "fastdl/cuda.h"

namespace fastdl {
const int32_t kMemoryType = FASTDL_CUDA;
const char* const kMemoryName = "CUDA";

// As CuPy has it: what is on another GPU than the current one is an error, not a copy.
void check_place(const fastdl_tensor& t, int64_t item_size, const char* op, const char* name) {
  int device = 0;
  cuda::check_cuda(cudaGetDevice(&device), op);
  FASTDL_CHECK(t.device.id == device || t.device.id == kAnyDevice, FASTDL_ERROR_DEVICE,
               "%s: %s is on GPU %d, the current one is %d", op, name, t.device.id, device);
  const auto address = reinterpret_cast<uintptr_t>(t.data) + t.byte_offset;
  FASTDL_CHECK(address % static_cast<uintptr_t>(item_size) == 0, FASTDL_ERROR_VALUE,
               "%s: %s is not aligned to its elements of %d bytes", op, name, static_cast<int>(item_size));
}
}  // namespace fastdl

namespace fastdl::cuda {
namespace {

std::atomic<int32_t> default_precision{FASTDL_PRECISION_HIGHEST};
thread_local cudaStream_t default_stream = nullptr;

int current_device() {
  int device = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  return device;
}

// By default a device's pool gives all that is free back to the system whenever somebody waits for the
// device, and the next call waits for the system in turn. 256 MiB are enough for what a call commonly needs.
void keep_freed_memory() {
#ifndef FASTDL_SIMT
  static std::atomic<uint64_t> done{0};  // one bit per device
  const int device = current_device();
  const uint64_t bit = uint64_t{1} << (device % 64);
  if (done.load(std::memory_order_relaxed) & bit) return;
  cudaMemPool_t pool = nullptr;
  check_cuda(cudaDeviceGetDefaultMemPool(&pool, device), "cudaDeviceGetDefaultMemPool");
  uint64_t kept = 0;
  check_cuda(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &kept),
             "cudaMemPoolGetAttribute");
  constexpr uint64_t kWanted = uint64_t{256} << 20;
  if (kept < kWanted) {
    kept = kWanted;
    check_cuda(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &kept),
               "cudaMemPoolSetAttribute");
  }
  done.fetch_or(bit, std::memory_order_relaxed);
#endif
}

}  // namespace

cudaStream_t stream_of(const Context* context) { return context ? context->stream : default_stream; }

fastdl_precision float32_precision(const Context* context) {
  const int32_t own = context ? context->float32_precision : -1;
  return static_cast<fastdl_precision>(own >= 0 ? own : default_precision.load(std::memory_order_relaxed));
}

void check_cuda(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  if (error == cudaErrorMemoryAllocation) fail(FASTDL_ERROR_MEMORY, "%s: out of device memory", what);
  if (error == cudaErrorNoDevice || error == cudaErrorInsufficientDriver) {
    fail(FASTDL_ERROR_NO_CUDA, "%s: no CUDA device: %s", what, cudaGetErrorString(error));
  }
  fail(FASTDL_ERROR_INTERNAL, "%s: %s", what, cudaGetErrorString(error));
}

int multiprocessors() {
  int count = 0;
  check_cuda(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, current_device()),
             "cudaDeviceGetAttribute");
  return count;
}

Workspace::Workspace(Context* context, size_t bytes)
    : context_(context && context->allocate ? context : nullptr), stream_(stream_of(context)), bytes_(bytes) {
  if (bytes == 0) return;
  if (context_) {
    data_ = context_->allocate(bytes, stream_, context_->user);
    if (!data_) fail(FASTDL_ERROR_MEMORY, "the context's allocator returned NULL for %zu bytes", bytes);
    return;
  }
  keep_freed_memory();
  check_cuda(cudaMallocAsync(&data_, bytes, stream_), "cudaMallocAsync");
}

Workspace::~Workspace() {
  if (!data_) return;
  if (context_) context_->deallocate(data_, bytes_, stream_, context_->user);
  else cudaFreeAsync(data_, stream_);
}

namespace {

#ifdef FASTDL_SIMT
uint32_t* zeroed_word() {
  void* p = nullptr;
  check_cuda(cudaMalloc(&p, sizeof(uint32_t)), "cudaMalloc");
  check_cuda(cudaMemset(p, 0, sizeof(uint32_t)), "cudaMemset");
  return static_cast<uint32_t*>(p);
}
#else
// Zero before it returns, and legal while a stream is being captured, when what the legacy stream does, and
// memory that does not come from a stream, are errors otherwise.
uint32_t* zeroed_word() {
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  check_cuda(cudaThreadExchangeStreamCaptureMode(&mode), "cudaThreadExchangeStreamCaptureMode");
  void* p = nullptr;
  cudaStream_t stream = nullptr;
  cudaError_t error = cudaMalloc(&p, sizeof(uint32_t));
  if (error == cudaSuccess) error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  if (error == cudaSuccess) error = cudaMemsetAsync(p, 0, sizeof(uint32_t), stream);
  if (error == cudaSuccess) error = cudaStreamSynchronize(stream);
  if (stream) cudaStreamDestroy(stream);
  if (error != cudaSuccess && p) cudaFree(p);
  cudaThreadExchangeStreamCaptureMode(&mode);
  check_cuda(error, "the word for errors");
  return static_cast<uint32_t*>(p);
}
#endif

}  // namespace

uint32_t* error_word() {
  static std::mutex mutex;
  static std::map<int, uint32_t*> words;  // by device, never freed: kernels may be running at exit
  const int device = current_device();
  const std::lock_guard<std::mutex> lock(mutex);
  uint32_t*& word = words[device];
  if (!word) {
    word = zeroed_word();
  }
  return word;
}

}  // namespace fastdl::cuda

using namespace fastdl;
using namespace fastdl::cuda;

extern "C" {

const char* fastdl_cuda_last_error(void) { return last_error(); }

fastdl_status fastdl_cuda_version_check(int32_t header) {
  return guarded([&] { check_version(header); });
}

fastdl_status fastdl_cuda_context_create(const fastdl_cuda_context_options* options, fastdl_context** out) {
  return guarded([&] {
    const char* op = "cuda_context_create";
    FASTDL_CHECK(out != nullptr, FASTDL_ERROR_VALUE, "%s: out is NULL", op);
    const auto o = read_options(options, fastdl_cuda_context_options FASTDL_CUDA_CONTEXT_OPTIONS_INIT, op);
    FASTDL_CHECK((o.allocate != nullptr) == (o.deallocate != nullptr), FASTDL_ERROR_VALUE,
                 "%s: allocate and deallocate go together", op);
    FASTDL_CHECK(o.float32_precision >= -1 && o.float32_precision <= FASTDL_PRECISION_MEDIUM,
                 FASTDL_ERROR_VALUE, "%s: expected a float32_precision of -1 to 2, got %d", op,
                 o.float32_precision);
    *out = new fastdl_context{static_cast<cudaStream_t>(o.stream), o.allocate, o.deallocate, o.user,
                              o.float32_precision};
  });
}

void fastdl_cuda_context_destroy(fastdl_context* context) {
  if (!context) return;
  forget_loops(context);
  delete context;
}

void fastdl_cuda_set_stream(void* stream) { default_stream = static_cast<cudaStream_t>(stream); }
void* fastdl_cuda_get_stream(void) { return default_stream; }

int32_t fastdl_cuda_get_float32_precision(void) { return default_precision.load(std::memory_order_relaxed); }

fastdl_status fastdl_cuda_set_float32_precision(int32_t precision) {
  return guarded([&] {
    FASTDL_CHECK(precision >= FASTDL_PRECISION_HIGHEST && precision <= FASTDL_PRECISION_MEDIUM,
                 FASTDL_ERROR_VALUE, "set_float32_precision: expected 0, 1 or 2, got %d", precision);
    default_precision.store(precision, std::memory_order_relaxed);
  });
}

fastdl_status fastdl_cuda_device_count(int32_t* count) {
  return guarded([&] {
    FASTDL_CHECK(count != nullptr, FASTDL_ERROR_VALUE, "cuda_device_count: count is NULL");
    int devices = 0;
    const cudaError_t error = cudaGetDeviceCount(&devices);
    FASTDL_CHECK(error == cudaSuccess, FASTDL_ERROR_NO_CUDA, "no CUDA device can be used: %s",
                 cudaGetErrorString(error));
    *count = devices;
  });
}

fastdl_status fastdl_cuda_device_name(char* name, size_t size) {
  return guarded([&] {
    FASTDL_CHECK(name != nullptr && size > 0, FASTDL_ERROR_VALUE, "cuda_device_name: no room for the name");
    cudaDeviceProp properties;
    check_cuda(cudaGetDeviceProperties(&properties, current_device()), "cudaGetDeviceProperties");
    std::snprintf(name, size, "%s", properties.name);
  });
}

fastdl_status fastdl_cuda_check(fastdl_context* context) {
  return guarded([&] {
    const cudaStream_t stream = stream_of(context);
    uint32_t* const word = error_word();
    uint32_t found = 0;
    check_cuda(cudaMemcpyAsync(&found, word, sizeof found, cudaMemcpyDeviceToHost, stream), "cuda_check");
    check_cuda(cudaStreamSynchronize(stream), "cuda_check");
    if (found == 0) return;
    check_cuda(cudaMemsetAsync(word, 0, sizeof found, stream), "cuda_check");
    fail(FASTDL_ERROR_INDEX, "a kernel read an index or a label out of range");
  });
}
}
