"""Kernels on arrays: NumPy arrays in, NumPy arrays out; no Tensor, no graph.

The families live in modules of their own (`fastdl.ops.conv`, ...), whose functions are all here: where a function has
the name of its family, as in ``ops.conv(x, weight)``, the name stands for the function.

Floating-point means float32, float64, bfloat16 (``ml_dtypes.bfloat16``) or float16, all operands alike unless a
function says otherwise. Arithmetic and sums of the 16-bit types are float32, their results are rounded once; what is
kept for the backward call (statistics, gates) is float32.
"""

from .activation import (
    activation,
    activation_backward,
    glu,
    glu_backward,
    prelu,
    prelu_backward,
    resolve_activation,
)
from .attention import scaled_dot_product_attention, scaled_dot_product_attention_backward
from .conv import (
    conv,
    conv_backward,
    conv_pool_backward,
    conv_transpose,
    conv_transpose_backward,
)
from .conv_fold import fold, unfold
from .dropout import dropout, dropout_mask
from .embedding import embedding, embedding_backward, embedding_bag, embedding_bag_backward
from .loss import cross_entropy, nll_loss
from .matmul import PackedB, addmm, bmm, dot, linear, linear_backward, matmul, matmul_backward, mm, mv, pack_b
from .norm import (
    batch_norm,
    batch_norm_backward,
    group_norm,
    group_norm_backward,
    layer_norm,
    layer_norm_backward,
    rms_norm,
    rms_norm_backward,
)
from .pool import (
    adaptive_avg_pool,
    adaptive_avg_pool_backward,
    adaptive_max_pool,
    adaptive_max_pool_backward,
    avg_pool,
    avg_pool_backward,
    max_pool,
    max_pool_backward,
    pool_output_size,
)
from .rnn import (
    gru,
    gru_backward,
    gru_cell,
    gru_cell_backward,
    lstm,
    lstm_backward,
    lstm_cell,
    lstm_cell_backward,
    rnn,
    rnn_backward,
    rnn_cell,
    rnn_cell_backward,
)
from .softmax import log_softmax, log_softmax_backward, softmax, softmax_backward, softmin, softmin_backward

__all__ = [
    "PackedB",
    "activation",
    "activation_backward",
    "adaptive_avg_pool",
    "adaptive_avg_pool_backward",
    "adaptive_max_pool",
    "adaptive_max_pool_backward",
    "addmm",
    "avg_pool",
    "avg_pool_backward",
    "batch_norm",
    "batch_norm_backward",
    "bmm",
    "conv",
    "conv_backward",
    "conv_pool_backward",
    "conv_transpose",
    "conv_transpose_backward",
    "cross_entropy",
    "dot",
    "dropout",
    "dropout_mask",
    "embedding",
    "embedding_backward",
    "embedding_bag",
    "embedding_bag_backward",
    "fold",
    "glu",
    "glu_backward",
    "group_norm",
    "group_norm_backward",
    "gru",
    "gru_backward",
    "gru_cell",
    "gru_cell_backward",
    "layer_norm",
    "layer_norm_backward",
    "linear",
    "linear_backward",
    "log_softmax",
    "log_softmax_backward",
    "lstm",
    "lstm_backward",
    "lstm_cell",
    "lstm_cell_backward",
    "matmul",
    "matmul_backward",
    "max_pool",
    "max_pool_backward",
    "mm",
    "mv",
    "nll_loss",
    "pack_b",
    "pool_output_size",
    "prelu",
    "prelu_backward",
    "resolve_activation",
    "rms_norm",
    "rms_norm_backward",
    "rnn",
    "rnn_backward",
    "rnn_cell",
    "rnn_cell_backward",
    "scaled_dot_product_attention",
    "scaled_dot_product_attention_backward",
    "softmax",
    "softmax_backward",
    "softmin",
    "softmin_backward",
    "unfold",
]
