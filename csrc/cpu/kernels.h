// The contract between the algorithms (cpu/*.cpp) and the instructions (cpu/isa/*.cpp): one table of kernels
// per ISA, one entry per family. Each isa/<family>.cpp is compiled once per ISA and defines its family's
// table.
#pragma once

#include "cpu/isa/activation.h"
#include "cpu/isa/arithmetic.h"
#include "cpu/isa/attention.h"
#include "cpu/isa/conv.h"
#include "cpu/isa/convert.h"
#include "cpu/isa/dropout.h"
#include "cpu/isa/embedding.h"
#include "cpu/isa/gemm.h"
#include "cpu/isa/gemm_bf16.h"
#include "cpu/isa/loss.h"
#include "cpu/isa/norm.h"
#include "cpu/isa/optim.h"
#include "cpu/isa/pool.h"
#include "cpu/isa/rnn.h"
#include "cpu/isa/softmax.h"

namespace fastdl::cpu {

struct Kernels {
  const char* isa;
  const ConvKernels* conv;
  const AttentionKernels* attention;
  const DropoutKernels* dropout;
  const RnnKernels* rnn;
  const NormKernels* norm;
  const PoolKernels* pool;
  const ActivationKernels* activation;
  const ArithmeticKernels* arithmetic;
  const SoftmaxKernels* softmax;
  const LossKernels* loss;
  const EmbeddingKernels* embedding;
  const OptimKernels* optim;
  const GemmKernels* gemm;
  const ConvertKernels* convert;
  const Bf16Kernels* gemm_bf16;  // null where there are no bfloat16 products
};

// The table of the ISA in force: the best this machine runs, unless FASTDL_CPU_ISA or fastdl_set_cpu_isa says
// otherwise.
const Kernels& kernels();

}  // namespace fastdl::cpu
