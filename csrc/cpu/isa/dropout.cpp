// Dropout: a block of random words, then the elements they decide about.
#include "cpu/isa/dropout.h"

#include "cpu/isa/philox.h"
#include "cpu/isa/vectors.h"

namespace fastdl::cpu::FASTDL_ISA {
namespace {

template <class S>
void apply(const DropoutMask& mask, int64_t first, int64_t n, const S* x, S* y) {
  using T = compute_t<S>;
  const Vec<T> scale = constant<T>(mask.scale), zero = Vec<T>::zero();
  if (mask.threshold == 0) {
    for_vectors<S>(n, [&](int64_t i, int m) FASTDL_FORCE_INLINE { store(load(x + i, m) * scale, y + i, m); });
    return;
  }
  // threshold may be 2^32, which drops everything: compare with the largest dropped word instead.
  const uint32_t last_dropped = static_cast<uint32_t>(mask.threshold - 1);
  alignas(64) uint32_t words[kPhiloxWords];
  alignas(64) T kept[kPhiloxWords];
  for (int64_t done = 0; done < n;) {
    const int64_t element = first + done, skip = element % 4;
    philox(mask.seed, mask.offset + static_cast<uint64_t>(element / 4), words);
    for (int i = 0; i < kPhiloxWords; ++i) kept[i] = words[i] > last_dropped ? T(1) : T(0);
    const int64_t count = n - done < kPhiloxWords - skip ? n - done : kPhiloxWords - skip;
    for_vectors<S>(count, [&](int64_t i, int m) FASTDL_FORCE_INLINE {
      const Mask<T> dropped = load(kept + skip + i, m) == zero;
      store(select(dropped, zero, load(x + done + i, m) * scale), y + done + i, m);
    });
    done += count;
  }
}

}  // namespace

extern const DropoutKernels dropout_kernels;
const DropoutKernels dropout_kernels = {{apply<float>}, {apply<double>}, {apply<bfloat16>}, {apply<float16>}};

}  // namespace fastdl::cpu::FASTDL_ISA
