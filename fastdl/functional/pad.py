"""Padding of tensors at the ends of their last dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd import ArrayFunction
from ..backend import wide
from .core import add_at, as_tensor

if TYPE_CHECKING:
    from ..tensor import Tensor

# In all of these `widths` is one pair (before, after) per dimension, in the dimensions' order.


class ConstantPad(ArrayFunction):
    """Surround with a value; negative widths cut off."""

    @staticmethod
    def forward(ctx: Any, x: np.ndarray, widths: tuple, value: Any) -> np.ndarray:
        pairs = [(n, lo, hi) for n, (lo, hi) in zip(x.shape, widths, strict=True)]
        y = np.full_like(x, value, shape=tuple([n + lo + hi for n, lo, hi in pairs]))
        # Where the input's elements are in the output, and which of them are still there.
        ctx.shape = x.shape
        ctx.inner = tuple([slice(max(lo, 0), n + lo + min(hi, 0)) for n, lo, hi in pairs])
        ctx.kept = tuple([slice(max(-lo, 0), n + min(hi, 0)) for n, lo, hi in pairs])
        y[ctx.inner] = x[ctx.kept]
        return y

    @staticmethod
    def backward(ctx: Any, grad: np.ndarray) -> np.ndarray:
        inner = grad[ctx.inner]
        if inner.shape == ctx.shape:
            return inner
        gx = np.zeros_like(grad, shape=ctx.shape)
        gx[ctx.kept] = inner
        return gx


class IndexPad(ArrayFunction):
    """Pad with elements of the input: output[i] = input[index[i]] along every padded dimension."""

    @staticmethod
    def forward(ctx: Any, x: np.ndarray, widths: tuple, mode: str) -> np.ndarray:
        ctx.shape = x.shape
        ctx.indices = []
        for axis, (lo, hi) in enumerate(widths):
            if lo or hi:
                index = _source(x.shape[axis], lo, hi, mode)
                ctx.indices.append((axis, index))
                x = x.take(index, axis)
        return x if ctx.indices else x.copy()

    @staticmethod
    def backward(ctx: Any, grad: np.ndarray) -> np.ndarray:
        for axis, index in reversed(ctx.indices):
            grad = scatter_axis(grad, index, ctx.shape[axis], axis)
        return grad


def _source(n: int, lo: int, hi: int, mode: str) -> np.ndarray:
    """Which element of a dimension of length n each position of the padded dimension shows."""
    i = np.arange(-lo, n + hi)
    if mode == "replicate":
        return i.clip(0, n - 1)
    if mode == "circular":
        cut, kept = (
            max(-lo, 0),
            n + min(lo, 0) + min(hi, 0),
        )  # what negative widths cut off does not come back
        return cut + (i - cut) % kept if kept else i[:0]
    return (n - 1) - np.abs((n - 1) - np.abs(i))  # reflect: one fold at each end


def scatter_axis(grad: np.ndarray, index: np.ndarray, n: int, axis: int) -> np.ndarray:
    """The transpose of ``x.take(index, axis)`` for an x of length n there: sums what came from the same element."""
    shape = list(grad.shape)
    shape[axis] = n
    order = np.argsort(index, kind="stable")
    targets, starts = np.unique(index[order], return_index=True)
    out = np.zeros(shape, grad.dtype, like=grad)
    if out.__class__ is not np.ndarray:  # CuPy has no reduceat
        add_at(out, (slice(None),) * axis + (index,), grad)
    elif len(targets):
        sums = np.add.reduceat(grad.take(order, axis), starts, axis, wide(grad.dtype))
        out[(slice(None),) * axis + (targets,)] = sums
    return out


def pad(input: Tensor, pad: Any, mode: str = "constant", value: float | None = None) -> Tensor:
    """Pad the last dimensions: ``pad`` is (before, after) of the last one, then of the one before it, and so on.

    mode: "constant" (``value``, 0 if None, around any dimensions; negative widths cut off), or, for the last 1 to 3
    dimensions of a batched or unbatched input, "reflect" (mirrored without repeating the edge), "replicate" (the edge
    repeated) and "circular" (wrapped around). Input of any dtype; the output has the same.

    Raises ValueError where ``pad`` is not even in number or has more pairs than the input has dimensions, where a
    dimension would become negative, where a reflection or a wrap would be longer than the dimension, or for an
    unknown mode; TypeError for widths that are no integers.

    >>> import fastdl
    >>> import fastdl.nn.functional as F
    >>> F.pad(fastdl.tensor([1.0, 2.0, 3.0]), (1, 2)).tolist()
    [0.0, 1.0, 2.0, 3.0, 0.0, 0.0]
    >>> F.pad(fastdl.tensor([[1.0, 2.0, 3.0]]), (2, 2), mode="reflect").tolist()
    [[3.0, 2.0, 1.0, 2.0, 3.0, 2.0, 1.0]]
    """
    input = as_tensor(input)
    shape = input._data.shape
    try:
        flat = [w.__index__() for w in pad]
    except (AttributeError, TypeError):
        raise TypeError(f"pad: expected a sequence of integers for pad, got {pad!r}") from None
    if len(flat) % 2:
        raise ValueError(f"pad: expected an even number of widths, got {len(flat)}")
    pairs = len(flat) // 2
    if pairs > len(shape):
        raise ValueError(f"pad: expected at most {len(shape)} pairs of widths for shape {shape}, got {pairs}")
    widths = ((0, 0),) * (len(shape) - pairs) + tuple(
        [(flat[2 * i], flat[2 * i + 1]) for i in reversed(range(pairs))]
    )
    for n, (lo, hi) in zip(shape, widths, strict=True):
        if n + min(lo, 0) + min(hi, 0) < 0:
            raise ValueError(f"pad: widths {tuple(flat)} would cut more than there is off shape {shape}")
    if mode == "constant":
        return ConstantPad.apply(input, widths, 0 if value is None else value)
    if mode not in ("reflect", "replicate", "circular"):
        raise ValueError(f'pad: expected mode "constant", "reflect", "replicate" or "circular", got {mode!r}')
    if value is not None and value != 0:
        raise ValueError(f"pad: mode {mode!r} takes no value, got {value!r}")
    if not 1 <= pairs <= 3 or len(shape) not in (pairs + 1, pairs + 2):
        raise ValueError(
            f"pad: mode {mode!r} expects 2k widths for an input of k + 1 or k + 2 dimensions, k = 1 to 3; "
            f"got {len(flat)} widths for shape {shape}"
        )
    limit = {"reflect": 1, "circular": 0}.get(mode)
    for n, (lo, hi) in zip(shape, widths, strict=True):
        if limit is not None and max(lo, hi) > max(n - limit, 0):
            raise ValueError(
                f"pad: mode {mode!r} expects widths of at most {n - limit} for length {n}, got {(lo, hi)}"
            )
        if n == 0 and (lo > 0 or hi > 0):
            raise ValueError(f"pad: mode {mode!r} can't extend an empty dimension, got shape {shape}")
    return IndexPad.apply(input, widths, mode)
