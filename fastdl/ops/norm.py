"""Normalisation on arrays: layer, RMS, group (instance) and batch norm, floating-point, with their gradients.

Group and batch norm take (N, C, *positions) in any strides (channels-last ones are read in place) and return
channels-last strides where there are positions. Statistics are returned for the backward call.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from ..backend import empty, empty_like, kernels, wide
from ..naming import names_itself_on_arrays
from .pool import channels_last_empty

__all__ = [
    "batch_norm",
    "batch_norm_backward",
    "group_norm",
    "group_norm_backward",
    "layer_norm",
    "layer_norm_backward",
    "rms_norm",
    "rms_norm_backward",
]


def _normalized(x: np.ndarray, normalized_shape: Sequence[int], op: str) -> int:
    shape = tuple(normalized_shape)
    k = len(shape)
    if k == 0 or x.shape[-k:] != shape:
        raise ValueError(
            f"{op}: expected an input whose last dimensions are normalized_shape {shape}, got shape {x.shape}"
        )
    return k


@names_itself_on_arrays
def layer_norm(
    x: np.ndarray,
    normalized_shape: Sequence[int],
    weight: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    eps: float = 1e-5,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(x - mean) / sqrt(var + eps) * weight + bias over the last dimensions ``normalized_shape``, with the biased
    variance (Ba, Kiros, Hinton 2016, "Layer Normalization", section 3).

    Returns out (x's shape), mean and rstd (x's leading shape). Raises ValueError for shapes that do not fit,
    TypeError for integers and mixed dtypes.

    >>> out, mean, rstd = layer_norm(np.array([[1.0, 3.0]]), (2,), eps=0.0)
    >>> out.tolist(), mean.tolist(), rstd.tolist()
    ([[-1.0, 1.0]], [2.0], [1.0])
    """
    k = _normalized(x, normalized_shape, "layer_norm")
    out = empty_like(x)
    mean = empty(x.shape[:-k], wide(x.dtype), x)
    rstd = empty(x.shape[:-k], wide(x.dtype), x)
    kernels(x).layer_norm_forward(x, weight, bias, out, mean, rstd, k, eps)
    return out, mean, rstd


@names_itself_on_arrays
def layer_norm_backward(
    grad: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray | None,
    mean: np.ndarray,
    rstd: np.ndarray,
    normalized_ndim: int,
    needs: Sequence[Any] = (True, True, True),
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Gradients of `layer_norm` for x, weight and bias; those not in ``needs`` are None.

    >>> x = np.array([[1.0, 3.0]])
    >>> out, mean, rstd = layer_norm(x, (2,))
    >>> layer_norm_backward(np.ones_like(x), x, None, mean, rstd, 1)[2].tolist()
    [1.0, 1.0]
    """
    shape = x.shape[x.ndim - normalized_ndim :]
    grad_x = empty_like(x) if needs[0] else None
    grad_w = empty(shape, (x if weight is None else weight).dtype, x) if needs[1] else None
    grad_b = empty(shape, (x if weight is None else weight).dtype, x) if needs[2] else None
    kernels(x).layer_norm_backward(grad, x, weight, mean, rstd, grad_x, grad_w, grad_b, normalized_ndim)
    return grad_x, grad_w, grad_b


@names_itself_on_arrays
def rms_norm(
    x: np.ndarray, normalized_shape: Sequence[int], weight: np.ndarray | None = None, eps: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """x / sqrt(mean(x**2) + eps) * weight over the last dimensions (Zhang, Sennrich 2019, "Root Mean Square Layer
    Normalization", section 4); ``eps`` defaults to the dtype's machine epsilon. Returns out and rstd.

    >>> rms_norm(np.array([[3.0, 3.0]]), (2,))[0].tolist()
    [[1.0, 1.0]]
    """
    k = _normalized(x, normalized_shape, "rms_norm")
    out = empty_like(x)
    rstd = empty(x.shape[:-k], wide(x.dtype), x)
    if eps is None:
        eps = float(np.finfo(rstd.dtype).eps)
    kernels(x).rms_norm_forward(x, weight, out, rstd, k, eps)
    return out, rstd


@names_itself_on_arrays
def rms_norm_backward(
    grad: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray | None,
    rstd: np.ndarray,
    normalized_ndim: int,
    needs: Sequence[Any] = (True, True),
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Gradients of `rms_norm` for x and weight; those not in ``needs`` are None.

    >>> x = np.array([[3.0, 3.0]])
    >>> out, rstd = rms_norm(x, (2,))
    >>> rms_norm_backward(np.ones_like(x), x, None, rstd, 1)[1].tolist()
    [1.0, 1.0]
    """
    grad_x = empty_like(x) if needs[0] else None
    grad_w = (
        empty(x.shape[x.ndim - normalized_ndim :], (x if weight is None else weight).dtype, x)
        if needs[1]
        else None
    )
    kernels(x).rms_norm_backward(grad, x, weight, rstd, grad_x, grad_w, normalized_ndim)
    return grad_x, grad_w


def _like_channels_last(x: np.ndarray) -> np.ndarray:
    return channels_last_empty(x.shape[0], x.shape[1], x.shape[2:], x.dtype, x)


def _check_channels(x: np.ndarray, op: str) -> None:
    if x.ndim < 2:
        raise ValueError(f"{op}: expected an input of shape (N, C, ...), got {x.shape}")


@names_itself_on_arrays
def group_norm(
    x: np.ndarray,
    num_groups: int,
    weight: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    eps: float = 1e-5,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normalise each group of C / num_groups channels of each sample of ``x`` (N, C, *positions), then scale and
    shift per channel (Wu, He 2018, "Group Normalization", section 3). num_groups = C is instance normalisation.

    Returns out, mean and rstd (N, num_groups). Raises ValueError if num_groups does not divide C.

    >>> x = np.array([[[1.0, 3.0], [2.0, 6.0]]])
    >>> group_norm(x, 2, eps=0.0)[0].tolist()
    [[[-1.0, 1.0], [-1.0, 1.0]]]
    """
    _check_channels(x, "group_norm")
    if num_groups < 1 or x.shape[1] % num_groups:
        raise ValueError(
            f"group_norm: num_groups must divide the number of channels {x.shape[1]}, got {num_groups}"
        )
    out = _like_channels_last(x)
    mean = empty((x.shape[0], num_groups), wide(x.dtype), x)
    rstd = empty((x.shape[0], num_groups), wide(x.dtype), x)
    kernels(x).group_norm_forward(x, weight, bias, out, mean, rstd, num_groups, eps)
    return out, mean, rstd


@names_itself_on_arrays
def group_norm_backward(
    grad: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray | None,
    mean: np.ndarray,
    rstd: np.ndarray,
    num_groups: int,
    needs: Sequence[Any] = (True, True, True),
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Gradients of `group_norm` for x, weight and bias; those not in ``needs`` are None.

    >>> x = np.array([[[1.0, 3.0], [2.0, 6.0]]])
    >>> out, mean, rstd = group_norm(x, 2)
    >>> group_norm_backward(np.ones_like(x), x, None, mean, rstd, 2)[2].tolist()
    [2.0, 2.0]
    """
    grad_x = _like_channels_last(x) if needs[0] else None
    grad_w = empty(x.shape[1], (x if weight is None else weight).dtype, x) if needs[1] else None
    grad_b = empty(x.shape[1], (x if weight is None else weight).dtype, x) if needs[2] else None
    kernels(x).group_norm_backward(grad, x, weight, mean, rstd, grad_x, grad_w, grad_b, num_groups)
    return grad_x, grad_w, grad_b


@names_itself_on_arrays
def batch_norm(
    x: np.ndarray,
    running_mean: np.ndarray | None,
    running_var: np.ndarray | None,
    weight: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normalise each channel of ``x`` (N, C, *positions) over samples and positions, then scale and shift (Ioffe,
    Szegedy 2015, "Batch Normalization", algorithm 1). ``training`` uses the batch's statistics and moves the running
    ones, in place: running = (1 - momentum) * running + momentum * batch, with the unbiased variance.

    Returns out, and the mean and rstd (C,) that were used. Raises ValueError for shapes that do not fit, for a
    training batch with one value per channel, and without running statistics unless training.

    >>> x = np.array([[1.0], [3.0]])
    >>> batch_norm(x, None, None, training=True, eps=0.0)[0].tolist()
    [[-1.0], [1.0]]
    """
    _check_channels(x, "batch_norm")
    c = x.shape[1]
    if training and x.shape[0] * prod(x.shape[2:]) == 1:
        raise ValueError(
            f"batch_norm: expected more than 1 value per channel when training, got shape {x.shape}"
        )
    if not training and (running_mean is None or running_var is None):
        raise ValueError("batch_norm: running_mean and running_var are required unless training")
    for name, v in (
        ("running_mean", running_mean),
        ("running_var", running_var),
        ("weight", weight),
        ("bias", bias),
    ):
        if v is not None and v.shape != (c,):
            raise ValueError(f"batch_norm: expected {name} of shape {(c,)}, got {v.shape}")
    out = _like_channels_last(x)
    mean = empty(c, wide(x.dtype), x)
    rstd = empty(c, wide(x.dtype), x)
    kernels(x).batch_norm_forward(
        x, weight, bias, running_mean, running_var, out, mean, rstd, training, momentum, eps
    )
    return out, mean, rstd


@names_itself_on_arrays
def batch_norm_backward(
    grad: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray | None,
    mean: np.ndarray,
    rstd: np.ndarray,
    training: bool,
    needs: Sequence[Any] = (True, True, True),
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Gradients of `batch_norm` for x, weight and bias; those not in ``needs`` are None.

    >>> x = np.array([[1.0], [3.0]])
    >>> out, mean, rstd = batch_norm(x, None, None, training=True)
    >>> batch_norm_backward(np.ones_like(x), x, None, mean, rstd, True)[2].tolist()
    [2.0]
    """
    c = x.shape[1]
    grad_x = _like_channels_last(x) if needs[0] else None
    grad_w = empty(c, (x if weight is None else weight).dtype, x) if needs[1] else None
    grad_b = empty(c, (x if weight is None else weight).dtype, x) if needs[2] else None
    kernels(x).batch_norm_backward(grad, x, weight, mean, rstd, grad_x, grad_w, grad_b, training)
    return grad_x, grad_w, grad_b
