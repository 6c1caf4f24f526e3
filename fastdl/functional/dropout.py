"""Dropout on Tensors, with torch's names and arguments; masks come from `fastdl.manual_seed`'s stream."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import ops, random
from ..autograd import ArrayFunction, wrap
from ..naming import names_itself
from ..tensor import Tensor

__all__ = ["alpha_dropout", "dropout", "dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout"]

# -lambda * alpha of SELU: the value dropped elements take (Klambauer et al. 2017, section 3, "Alpha dropout").
_SELU_LOW = -1.7580993408473766


class Dropout(ArrayFunction):
    """Zero elements at random and scale the others; backward draws the same mask again."""

    @staticmethod
    def forward(ctx: Any, x: np.ndarray, p: float, seed: int, offset: int) -> np.ndarray:
        ctx.draw = p, seed, offset
        return ops.dropout(x, p, seed, offset)

    @staticmethod
    def backward(ctx: Any, grad: np.ndarray) -> np.ndarray:
        return ops.dropout(grad, *ctx.draw)


def _check(p: float, op: str) -> None:
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"{op}: expected a probability between 0 and 1, got {p}")


@names_itself
def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zero each element with probability ``p`` and scale the others by 1 / (1 - p), if ``training`` (Srivastava et
    al. 2014). input: any shape, floating-point. Raises ValueError for p outside [0, 1].

    >>> import fastdl
    >>> fastdl.manual_seed(0)
    >>> sorted(set(dropout(fastdl.ones(100), 0.5).tolist()))
    [0.0, 2.0]
    """
    _check(p, "dropout")
    if not training or p == 0.0:
        return input
    out = Dropout.apply(input, p, *random.next_offset(input._data.size))
    return input.copy_(out) if inplace else out


def _channel_mask(input: Tensor, p: float, channels: int, op: str) -> Tensor:
    """A mask with one element per channel, that broadcasts against ``input``; dims up to ``channels`` have one each."""
    if input.ndim < channels:
        raise ValueError(f"{op}: expected an input with a channel dimension, got shape {tuple(input.shape)}")
    shape = input._data.shape
    shape = shape[:channels] + (1,) * (len(shape) - channels)
    draw = random.next_offset(int(np.prod(shape)))
    return wrap(ops.dropout_mask(shape, p, *draw, dtype=input._data.dtype, like=input._data))


def _feature_dropout(
    n: int, unbatched: bool, input: Tensor, p: float, training: bool, inplace: bool
) -> Tensor:
    op = f"dropout{n}d"
    _check(p, op)
    if input.ndim not in (n + 1, n + 2):
        raise ValueError(
            f"{op}: expected an input of {n + 1} or {n + 2} dimensions, got shape {tuple(input.shape)}"
        )
    if not training or p == 0.0:
        return input
    mask = _channel_mask(input, p, 1 if unbatched and input.ndim == n + 1 else 2, op)
    return input.mul_(mask) if inplace else input * mask


@names_itself
def dropout1d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zero whole channels of (N, C, L) or (C, L) with probability ``p`` (Tompson et al. 2015, section 3.2).

    >>> import fastdl
    >>> dropout1d(fastdl.ones(2, 3, 4), 1.0).sum().item()
    0.0
    """
    return _feature_dropout(1, True, input, p, training, inplace)


@names_itself
def dropout2d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zero whole channels of (N, C, H, W), or of (N, C, L), with probability ``p``; see `dropout1d`.

    >>> import fastdl
    >>> dropout2d(fastdl.ones(2, 3, 4, 5), 0.0).sum().item()
    120.0
    """
    return _feature_dropout(2, False, input, p, training, inplace)


@names_itself
def dropout3d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zero whole channels of (N, C, D, H, W) or (C, D, H, W) with probability ``p``; see `dropout1d`.

    >>> import fastdl
    >>> dropout3d(fastdl.ones(2, 3, 1, 1, 1), 0.5, training=False).sum().item()
    6.0
    """
    return _feature_dropout(3, True, input, p, training, inplace)


def _alpha(input: Tensor, mask: Tensor, p: float) -> Tensor:
    kept = wrap((mask._data != 0).astype(input._data.dtype))
    scale = ((_SELU_LOW**2 * p + 1) * (1 - p)) ** -0.5 if p < 1.0 else 0.0
    shift = (1 - kept) * (_SELU_LOW * scale) - _SELU_LOW * scale * p
    return input * (kept * scale) + shift


def alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    """Dropout that keeps mean 0 and variance 1 of SELU networks: dropped elements take SELU's lowest value, then all
    are scaled and shifted (Klambauer et al. 2017, "Self-Normalizing Neural Networks", section 3).

    >>> import fastdl
    >>> alpha_dropout(fastdl.ones(3), 0.5).tolist()
    [1.0, 1.0, 1.0]
    """
    _check(p, "alpha_dropout")
    if not training or p == 0.0:
        return input
    out = _alpha(input, _channel_mask(input, p, input.ndim, "alpha_dropout"), p)
    return input.copy_(out) if inplace else out


def feature_alpha_dropout(
    input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Tensor:
    """`alpha_dropout` of whole channels of (N, C, ...).

    >>> import fastdl
    >>> feature_alpha_dropout(fastdl.ones(1, 2, 3), 0.5).sum().item()
    6.0
    """
    _check(p, "feature_alpha_dropout")
    if not training or p == 0.0:
        return input
    out = _alpha(input, _channel_mask(input, p, 2, "feature_alpha_dropout"), p)
    return input.copy_(out) if inplace else out
