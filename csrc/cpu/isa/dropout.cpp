// Dropout: a block of random words, then a loop that the compiler vectorises.
#include "cpu/isa/dropout.h"

#include "cpu/isa/philox.h"

namespace fastdl::cpu::FASTDL_ISA {
namespace {

template <class T>
void apply(const DropoutMask& mask, int64_t first, int64_t n, const T* x, T* y) {
  const T scale = static_cast<T>(mask.scale);
  // threshold may be 2^32, which drops everything: compare with the largest dropped word instead.
  if (mask.threshold == 0) {
    for (int64_t i = 0; i < n; ++i) y[i] = x[i] * scale;
    return;
  }
  const uint32_t last_dropped = static_cast<uint32_t>(mask.threshold - 1);
  alignas(64) uint32_t words[kPhiloxWords];
  for (int64_t done = 0; done < n;) {
    const int64_t element = first + done, skip = element % 4;
    philox(mask.seed, mask.offset + static_cast<uint64_t>(element / 4), words);
    const int64_t count = n - done < kPhiloxWords - skip ? n - done : kPhiloxWords - skip;
    const uint32_t* w = words + skip;
    for (int64_t i = 0; i < count; ++i) y[done + i] = w[i] > last_dropped ? x[done + i] * scale : T(0);
    done += count;
  }
}

}  // namespace

extern const DropoutKernels dropout_kernels;
const DropoutKernels dropout_kernels = {{apply<float>}, {apply<double>}};

}  // namespace fastdl::cpu::FASTDL_ISA
