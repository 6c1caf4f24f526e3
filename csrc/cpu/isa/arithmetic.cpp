// Arithmetic on two operands, and copies past the caches.
#include "cpu/isa/arithmetic.h"

#include "cpu/isa/vectors.h"
#include "fastdl/arithmetic.h"

namespace fastdl::cpu::FASTDL_ISA {
namespace {

template <class S, class F>
FASTDL_INLINE void combine(int64_t n, const S* a, const S* b, compute_t<S> number, S* out, F&& f) {
  if (b) return map(n, out, f, a, b);
  const VecOf<S> c = VecOf<S>::broadcast(number);
  map(n, out, [&](VecOf<S> v) FASTDL_FORCE_INLINE { return f(v, c); }, a);
}

template <class S>
void binary(int32_t kind, int64_t n, const S* a, const S* b, compute_t<S> number, S* out) {
  using V = VecOf<S>;
  switch (kind) {
    case FASTDL_ADD:
      return combine(n, a, b, number, out, [](V x, V y) FASTDL_FORCE_INLINE { return x + y; });
    case FASTDL_SUB:
      return combine(n, a, b, number, out, [](V x, V y) FASTDL_FORCE_INLINE { return x - y; });
    case FASTDL_MUL:
      return combine(n, a, b, number, out, [](V x, V y) FASTDL_FORCE_INLINE { return x * y; });
    default:
      return combine(n, a, b, number, out, [](V x, V y) FASTDL_FORCE_INLINE { return x / y; });
  }
}

void stream(int64_t bytes, const void* from_, void* to_) {
  const char* from = static_cast<const char*>(from_);
  char* to = static_cast<char*>(to_);
#if FASTDL_ISA_ID == FASTDL_ISA_ID_avx2 || FASTDL_ISA_ID == FASTDL_ISA_ID_avx512
  constexpr int64_t kLine = 64;
  const int64_t ahead = static_cast<int64_t>((0 - reinterpret_cast<uintptr_t>(to)) % kLine);
  const int64_t head = ahead < bytes ? ahead : bytes;
  __builtin_memcpy(to, from, static_cast<size_t>(head));
  int64_t i = head;
  for (; i + kLine <= bytes; i += kLine) {
#if FASTDL_ISA_ID == FASTDL_ISA_ID_avx512
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i), _mm512_loadu_si512(from + i));
#else
    const __m256i* p = reinterpret_cast<const __m256i*>(from + i);
    const __m256i a = _mm256_loadu_si256(p), b = _mm256_loadu_si256(p + 1);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + i), a);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + i) + 1, b);
#endif
  }
  __builtin_memcpy(to + i, from + i, static_cast<size_t>(bytes - i));
  _mm_sfence();  // before another thread is told that the work is done
#else
  __builtin_memcpy(to, from, static_cast<size_t>(bytes));
#endif
}

template <class S>
constexpr ArithmeticTable<S> kTable = {binary<S>};

}  // namespace

extern const ArithmeticKernels arithmetic_kernels;
const ArithmeticKernels arithmetic_kernels = {kTable<float>, kTable<double>, kTable<bfloat16>,
                                              kTable<float16>, stream};

}  // namespace fastdl::cpu::FASTDL_ISA
