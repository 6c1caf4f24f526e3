// Matrix multiplication inside the library: what matmul, convolution, recurrent cells and attention call.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/context.h"
#include "cpu/isa/gemm.h"
#include "fastdl/activation.h"

namespace fastdl::cpu {

// What happens to a sum on its way to memory: C = activation(alpha * A B + beta * C + bias + residual).
template <class T>
struct GemmEpilogue {
  T alpha = T(1);
  T beta = T(0);                // 0: C is not read
  const T* bias = nullptr;      // [n]
  const T* residual = nullptr;  // [m x n], rows ld_residual apart
  int64_t ld_residual = 0;
  fastdl_activation activation{FASTDL_ACT_NONE, 0, 0};
};

// C[m x n] (unit column stride) = epilogue(A[m x k] B[k x n]); A and B have any strides, also zero and
// negative. C overlaps neither A nor B.
template <class T>
struct Gemm {
  int64_t m, n, k;
  const T* a;
  int64_t a_row, a_k;
  const T* b;
  int64_t b_k, b_n;
  T* c;
  int64_t ldc;
  GemmEpilogue<T> end{};
  const T* packed_b = nullptr;    // from pack_b with the ISA in force; b is then unused
  const void* split_b = nullptr;  // float32: also the parts of B, from split_b (gemm_split.h)
};

// The bits of C depend on the shapes and strides only, never on the number of threads.
template <class T>
void gemm(Context* context, const Gemm<T>& g);

// The same by register tiles alone, on the calling thread: the bits of a row of C depend on that row of A and
// on B only.
template <class T>
void gemm_in_tiles(Context* context, const Gemm<T>& g);

// `count` products of one shape; item i adds i times the batch stride to each pointer. One item per step of
// the outer loop or many, whichever fills the threads.
struct GemmBatch {
  int64_t count;
  int64_t a, b, c, residual;  // strides in elements
};
template <class T>
void gemm_batched(Context* context, const Gemm<T>& g, const GemmBatch& batch);

// B as the kernels like it best: panels of NR columns, each holding all k rows, the last one filled up with
// zeros. Element (k, n) is out[(n / NR) * NR * K + k * NR + n % NR].
template <class T>
int64_t packed_b_size(int64_t k, int64_t n);  // in elements
template <class T>
void pack_b(Context* context, const T* b, int64_t b_k, int64_t b_n, int64_t k, int64_t n, T* out);

}  // namespace fastdl::cpu
