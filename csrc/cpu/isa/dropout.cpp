// Philox in plain integer loops over independent counters: compilers vectorise them for each ISA.
#include "cpu/isa/dropout.h"

namespace fastdl::cpu::FASTDL_ISA {
namespace {

constexpr int kBlocks =
    32;  // counters at a time: two vectors of the widest ISA hide the multiplier's latency

// words[4 * b + w] = word w of the block with counter first + b.
void philox(uint64_t seed, uint64_t first, uint32_t* __restrict words) {
  uint32_t c0[kBlocks], c1[kBlocks], c2[kBlocks], c3[kBlocks];
  for (int b = 0; b < kBlocks; ++b) {
    const uint64_t counter = first + static_cast<uint64_t>(b);
    c0[b] = static_cast<uint32_t>(counter);
    c1[b] = static_cast<uint32_t>(counter >> 32);
    c2[b] = c3[b] = 0;
  }
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int b = 0; b < kBlocks; ++b) {
      const uint64_t p0 = uint64_t{0xD2511F53} * c0[b], p1 = uint64_t{0xCD9E8D57} * c2[b];
      c0[b] = static_cast<uint32_t>(p1 >> 32) ^ c1[b] ^ k0;
      c1[b] = static_cast<uint32_t>(p1);
      c2[b] = static_cast<uint32_t>(p0 >> 32) ^ c3[b] ^ k1;
      c3[b] = static_cast<uint32_t>(p0);
    }
    k0 += 0x9E3779B9u;  // the golden ratio and sqrt(3) - 1
    k1 += 0xBB67AE85u;
  }
  for (int b = 0; b < kBlocks; ++b) {
    words[4 * b] = c0[b];
    words[4 * b + 1] = c1[b];
    words[4 * b + 2] = c2[b];
    words[4 * b + 3] = c3[b];
  }
}

template <class T>
void apply(const DropoutMask& mask, int64_t first, int64_t n, const T* x, T* y) {
  const T scale = static_cast<T>(mask.scale);
  // threshold may be 2^32, which drops everything: compare with the largest dropped word instead.
  if (mask.threshold == 0) {
    for (int64_t i = 0; i < n; ++i) y[i] = x[i] * scale;
    return;
  }
  const uint32_t last_dropped = static_cast<uint32_t>(mask.threshold - 1);
  uint32_t words[4 * kBlocks];
  for (int64_t done = 0; done < n;) {
    const int64_t element = first + done, skip = element % 4;
    philox(mask.seed, mask.offset + static_cast<uint64_t>(element / 4), words);
    const int64_t count = n - done < 4 * kBlocks - skip ? n - done : 4 * kBlocks - skip;
    const uint32_t* w = words + skip;
    for (int64_t i = 0; i < count; ++i) y[done + i] = w[i] > last_dropped ? x[done + i] * scale : T(0);
    done += count;
  }
}

}  // namespace

extern const DropoutKernels dropout_kernels;
const DropoutKernels dropout_kernels = {{apply<float>}, {apply<double>}};

}  // namespace fastdl::cpu::FASTDL_ISA
