"""Scaled dot-product attention on Tensors, with torch's name and arguments."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from .. import ops, random
from ..autograd import ArrayFunction
from ..tensor import Tensor

__all__ = ["scaled_dot_product_attention"]


class ScaledDotProductAttention(ArrayFunction):
    """softmax(scale * q k^T + mask) v; keeps the output and each row's log-sum-exp, never the weights."""

    autocast = "lower"

    @staticmethod
    def forward(
        ctx: Any, q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray | None, *options: Any
    ) -> np.ndarray:
        out, lse = ops.scaled_dot_product_attention(q, k, v, mask, *options)
        ctx.options = options
        ctx.save(q, k, v, mask, out, lse)
        return out

    @staticmethod
    def backward(ctx: Any, grad: np.ndarray) -> Any:
        q, k, v, mask, out, lse = ctx.saved
        needs_mask = bool(ctx.needs[3])
        return ops.scaled_dot_product_attention_backward(  # type: ignore[misc]
            grad, q, k, v, mask, out, lse, *ctx.options, needs_mask=needs_mask
        )


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(scale * query key^T + attn_mask) value (Vaswani et al. 2017, "Attention Is All You Need", equation 1).

    query: (..., L, E), key: (..., S, E), value: (..., S, Ev), floating-point, leading dimensions broadcast. With
    ``enable_gqa`` dimension -3 counts heads, and those of query are a multiple of those of key and value. attn_mask:
    broadcastable to (..., L, S), bool (True: may attend) or floating (added to the scores, differentiable).
    ``is_causal``: query i sees keys 0..i. ``scale`` defaults to 1 / sqrt(E). ``dropout_p``: probability of dropping a
    weight, always applied (pass 0.0 when evaluating). Returns (..., L, Ev); no (L, S) matrix is kept in memory
    unless the gradient of a mask is asked for. Raises ValueError for shapes that do not fit, an attn_mask together
    with is_causal, and a dropout_p outside [0, 1); TypeError for dtypes.

    >>> import fastdl
    >>> q = fastdl.zeros(1, 2, 4)
    >>> scaled_dot_product_attention(q, fastdl.ones(1, 2, 4), fastdl.eye(2).unsqueeze(0)).tolist()
    [[[0.5, 0.5], [0.5, 0.5]]]
    """
    if attn_mask is not None and is_causal:
        raise ValueError("scaled_dot_product_attention: attn_mask must be None when is_causal is set")
    if not 0.0 <= dropout_p < 1.0:
        raise ValueError(
            f"scaled_dot_product_attention: dropout_p must be at least 0 and less than 1, got {dropout_p}"
        )
    seed = offset = 0
    if dropout_p > 0.0:
        seed, offset = random.next_offset(prod(query.shape[:-1]) * key.shape[-2])
    return ScaledDotProductAttention.apply(
        query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa, seed, offset
    )
