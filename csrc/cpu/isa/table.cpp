// One table per ISA; see cpu/kernels.h.
#include "cpu/kernels.h"

#define FASTDL_STRING_(x) #x
#define FASTDL_STRING(x) FASTDL_STRING_(x)

namespace fastdl::cpu::FASTDL_ISA {

extern const ConvKernels conv_kernels;
extern const AttentionKernels attention_kernels;
extern const DropoutKernels dropout_kernels;
extern const RnnKernels rnn_kernels;
extern const NormKernels norm_kernels;
extern const PoolKernels pool_kernels;
extern const ActivationKernels activation_kernels;
extern const ArithmeticKernels arithmetic_kernels;
extern const SoftmaxKernels softmax_kernels;
extern const LossKernels loss_kernels;
extern const EmbeddingKernels embedding_kernels;
extern const OptimKernels optim_kernels;
extern const GemmKernels gemm_kernels;
extern const ConvertKernels convert_kernels;

extern const Kernels table;
const Kernels table = {
    FASTDL_STRING(FASTDL_ISA),
    &conv_kernels,
    &attention_kernels,
    &dropout_kernels,
    &rnn_kernels,
    &norm_kernels,
    &pool_kernels,
    &activation_kernels,
    &arithmetic_kernels,
    &softmax_kernels,
    &loss_kernels,
    &embedding_kernels,
    &optim_kernels,
    &gemm_kernels,
    &convert_kernels,
    nullptr,
};

}  // namespace fastdl::cpu::FASTDL_ISA
