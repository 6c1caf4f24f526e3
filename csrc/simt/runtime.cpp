// The CUDA runtime API on host memory.
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <string>

#include "device/api.h"
#include "graph.h"
#include "simt.h"

// A stream runs what it is given at once; while it is being captured it keeps it instead.
struct CUstream_st {
  fastdl::simt::Graph* graph = nullptr;
};
struct CUevent_st {
  std::chrono::steady_clock::time_point time{};
  bool recorded = false;
};
struct CUgraph_st : fastdl::simt::Graph {};
struct CUgraphExec_st : fastdl::simt::Graph {};

namespace {

using fastdl::simt::Graph;

thread_local cudaError_t last_error = cudaSuccess;

cudaError_t result(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

bool is_default(cudaStream_t stream) {
  return stream == nullptr || stream == cudaStreamLegacy || stream == cudaStreamPerThread;
}

// Device memory: what was allocated, so that wrong frees are noticed and memory can run out.
struct Memory {
  std::mutex mutex;
  std::map<void*, size_t> sizes;
  size_t used = 0;
  static size_t total() {
    const char* text = std::getenv("FASTDL_SIMT_MEMORY");  // MiB
    return (text ? static_cast<size_t>(std::atoll(text)) : size_t{16384}) << 20;
  }
};

// What host code is told of the device.
int processors() {
  const char* text = std::getenv("FASTDL_SIMT_PROCESSORS");
  return text ? std::atoi(text) : fastdl::simt::kProcessors;
}
int shared_bytes() {
  const char* text = std::getenv("FASTDL_SIMT_SHARED");  // KiB
  return text ? std::atoi(text) * 1024 : static_cast<int>(fastdl::simt::kMaxSharedBytes);
}

Memory& memory() {
  static Memory* const m = new Memory;
  return *m;
}

cudaError_t allocate(void** pointer, size_t bytes) {
  if (!pointer) return result(cudaErrorInvalidValue);
  *pointer = nullptr;
  if (bytes == 0) return cudaSuccess;
  Memory& m = memory();
  std::lock_guard<std::mutex> lock(m.mutex);
  if (bytes > Memory::total() || m.used > Memory::total() - bytes) return result(cudaErrorMemoryAllocation);
  // Aligned as cudaMalloc aligns. Not rounded up: AddressSanitizer then sees accesses past the end.
  void* p = ::operator new(bytes, std::align_val_t(256), std::nothrow);
  if (!p) return result(cudaErrorMemoryAllocation);
  std::memset(p, 0xFF, bytes);  // NaN: nobody may rely on zeros
  m.sizes[p] = bytes;
  m.used += bytes;
  *pointer = p;
  return cudaSuccess;
}

cudaError_t release(void* pointer) {
  if (!pointer) return cudaSuccess;
  Memory& m = memory();
  std::lock_guard<std::mutex> lock(m.mutex);
  const auto found = m.sizes.find(pointer);
  if (found == m.sizes.end()) return result(cudaErrorInvalidValue);
  m.used -= found->second;
  m.sizes.erase(found);
  ::operator delete(pointer, std::align_val_t(256));
  return cudaSuccess;
}

template <class F>
cudaError_t enqueue(cudaStream_t stream, F&& operation) {
  if (Graph* graph = fastdl::simt::capturing(stream)) {
    graph->operations.emplace_back(std::forward<F>(operation));
  } else {
    operation();
  }
  return cudaSuccess;
}

void copy_2d(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t height) {
  for (size_t row = 0; row < height; ++row) {
    std::memmove(static_cast<char*>(to) + row * to_pitch, static_cast<const char*>(from) + row * from_pitch,
                 width);
  }
}

const char* name_of(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorInvalidResourceHandle:
      return "cudaErrorInvalidResourceHandle";
    case cudaErrorNotReady:
      return "cudaErrorNotReady";
    default:
      return "cudaErrorUnknown";
  }
}

const char* text_of(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorInvalidResourceHandle:
      return "invalid resource handle";
    case cudaErrorNotReady:
      return "device not ready";
    default:
      return "unknown error";
  }
}

}  // namespace

namespace fastdl::simt {

Graph* capturing(cudaStream_t stream) { return is_default(stream) ? nullptr : stream->graph; }

cudaError_t set_function_attribute(cudaFuncAttribute attribute, int value) {
  if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize &&
      (value < 0 || static_cast<size_t>(value) > kMaxSharedBytes)) {
    return result(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}

cudaError_t function_attributes(cudaFuncAttributes* attributes) {
  *attributes = {};
  attributes->maxThreadsPerBlock = kMaxThreadsPerBlock;
  attributes->ptxVersion = attributes->binaryVersion = 90;
  attributes->maxDynamicSharedSizeBytes = static_cast<int>(kMaxSharedBytes);
  return cudaSuccess;
}

cudaError_t occupancy(int* blocks, int threads, size_t shared_bytes) {
  if (threads < 1 || threads > kMaxThreadsPerBlock || shared_bytes > kMaxSharedBytes) {
    return result(cudaErrorInvalidValue);
  }
  const int by_threads = 2048 / threads;
  const int by_shared =
      static_cast<int>((kMaxSharedBytes + 1024) / (shared_bytes + 1024));  // 1 KiB is the system's
  const int most = by_threads < by_shared ? by_threads : by_shared;
  *blocks = most < 2 ? most : 2;  // no more than two, so that small grids already come in waves
  return cudaSuccess;
}

}  // namespace fastdl::simt

const char* cudaGetErrorString(cudaError_t error) { return text_of(error); }
const char* cudaGetErrorName(cudaError_t error) { return name_of(error); }
cudaError_t cudaPeekAtLastError() { return last_error; }
cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}
cudaError_t cudaDriverGetVersion(int* version) { return *version = 13000, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = 13000, cudaSuccess; }

cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
cudaError_t cudaSetDevice(int device) { return result(device == 0 ? cudaSuccess : cudaErrorInvalidDevice); }
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  using namespace fastdl::simt;
  if (device != 0) return result(cudaErrorInvalidDevice);
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = kMaxThreadsPerBlock;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = static_cast<int>(kDefaultSharedBytes);
      break;
    case cudaDevAttrWarpSize:
      *value = 32;
      break;
    case cudaDevAttrClockRate:
      *value = 1980000;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = processors();
      break;
    case cudaDevAttrMemoryClockRate:
      *value = 2619000;
      break;
    case cudaDevAttrGlobalMemoryBusWidth:
      *value = 5120;
      break;
    case cudaDevAttrL2CacheSize:
      *value = 50 << 20;
      break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = 2048;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = 9;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = 0;
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = 228 * 1024;
      break;
    case cudaDevAttrMaxRegistersPerMultiprocessor:
      *value = 65536;
      break;
    case cudaDevAttrCooperativeLaunch:
      *value = 1;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = shared_bytes();
      break;
    case cudaDevAttrReservedSharedMemoryPerBlock:
      *value = 1024;
      break;
    case cudaDevAttrMemoryPoolsSupported:
      *value = 1;
      break;
    default:
      return result(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  using namespace fastdl::simt;
  if (device != 0) return result(cudaErrorInvalidDevice);
  *properties = {};
  std::strcpy(properties->name, "fastdl host executor");
  properties->totalGlobalMem = Memory::total();
  properties->sharedMemPerBlock = kDefaultSharedBytes;
  properties->sharedMemPerMultiprocessor = 228 * 1024;
  properties->sharedMemPerBlockOptin = static_cast<size_t>(shared_bytes());
  properties->regsPerBlock = 65536;
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = kMaxThreadsPerBlock;
  properties->maxThreadsPerMultiProcessor = 2048;
  properties->multiProcessorCount = processors();
  properties->major = 9;
  properties->l2CacheSize = 50 << 20;
  properties->memoryBusWidth = 5120;
  return cudaSuccess;
}
cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) { return *can = 0, cudaSuccess; }

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  Memory& m = memory();
  std::lock_guard<std::mutex> lock(m.mutex);
  *total = Memory::total();
  *free = *total > m.used ? *total - m.used : 0;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** pointer, size_t bytes) { return allocate(pointer, bytes); }
cudaError_t cudaFree(void* pointer) { return release(pointer); }
// While a graph is captured the memory is allocated at once and lives until it is freed outside capture.
cudaError_t cudaMallocAsync(void** pointer, size_t bytes, cudaStream_t) { return allocate(pointer, bytes); }
cudaError_t cudaFreeAsync(void* pointer, cudaStream_t stream) {
  if (fastdl::simt::capturing(stream)) return cudaSuccess;  // the graph still uses it whenever it runs
  return release(pointer);
}
cudaError_t cudaMallocHost(void** pointer, size_t bytes) {
  return *pointer = std::malloc(bytes), cudaSuccess;
}
cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) { return cudaMallocHost(pointer, bytes); }
cudaError_t cudaFreeHost(void* pointer) { return std::free(pointer), cudaSuccess; }

// All memory is both: what was not allocated here is a NumPy array that stands for a device array.
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  void* p = const_cast<void*>(pointer);
  *attributes = {cudaMemoryTypeDevice, 0, p, p};
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  if (bytes && (!to || !from)) return result(cudaErrorInvalidValue);
  return enqueue(stream, [=] {
    if (bytes) std::memmove(to, from, bytes);
  });
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  return cudaMemcpyAsync(to, from, bytes, kind, nullptr);
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind, cudaStream_t stream) {
  if (width > to_pitch || width > from_pitch) return result(cudaErrorInvalidValue);
  return enqueue(stream, [=] { copy_2d(to, to_pitch, from, from_pitch, width, height); });
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  if (bytes && !to) return result(cudaErrorInvalidValue);
  return enqueue(stream, [=] {
    if (bytes) std::memset(to, value, bytes);
  });
}
cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  return cudaMemsetAsync(to, value, bytes, nullptr);
}
cudaError_t cudaMemset2DAsync(void* to, size_t pitch, int value, size_t width, size_t height,
                              cudaStream_t stream) {
  if (width > pitch) return result(cudaErrorInvalidValue);
  return enqueue(stream, [=] {
    for (size_t row = 0; row < height; ++row) std::memset(static_cast<char*>(to) + row * pitch, value, width);
  });
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) { return *stream = new CUstream_st, cudaSuccess; }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) { return cudaStreamCreate(stream); }
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (is_default(stream)) return result(cudaErrorInvalidResourceHandle);
  delete static_cast<CUgraph_st*>(stream->graph);
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return result(fastdl::simt::capturing(stream) ? cudaErrorStreamCaptureInvalidated : cudaSuccess);
}
cudaError_t cudaStreamQuery(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* argument) {
  return enqueue(stream, [=] { function(argument); });
}

cudaError_t cudaEventCreate(cudaEvent_t* event) { return *event = new CUevent_st, cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return cudaEventCreate(event); }
cudaError_t cudaEventDestroy(cudaEvent_t event) { return delete event, cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return enqueue(stream, [=] {
    event->time = std::chrono::steady_clock::now();
    event->recorded = true;
  });
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventQuery(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  if (!start->recorded || !end->recorded) return result(cudaErrorInvalidResourceHandle);
  *milliseconds = std::chrono::duration<float, std::milli>(end->time - start->time).count();
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (is_default(stream) || stream->graph) return result(cudaErrorInvalidValue);
  stream->graph = new CUgraph_st;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (is_default(stream) || !stream->graph) return result(cudaErrorInvalidValue);
  *graph = static_cast<CUgraph_st*>(stream->graph);
  stream->graph = nullptr;
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = fastdl::simt::capturing(stream) ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  *exec = new CUgraphExec_st;
  (*exec)->operations = graph->operations;
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  if (fastdl::simt::capturing(stream)) return result(cudaErrorNotSupported);
  fastdl::simt::log("graph (" + std::to_string(exec->operations.size()) + " operations)");
  for (const auto& operation : exec->operations) operation();
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) { return delete exec, cudaSuccess; }
cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete graph, cudaSuccess; }
