// Runs the wrappers of csrc/cuda/ptx on given inputs, on a GPU or on the host executor, whose bodies are
// another pair: what the first gives is recorded beside this file, and the second is held to it
// (tests/golden_wrappers.py).
//
//   wrappers              prints the device, then each case: its name, words per lane of input and of output
//   wrappers CASE IN OUT  reads uint32 words, per warp of 32 lanes, from IN and writes those of the results
//   wrappers rate         prints the TFLOP/s of mma.sync
#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include "cuda/ptx/convert.cuh"
#include "cuda/ptx/cp_async.cuh"
#include "cuda/ptx/exponential.cuh"
#include "cuda/ptx/ldmatrix.cuh"
#include "cuda/ptx/mma.cuh"
#include "cuda/ptx/opaque.cuh"
#include "cuda/ptx/relaxed.cuh"
#include "cuda/shared.cuh"
#if defined(FASTDL_SIMT) || defined(FASTDL_GOLDEN_HOPPER)
#include "hopper.cuh"
#define WITH_HOPPER
#endif

#ifdef FASTDL_SIMT
#define LAUNCH(kernel, grid, block, shared, ...) \
  FASTDL_SIMT_LAUNCH(kernel, grid, block, shared, nullptr, __VA_ARGS__)
#else
#define LAUNCH(kernel, grid, block, shared, ...) kernel<<<grid, block, shared>>>(__VA_ARGS__)
#endif

using namespace fastdl;
using namespace fastdl::cuda;

namespace {

constexpr int kLanes = 32;

struct Shared {
  SharedArray<uint4, kLanes> rows;
};

// What a case reads and writes per lane, in words; run() is a lane's part of the warp's work.
template <int InWords, int OutWords>
struct Words {
  static constexpr int kIn = InWords, kOut = OutWords;
};

template <class S>
struct Mma : Words<10, 4> {  // a, b, c; c
  static __device__ void run(Shared&, const uint32_t* in, uint32_t* out) {
    const uint32_t a[4] = {in[0], in[1], in[2], in[3]}, b[2] = {in[4], in[5]};
    float c[4];
    for (int i = 0; i < 4; ++i) c[i] = __uint_as_float(in[6 + i]);
    ptx::mma(S{}, c, a, b);
    for (int i = 0; i < 4; ++i) out[i] = __float_as_uint(c[i]);
  }
};

template <bool Transposed>
struct Ldmatrix : Words<5, 4> {  // this lane's row of 16 bytes, and the row whose address it gives; fragments
  static __device__ void run(Shared& shared, const uint32_t* in, uint32_t* out) {
    shared_store(shared.rows.at(threadIdx.x), uint4{in[0], in[1], in[2], in[3]});
    __syncthreads();
    uint32_t r[4];
    ptx::ldmatrix<Transposed>(r, shared.rows.at(in[4] % kLanes));
    for (int i = 0; i < 4; ++i) out[i] = r[i];
  }
};

// Two copies in groups of their own, the second waited for last: its 16 bytes in memory, and how many are
// valid.
struct CpAsync : Words<8, 4> {
  static __device__ void run(Shared& shared, const uint32_t* in, uint32_t* out) {
    uint4* const row = shared.rows.at(threadIdx.x);
    ptx::cp_async_16(row, in, 0);
    ptx::cp_async_commit();
    ptx::cp_async_wait<0>();
    ptx::cp_async_16(row, in, static_cast<int>(in[4] % 17));
    ptx::cp_async_commit();
    ptx::cp_async_wait<0>();
    const auto copied = shared_load<uint4>(row);
    out[0] = copied.x, out[1] = copied.y, out[2] = copied.z, out[3] = copied.w;
  }
};

struct Opaque : Words<1, 1> {
  static __device__ void run(Shared&, const uint32_t* in, uint32_t* out) { out[0] = ptx::opaque(in[0]); }
};

// What blocks hand to each other: 16 bytes read, and written as 8, 4 and 2.
struct Relaxed : Words<4, 8> {
  static __device__ void run(Shared&, const uint32_t* in, uint32_t* out) {
    uint32_t words[4];
    ptx::prefetch_l2(in);
    ptx::look_again();
    ptx::load_relaxed(words, in);
    for (int i = 0; i < 8; ++i) out[i] = 0;
    ptx::store_relaxed(out, static_cast<uint64_t>(words[1]) << 32 | words[0]);
    ptx::store_relaxed(out + 2, words[2]);
    ptx::store_relaxed(out + 3, static_cast<uint16_t>(words[3]));
    ptx::load_relaxed(words, in);
    for (int i = 0; i < 4; ++i) out[4 + i] = words[i];
  }
};

struct Exp2 : Words<1, 1> {
  static __device__ void run(Shared&, const uint32_t* in, uint32_t* out) {
    out[0] = __float_as_uint(ptx::fast_exp2(__uint_as_float(in[0])));
  }
};

template <class S>
struct Widen : Words<1, 1> {
  static __device__ void run(Shared&, const uint32_t* in, uint32_t* out) {
    *out = __float_as_uint(ptx::to_float(S{static_cast<uint16_t>(*in)}));
  }
};

template <class S>
struct Narrow : Words<1, 1> {
  static __device__ void run(Shared&, const uint32_t* in, uint32_t* out) {
    const float x = __uint_as_float(*in);
    if constexpr (std::is_same_v<S, bfloat16>) *out = ptx::to_bfloat16(x).bits;
    else *out = ptx::to_float16(x).bits;
  }
};

template <class S>
struct Pack : Words<2, 1> {
  static __device__ void run(Shared&, const uint32_t* in, uint32_t* out) {
    *out = ptx::pack(S{}, __uint_as_float(in[0]), __uint_as_float(in[1]));
  }
};

template <class Case>
__global__ void run_case(const uint32_t* in, uint32_t* out) {
  const size_t lane = static_cast<size_t>(blockIdx.x) * kLanes + threadIdx.x;
  Case::run(shared_memory<Shared>(), in + lane * Case::kIn, out + lane * Case::kOut);
}

// Eight sums at a time, so that none waits for the one before it.
__global__ void repeat_mma(int rounds, float* out) {
  const uint32_t a[4] = {0x3F803F80u, 0x3F80BF80u, 0x3F003F00u, threadIdx.x},
                 b[2] = {0x3F803F00u, 0xBF803F80u};
  float c[8][4] = {};
  for (int i = 0; i < rounds; ++i) {
#pragma unroll
    for (int j = 0; j < 8; ++j) ptx::mma(bfloat16{}, c[j], a, b);
  }
  float sum = 0;
  for (int j = 0; j < 8; ++j) sum += c[j][0] + c[j][3];
  out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s\n", cudaGetErrorString(error));
  std::exit(2);
}

template <class Case>
std::vector<uint32_t> results(const std::vector<uint32_t>& in) {
  const size_t warps = in.size() / (kLanes * Case::kIn);
  std::vector<uint32_t> out(warps * kLanes * Case::kOut);
  uint32_t *x = nullptr, *y = nullptr;
  check(cudaMalloc(&x, in.size() * 4));
  check(cudaMalloc(&y, out.size() * 4));
  check(cudaMemcpy(x, in.data(), in.size() * 4, cudaMemcpyHostToDevice));
  LAUNCH(run_case<Case>, static_cast<unsigned>(warps), kLanes, sizeof(Shared), x, y);
  check(cudaGetLastError());
  check(cudaMemcpy(out.data(), y, out.size() * 4, cudaMemcpyDeviceToHost));
  check(cudaFree(x));
  check(cudaFree(y));
  return out;
}

#ifdef WITH_HOPPER
template <class... Parameters, class... Arguments>
void launch_hopper(void (*kernel)(Parameters...), unsigned blocks, unsigned cluster, Arguments... arguments) {
#ifdef FASTDL_SIMT
  simt::LaunchConfig config;
  config.grid = blocks;
  config.block = hopper::kGroup;
  config.shared_bytes = sizeof(hopper::Shared);
  config.cluster = cluster;
  simt::launch("hopper_case", config, [=] { kernel(arguments...); });
#else
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(sizeof(hopper::Shared))));
  cudaLaunchConfig_t config{};
  config.gridDim = blocks;
  config.blockDim = hopper::kGroup;
  config.dynamicSmemBytes = sizeof(hopper::Shared);
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {cluster, 1, 1};
  config.attrs = &attribute;
  config.numAttrs = 1;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
#endif
}

template <class Case, unsigned Cluster, bool Stores>
std::vector<uint32_t> hopper_results(const std::vector<uint32_t>& in) {
  const size_t lanes = in.size() / Case::kIn;
  std::vector<uint32_t> out(lanes * Case::kOut);
  uint32_t *x = nullptr, *y = nullptr;
  check(cudaMalloc(&x, in.size() * 4));
  check(cudaMalloc(&y, out.size() * 4));
  check(cudaMemcpy(x, in.data(), in.size() * 4, cudaMemcpyHostToDevice));
  const auto blocks = static_cast<unsigned>(lanes / hopper::kGroup);
  if constexpr (Stores) {
    // Boxes of 32 rows, whose last three elements lie outside.
    const CUtensorMap to = hopper::map_of(y, lanes, 61, 32, 64, CU_TENSOR_MAP_SWIZZLE_NONE);
    launch_hopper(hopper::store_case<Case>, blocks, Cluster, static_cast<const uint32_t*>(x), to, y);
  } else {
    launch_hopper(hopper::load_case<Case>, blocks, Cluster, Case::map(x, lanes), y);
  }
  check(cudaGetLastError());
  check(cudaMemcpy(out.data(), y, out.size() * 4, cudaMemcpyDeviceToHost));
  check(cudaFree(x));
  check(cudaFree(y));
  return out;
}
#endif

struct Entry {
  const char* name;
  int in, out;
  std::vector<uint32_t> (*run)(const std::vector<uint32_t>&);
};
template <class Case>
Entry entry(const char* name) {
  return {name, Case::kIn, Case::kOut, results<Case>};
}
#ifdef WITH_HOPPER
template <class Case, unsigned Cluster = 1, bool Stores = false>
Entry hopper_entry(const char* name) {
  return {name, Case::kIn, Case::kOut, hopper_results<Case, Cluster, Stores>};
}
#endif
const Entry kCases[] = {
#ifdef WITH_HOPPER
    hopper_entry<hopper::Wgmma<bfloat16, 64, false, false, 128>>("wgmma_bfloat16"),
    hopper_entry<hopper::Wgmma<bfloat16, 128, true, false, 128>>("wgmma_bfloat16_transposed_a"),
    hopper_entry<hopper::Wgmma<bfloat16, 256, false, true, 128>>("wgmma_bfloat16_transposed_b"),
    hopper_entry<hopper::Wgmma<bfloat16, 128, false, true, 64>>("wgmma_bfloat16_transposed_b_rows_of_64"),
    hopper_entry<hopper::Wgmma<float16, 64, true, true, 128>>("wgmma_float16_transposed"),
    hopper_entry<hopper::Wgmma<float16, 128, false, false, 64>>("wgmma_float16_rows_of_64"),
    hopper_entry<hopper::Wgmma<bfloat16, 64, false, false, 32>>("wgmma_bfloat16_rows_of_32"),
    hopper_entry<hopper::Wgmma<bfloat16, 8, false, false, 128>>("wgmma_bfloat16_8_columns"),
    hopper_entry<hopper::Wgmma<float16, 8, true, true, 128>>("wgmma_float16_8_columns_transposed"),
    hopper_entry<hopper::Wgmma<float16, 16, true, false, 128>>("wgmma_float16_16_columns"),
    hopper_entry<hopper::Wgmma<bfloat16, 16, false, true, 32>>("wgmma_bfloat16_16_columns_rows_of_32"),
    hopper_entry<hopper::Wgmma<bfloat16, 32, false, true, 64>>("wgmma_bfloat16_32_columns_rows_of_64"),
    hopper_entry<hopper::Wgmma<bfloat16, 64, false, false, 32>>("mma_warpgroup_bfloat16"),
    hopper_entry<hopper::Wgmma<float16, 64, false, false, 32>>("mma_warpgroup_float16"),
    hopper_entry<hopper::Wgmma<ptx::tfloat32, 64, false, false, 128>>("wgmma_tfloat32"),
    hopper_entry<hopper::WgmmaLeft<bfloat16, 128, 128>>("wgmma_bfloat16_left_in_registers"),
    hopper_entry<hopper::WgmmaLeft<float16, 96, 64>>("wgmma_float16_left_in_registers"),
    hopper_entry<hopper::WgmmaLeft<bfloat16, 8, 128>>("wgmma_bfloat16_left_in_registers_8_columns"),
    hopper_entry<hopper::WgmmaLeft<float16, 16, 32>>("wgmma_float16_left_in_registers_16_columns"),
    hopper_entry<hopper::WgmmaLeft<bfloat16, 32, 64>>("wgmma_bfloat16_left_in_registers_32_columns"),
    hopper_entry<hopper::TensorLoad<128, false>>("tensor_load"),
    hopper_entry<hopper::TensorLoad<128, true>>("tensor_load_swizzled_128"),
    hopper_entry<hopper::TensorLoad<64, true>>("tensor_load_swizzled_64"),
    hopper_entry<hopper::TensorLoad<32, true>>("tensor_load_swizzled_32"),
    hopper_entry<hopper::TensorLoadIm2col<1>>("tensor_load_im2col_1d"),
    hopper_entry<hopper::TensorLoadIm2col<2>>("tensor_load_im2col_2d"),
    hopper_entry<hopper::TensorLoadIm2col<3>>("tensor_load_im2col_3d"),
    hopper_entry<hopper::TensorLoadIm2col<1, true>, 2>("tensor_load_im2col_1d_multicast"),
    hopper_entry<hopper::TensorLoadIm2col<2, true>, 2>("tensor_load_im2col_2d_multicast"),
    hopper_entry<hopper::TensorLoadIm2col<3, true>, 2>("tensor_load_im2col_3d_multicast"),
    hopper_entry<hopper::ClusterOfTwo, 2>("cluster_of_two"),
    hopper_entry<hopper::StoreAsync, 2>("store_async"),
    hopper_entry<hopper::Stmatrix<false>, 1, true>("stmatrix"),
    hopper_entry<hopper::Stmatrix<true>, 1, true>("stmatrix_transposed"),
    hopper_entry<hopper::BulkLines, 1, true>("bulk_lines"),
#endif
    entry<Mma<bfloat16>>("mma_bfloat16"),
    entry<Mma<float16>>("mma_float16"),
    entry<Ldmatrix<false>>("ldmatrix"),
    entry<Ldmatrix<true>>("ldmatrix_transposed"),
    entry<CpAsync>("cp_async"),
    entry<Opaque>("opaque"),
    entry<Relaxed>("relaxed"),
    entry<Exp2>("exp2"),
    entry<Widen<bfloat16>>("widen_bfloat16"),
    entry<Widen<float16>>("widen_float16"),
    entry<Narrow<bfloat16>>("narrow_bfloat16"),
    entry<Narrow<float16>>("narrow_float16"),
    entry<Pack<bfloat16>>("pack_bfloat16"),
    entry<Pack<float16>>("pack_float16"),
};

int rate() {
#ifdef FASTDL_SIMT
  const int rounds = 4, per_processor = 1, threads = 64;
#else
  const int rounds = 20000, per_processor = 2, threads = 256;
#endif
  int processors = 0;
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, 0));
  const int blocks = processors * per_processor;
  float* out = nullptr;
  check(cudaMalloc(&out, static_cast<size_t>(blocks) * threads * sizeof(float)));
  cudaEvent_t start, stop;
  check(cudaEventCreate(&start));
  check(cudaEventCreate(&stop));
  float best = 0;
  for (int trial = 0; trial < 4; ++trial) {
    check(cudaEventRecord(start, nullptr));
    LAUNCH(repeat_mma, blocks, threads, 0, rounds, out);
    check(cudaEventRecord(stop, nullptr));
    check(cudaEventSynchronize(stop));
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, start, stop));
    const double operations = 2.0 * 16 * 8 * 16 * 8 * rounds * blocks * (threads / kLanes);
    const auto teraflops = static_cast<float>(operations / milliseconds / 1e9);
    best = teraflops > best ? teraflops : best;
  }
  check(cudaGetLastError());
  check(cudaFree(out));
  std::printf("%.6f\n", static_cast<double>(best));
  return 0;
}

int run(const Entry& chosen, const char* from, const char* to) {
  std::FILE* file = std::fopen(from, "rb");
  if (!file) return 3;
  std::vector<uint32_t> in;
  uint32_t block[1024];
  for (size_t n; (n = std::fread(block, 4, 1024, file)) > 0;) in.insert(in.end(), block, block + n);
  std::fclose(file);
  if (in.empty() || in.size() % static_cast<size_t>(kLanes * chosen.in) != 0) return 4;
  const std::vector<uint32_t> out = chosen.run(in);
  file = std::fopen(to, "wb");
  if (!file) return 3;
  const bool written = std::fwrite(out.data(), 4, out.size(), file) == out.size();
  return std::fclose(file) == 0 && written ? 0 : 3;
}

}  // namespace

int main(int count, char** words) {
  if (count == 4) {
    for (const Entry& c : kCases) {
      if (std::strcmp(c.name, words[1]) == 0) return run(c, words[2], words[3]);
    }
    return 1;
  }
  if (count == 2 && std::strcmp(words[1], "rate") == 0) return rate();
  cudaDeviceProp device;
  check(cudaGetDeviceProperties(&device, 0));
  std::printf("%s\n", device.name);
  for (const Entry& c : kCases) std::printf("%s %d %d\n", c.name, c.in, c.out);
  return 0;
}
