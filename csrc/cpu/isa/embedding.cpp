// Sums and maxima of scattered table rows.
#include "cpu/isa/embedding.h"

#include "cpu/isa/rows.h"

namespace fastdl::cpu::FASTDL_ISA {
namespace {

// Long sums go through partial sums of this many rows, which keeps their rounding error small.
constexpr int64_t kPartial = 64;

// B vectors of columns stay in registers while the rows pass by.
template <int B, class T>
FASTDL_INLINE void sum_block(int64_t count, const int64_t* rows, const T* scales, T factor, int64_t n,
                             int last, const T* table, T* out) {
  constexpr int w = Vec<T>::width;
  Vec<T> total[B];
  for (int b = 0; b < B; ++b) total[b] = Vec<T>::zero();
  for (int64_t first = 0; first < count; first += kPartial) {
    const int64_t end = first + kPartial < count ? first + kPartial : count;
    Vec<T> part[B];
    for (int b = 0; b < B; ++b) part[b] = Vec<T>::zero();
    for (int64_t k = first; k < end; ++k) {
      const T* row = table + rows[k] * n;
      const Vec<T> scale = Vec<T>::broadcast(scales ? scales[k] : T(1));
      for (int b = 0; b < B; ++b)
        part[b] = fma(scale, Vec<T>::load(row + b * w, b == B - 1 ? last : w), part[b]);
    }
    for (int b = 0; b < B; ++b) total[b] += part[b];
  }
  const Vec<T> f = Vec<T>::broadcast(factor);
  for (int b = 0; b < B; ++b) (total[b] * f).store(out + b * w, b == B - 1 ? last : w);
}

template <class T>
void sum_rows(int64_t count, const int64_t* rows, const T* scales, T factor, int64_t n, const T* table,
              T* out) {
  constexpr int w = Vec<T>::width;
  int64_t j = 0;
  for (; j + 4 * w <= n; j += 4 * w) sum_block<4>(count, rows, scales, factor, n, w, table + j, out + j);
  for (; j < n; j += w) {
    sum_block<1>(count, rows, scales, factor, n, n - j < w ? static_cast<int>(n - j) : w, table + j, out + j);
  }
}

template <class T>
void max_rows(int64_t count, const int64_t* rows, int64_t n, const T* table, T* out, int64_t* which) {
  for (int64_t j = 0; j < n; ++j) out[j] = table[rows[0] * n + j], which[j] = rows[0];
  for (int64_t k = 1; k < count; ++k) {
    const T* row = table + rows[k] * n;
    for (int64_t j = 0; j < n; ++j) {
      const bool better = row[j] > out[j] || (row[j] != row[j] && out[j] == out[j]);
      if (better) out[j] = row[j], which[j] = rows[k];
    }
  }
}

template <class T>
T dot(int64_t n, const T* a, const T* b) {
  return row_sum<T>(n, [&](int64_t i, int m)
                           FASTDL_FORCE_INLINE { return Vec<T>::load(a + i, m) * Vec<T>::load(b + i, m); });
}

template <class T>
constexpr EmbeddingTable<T> kTable = {sum_rows<T>, max_rows<T>, dot<T>};

}  // namespace

extern const EmbeddingKernels embedding_kernels;
const EmbeddingKernels embedding_kernels = {kTable<float>, kTable<double>};

}  // namespace fastdl::cpu::FASTDL_ISA
