// What a device does with tensor maps of im2col where the documentation leaves a question: a tiny load is
// made once, and its result compared with what each answer would bring.
#include <array>
#include <map>
#include <mutex>

#include "cuda/launch.h"
#include "cuda/ptx/mbarrier.cuh"
#include "cuda/ptx/tma.cuh"
#include "cuda/shared.cuh"
#include "cuda/tensor_map.h"

namespace fastdl::cuda {
namespace {

// 8 pixels of 16 channels, from images of 4 x 4 whose element i is i. The bounding box leaves out two lines,
// or two columns.
constexpr int kSide = 4, kPixels = 8, kChannels = 16, kWords = kPixels * kChannels / 2;
constexpr int kLine = kSide * kChannels, kElements = kSide * kLine;

struct ProbeShared {
  SharedArray<uint32_t, kWords> box;
  SharedArray<uint64_t, 1> full;
};

__global__ void __launch_bounds__(kWords)
    im2col_probe(const __grid_constant__ CUtensorMap map, uint32_t* out) {
  auto& shared = shared_memory<ProbeShared>();
  const uint32_t full = ptx::shared_address(shared.full.data());
  if (threadIdx.x == 0) {
    ptx::mbarrier_init(full, 1);
    ptx::mbarrier_fence_init();
    ptx::mbarrier_arrive_expect(full, kWords * 4);
    const int at[4] = {0, 0, 0, 0};
    const uint16_t offset[2] = {0, 0};
    ptx::tensor_load_im2col(ptx::shared_address(shared.box.data()), &map, full, at, offset);
  }
  __syncthreads();
  ptx::mbarrier_wait(full, 0);
  out[threadIdx.x] = shared.box[static_cast<int>(threadIdx.x)];
}

using Box = std::array<uint16_t, kPixels * kChannels>;

// Pixels `pitch` elements apart, `across` of them on a line of the bounding box.
Box expected(int pitch, int across) {
  Box box{};
  for (int i = 0; i < kPixels; ++i) {
    for (int c = 0; c < kChannels; ++c) {
      box[static_cast<size_t>(i * kChannels + c)] =
          static_cast<uint16_t>(i / across * kLine + i % across * pitch + c);
    }
  }
  return box;
}

Corners corners_of(const Box& box, int pitch) {
  if (box == expected(pitch, kSide)) return Corners::as_dims;
  return box == expected(pitch, kSide - 2) ? Corners::reversed : Corners::unknown;
}

// Pixels that lie `pitch` elements apart, loaded on the device.
Corners ask(cudaStream_t stream, unsigned char* memory, int pitch) {
  Im2colShape shape{};
  shape.axes = 2;
  shape.dims[0] = kChannels, shape.dims[1] = shape.dims[2] = kSide, shape.dims[3] = 1;
  shape.strides[1] = pitch, shape.strides[2] = kLine, shape.strides[3] = kElements;
  shape.upper[1] = -2;
  shape.step[0] = shape.step[1] = 1;
  shape.channels = kChannels, shape.pixels = kPixels;
  const auto map = try_im2col_map(DType::kBFloat16, memory, shape, CU_TENSOR_MAP_SWIZZLE_NONE);
  if (!map) return Corners::unknown;
  std::array<uint16_t, kElements> image;
  for (size_t i = 0; i < kElements; ++i) image[i] = static_cast<uint16_t>(i);
  unsigned char* const out = memory + sizeof image;
  check_cuda(cudaMemcpyAsync(memory, image.data(), sizeof image, cudaMemcpyHostToDevice, stream),
             "cudaMemcpyAsync");
  Context context{};
  context.stream = stream;
  launch(&context, FASTDL_KERNEL(im2col_probe), {1, kWords, sizeof(ProbeShared)}, *map,
         reinterpret_cast<uint32_t*>(out));
  Box box;
  check_cuda(cudaMemcpyAsync(box.data(), out, sizeof box, cudaMemcpyDeviceToHost, stream), "cudaMemcpyAsync");
  check_cuda(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  return corners_of(box, pitch);
}

// On a stream of its own, so that it is legal while the caller's is being captured.
struct OwnStream {
  cudaStream_t stream = nullptr;
  void* memory = nullptr;
#ifdef FASTDL_SIMT
  OwnStream() { check_cuda(cudaMalloc(&memory, kBytes), "cudaMalloc"); }
  ~OwnStream() { cudaFree(memory); }
#else
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  OwnStream() {
    check_cuda(cudaThreadExchangeStreamCaptureMode(&mode), "cudaThreadExchangeStreamCaptureMode");
    cudaError_t error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    if (error == cudaSuccess) error = cudaMalloc(&memory, kBytes);
    if (error == cudaSuccess) return;
    end();
    check_cuda(error, "memory for a question to the device");
  }
  ~OwnStream() { end(); }
  void end() {
    if (memory) cudaFree(memory);
    if (stream) cudaStreamDestroy(stream);
    cudaThreadExchangeStreamCaptureMode(&mode);
  }
#endif
  static constexpr size_t kBytes = kElements * 2 + kWords * 4;
};

}  // namespace

Im2colFacts im2col_facts() {
  static std::mutex mutex;
  static std::map<int, Im2colFacts> known;  // by device
  int device = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = known.find(device);
  if (found != known.end()) return found->second;
  const OwnStream own;
  auto* const memory = static_cast<unsigned char*>(own.memory);
  Im2colFacts facts{ask(own.stream, memory, kChannels / 2), true};
  if (facts.corners == Corners::unknown) facts = {ask(own.stream, memory, kChannels), false};
  return known[device] = facts;
}

}  // namespace fastdl::cuda
