// Arithmetic on two operands: memory-bound, two reads (one with a number) and a write.
#include "common/arithmetic.h"

#include "cuda/map.cuh"
#include "fastdl/cuda.h"

namespace fastdl::cuda {
namespace {

// use(f) with the function of a kind.
template <class Use>
__device__ __forceinline__ void with_arithmetic(int32_t kind, Use&& use) {
  switch (kind) {
    case FASTDL_ADD:
      return use([](auto a, auto b) { return a + b; });
    case FASTDL_SUB:
      return use([](auto a, auto b) { return a - b; });
    case FASTDL_MUL:
      return use([](auto a, auto b) { return a * b; });
    default:
      return use([](auto a, auto b) { return a / b; });
  }
}

template <class T>
struct Binary {
  static constexpr bool kUsesIndex = false;
  int32_t kind;
  template <class Use>
  __device__ __forceinline__ void dispatch(Use&& use) const {
    with_arithmetic(kind, [&](const auto& f) { use([&](int64_t, T a, T b) { return f(a, b); }); });
  }
};

template <class T>
struct WithNumber {
  static constexpr bool kUsesIndex = false;
  int32_t kind;
  T number;
  template <class Use>
  __device__ __forceinline__ void dispatch(Use&& use) const {
    with_arithmetic(kind, [&](const auto& f) { use([&](int64_t, T a) { return f(a, number); }); });
  }
};

}  // namespace
}  // namespace fastdl::cuda

using namespace fastdl;
using namespace fastdl::cuda;

extern "C" fastdl_status fastdl_cuda_arithmetic(fastdl_context* context, const fastdl_tensor* a,
                                                const fastdl_tensor* b, double number,
                                                const fastdl_tensor* out, int32_t kind) {
  return guarded([&] {
    const check::Arithmetic v = check::arithmetic(a, b, out, kind);
    dispatch_storage(v.a.dtype, [&](auto zero) {
      using S = decltype(zero);
      using T = compute_t<S>;
      if (b) map<S, S, S>(context, Binary<T>{kind}, v.out, v.a, v.b);
      else map<S, S>(context, WithNumber<T>{kind, static_cast<T>(number)}, v.out, v.a);
    });
  });
}
