"""Scaled dot-product attention on arrays, forward and backward, without an (L, S) matrix in memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import address, empty, is_array, kernels, wide

__all__ = ["scaled_dot_product_attention", "scaled_dot_product_attention_backward"]

_OP = "scaled_dot_product_attention"


class _Operands:
    """query, key, value and mask as the kernel takes them: four dimensions, batch axes broadcast by zero strides."""

    __slots__ = ("batch", "k", "mask", "out_shape", "q", "shapes", "v")

    def __init__(
        self, q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray | None, enable_gqa: bool
    ):
        for name, x in (("query", q), ("key", k), ("value", v)):
            if not is_array(x):
                raise TypeError(f"{_OP}: expected {name} to be a numpy.ndarray, got {type(x).__name__}")
            if x.ndim < 2:
                raise ValueError(f"{_OP}: expected {name} of shape (..., length, features), got {x.shape}")
            if x.dtype != q.dtype:
                raise TypeError(f"{_OP}: expected one dtype, got query {q.dtype} and {name} {x.dtype}")
        if k.shape[-1] != q.shape[-1]:
            raise ValueError(
                f"{_OP}: query and key must have the same number of features, got shapes {q.shape} and {k.shape}"
            )
        if v.shape[-2] != k.shape[-2]:
            raise ValueError(
                f"{_OP}: key and value must have the same length, got shapes {k.shape} and {v.shape}"
            )
        self.shapes = (q.shape, k.shape, v.shape)
        heads = 0
        if enable_gqa:
            if min(q.ndim, k.ndim, v.ndim) < 3:
                raise ValueError(f"{_OP}: enable_gqa needs a head dimension, got query of shape {q.shape}")
            heads, groups = q.shape[-3], k.shape[-3]
            if v.shape[-3] != groups or groups == 0 or heads % groups:
                raise ValueError(
                    f"{_OP}: with enable_gqa the number of query heads must be a multiple of that of key and value, "
                    f"got shapes {q.shape}, {k.shape} and {v.shape}"
                )
        lead = 3 if enable_gqa else 2
        try:
            batch = np.broadcast_shapes(*(x.shape[:-lead] for x in (q, k, v)))
        except ValueError:
            raise ValueError(
                f"{_OP}: the batch dimensions of shapes {q.shape}, {k.shape} and {v.shape} do not broadcast"
            ) from None
        self.batch = batch
        full = [np.broadcast_to(x, batch + x.shape[-lead:]) for x in (q, k, v)]
        scores = (*full[0].shape[:-1], k.shape[-2])
        self.out_shape = (*full[0].shape[:-1], v.shape[-1])
        self.q, self.k, self.v = (_four(x) for x in full)
        self.mask = None
        if mask is not None:
            if mask.dtype not in (np.bool_, q.dtype, wide(q.dtype)):
                raise TypeError(f"{_OP}: expected attn_mask to be bool or {q.dtype}, got {mask.dtype}")
            try:
                self.mask = _four(np.broadcast_to(mask, scores))
            except ValueError:
                raise ValueError(
                    f"{_OP}: attn_mask of shape {mask.shape} does not broadcast to the scores' shape {scores}"
                ) from None


def _four(x: np.ndarray) -> np.ndarray:
    """``x`` with exactly two leading dimensions, (batch, heads)."""
    if x.ndim == 4:
        return x
    if x.ndim < 4:
        return x.reshape((1,) * (4 - x.ndim) + x.shape)
    return x.reshape((-1, *x.shape[-3:]) if x.size else (int(np.prod(x.shape[:-3])), *x.shape[-3:]))


def scaled_dot_product_attention(
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    attn_mask: np.ndarray | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    seed: int = 0,
    offset: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """softmax(scale * query key^T + attn_mask) value (Vaswani et al. 2017, "Attention Is All You Need", equation 1),
    by blocks with an online softmax (Dao 2023, "FlashAttention-2").

    query: (..., L, E), key: (..., S, E), value: (..., S, Ev), floating-point, leading dimensions broadcast;
    with ``enable_gqa`` the third last dimension counts heads, and query head h reads key and value head
    h // (heads of query / heads of key). attn_mask: broadcastable to (..., L, S), bool (True: may attend) or
    query's dtype (added). ``is_causal``: position i sees keys 0..i; both masks may be given. ``scale`` defaults to
    1 / sqrt(E). Weights are dropped with probability ``dropout_p`` by the Philox mask of (seed, offset).

    Returns out (..., L, Ev) and the log-sum-exp of each row's scores (..., L), which the backward call needs. Rows that
    may attend to nothing give zeros. Raises ValueError for shapes that do not fit, TypeError for dtypes.

    >>> q = np.zeros((2, 4), np.float32)
    >>> out, lse = scaled_dot_product_attention(q, np.ones((2, 4), np.float32), np.eye(2, dtype=np.float32))
    >>> out.tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """
    a = _Operands(query, key, value, attn_mask, enable_gqa)
    out = _rows_like(a.q, a.v.shape[-1])
    lse = empty(a.q.shape[:-1], wide(query.dtype), query)
    kernels(query).attention_forward(
        a.q, a.k, a.v, a.mask, out, lse, scale, is_causal, dropout_p, seed, offset
    )
    return out.reshape(a.out_shape), lse.reshape(a.out_shape[:-1])


def scaled_dot_product_attention_backward(
    grad: np.ndarray,
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    attn_mask: np.ndarray | None,
    out: np.ndarray,
    lse: np.ndarray,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    seed: int = 0,
    offset: int = 0,
    needs_mask: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """Gradients of `scaled_dot_product_attention` for query, key, value and, with ``needs_mask``, an additive mask;
    ``out``, ``lse`` and the options are those of the forward call.

    >>> q = np.zeros((1, 1)); k = np.ones((2, 1)); v = np.array([[1.0], [3.0]])
    >>> out, lse = scaled_dot_product_attention(q, k, v)
    >>> scaled_dot_product_attention_backward(np.ones((1, 1)), q, k, v, None, out, lse)[2].tolist()
    [[0.5], [0.5]]
    """
    a = _Operands(query, key, value, attn_mask, enable_gqa)
    grads = _packed_like(query, key, value) or [_rows_like(x, x.shape[-1]) for x in (a.q, a.k, a.v)]
    grad_mask = None
    if needs_mask and attn_mask is not None:
        grad_mask = empty((*a.q.shape[:-1], a.k.shape[-2]), attn_mask.dtype, grad)
    kernels(query).attention_backward(
        grad.reshape(a.q.shape[:-1] + a.v.shape[-1:]),
        a.q,
        a.k,
        a.v,
        a.mask,
        out.reshape(a.q.shape[:-1] + a.v.shape[-1:]),
        lse.reshape(a.q.shape[:-1]),
        *grads,
        grad_mask,
        scale,
        is_causal,
        dropout_p,
        seed,
        offset,
    )
    lead = 3 if enable_gqa else 2
    gq, gk, gv = (_sum_to(g.reshape(a.batch + shape[-lead:]), shape) for g, shape in zip(grads, a.shapes))
    if grad_mask is not None and attn_mask is not None:
        grad_mask = _sum_to(grad_mask.reshape((*a.out_shape[:-1], a.k.shape[-2])), attn_mask.shape)
    return gq, gk, gv, grad_mask


def _rows_like(x: np.ndarray, features: int) -> np.ndarray:
    """An uninitialised array (batch, heads, length, features) with these axes in memory as ``x`` has them: heads that
    were taken apart by a transposition can be put together again without a copy."""
    shape, strides = (*x.shape[:3], features), x.strides
    if x.flags.c_contiguous or 0 in strides:
        return empty(shape, x.dtype, x)
    order = (*sorted(range(3), key=lambda axis: -abs(strides[axis])), 3)
    return empty(tuple([shape[axis] for axis in order]), x.dtype, x).transpose(np.argsort(order).tolist())


def _packed_like(*arrays: np.ndarray) -> list[np.ndarray] | None:
    """Uninitialised arrays that lie in one block as ``arrays`` do, the parts of a joint projection (outer axes, parts,
    heads, features): whoever joins their gradients finds them joined. None if ``arrays`` lie otherwise."""
    x = arrays[0]
    parts, row = len(arrays), x.strides
    if x.ndim != 4 or any(y.base is not x.base or y.shape != x.shape or y.strides != row for y in arrays):
        return None
    n, heads, length, features = x.shape
    part = heads * features * x.itemsize
    where = [address(y) for y in arrays]
    if row[3] != x.itemsize or row[1] != features * x.itemsize or min(row[0], row[2]) != parts * part:
        return None
    if where != [where[0] + i * part for i in range(parts)] or row[0] == row[2]:
        return None
    if row[0] > row[2]:
        block = empty((n, length, parts, heads, features), x.dtype, x)
        return [block[:, :, i].transpose(0, 2, 1, 3) for i in range(parts)]
    block = empty((length, n, parts, heads, features), x.dtype, x)
    return [block[:, :, i].transpose(1, 2, 0, 3) for i in range(parts)]


def _sum_to(grad: np.ndarray, shape: tuple[int, ...]) -> Any:
    """``grad`` summed over the axes along which an operand of ``shape`` was broadcast."""
    if grad.shape == shape:
        return grad
    lead = grad.ndim - len(shape)
    axes = (*range(lead), *(lead + i for i, n in enumerate(shape) if n == 1 and grad.shape[lead + i] != 1))
    total = np.sum(grad, axis=axes, dtype=wide(grad.dtype), keepdims=True)
    return total.reshape(shape).astype(grad.dtype, copy=False)
