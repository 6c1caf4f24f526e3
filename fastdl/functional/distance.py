"""Norms, distances and similarities along a dimension."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd import ArrayFunction, is_float
from .core import as_tensor, float32_in_autocast, widened

if TYPE_CHECKING:
    from ..tensor import Tensor


def _p_norm(x: np.ndarray, p: float, axes: Any) -> np.ndarray:
    """The p-norm along axes, which are kept."""
    if p == 2:
        return np.sqrt((x * x).sum(axes, keepdims=True))
    if p == 1:
        return np.abs(x).sum(axes, keepdims=True)
    if p == math.inf:
        return np.abs(x).max(axes, keepdims=True, initial=0)
    return (np.abs(x) ** p).sum(axes, keepdims=True) ** x.dtype.type(1 / p)


def _p_norm_gradient(x: np.ndarray, norm: np.ndarray, p: float, axes: Any) -> np.ndarray:
    """d norm / d x; 0 where the norm is 0, shared equally among the largest where p is infinite."""
    safe = np.where(norm == 0, x.dtype.type(1), norm)
    if p == 2:
        return x / safe
    if p == math.inf:
        largest = (np.abs(x) == norm) * np.sign(x)
        return largest / np.maximum(np.abs(largest).sum(axes, keepdims=True), 1)
    if p == 1:
        return np.sign(x)
    with np.errstate(divide="ignore"):
        return np.where(x == 0, x.dtype.type(0), np.sign(x) * (np.abs(x) / safe) ** x.dtype.type(p - 1))


class PNorm(ArrayFunction):
    """The p-norm along axes."""

    @staticmethod
    def forward(ctx: Any, x: np.ndarray, p: float, axes: Any, keepdim: bool) -> np.ndarray:
        norm = _p_norm(x, p, axes)
        ctx.how = p, axes
        ctx.save(x, norm)
        return norm if keepdim else norm.squeeze(axes)

    @staticmethod
    def backward(ctx: Any, grad: np.ndarray) -> np.ndarray:
        x, norm = ctx.saved
        p, axes = ctx.how
        return grad.reshape(norm.shape) * _p_norm_gradient(x, norm, p, axes)


class Normalize(ArrayFunction):
    """x / max(norm, eps)."""

    @staticmethod
    def forward(ctx: Any, x: np.ndarray, p: float, axes: Any, eps: float) -> np.ndarray:
        norm = _p_norm(x, p, axes)
        ctx.how = p, axes, eps
        ctx.save(x, norm)
        return x / np.maximum(norm, x.dtype.type(eps))

    @staticmethod
    def backward(ctx: Any, grad: np.ndarray) -> np.ndarray:
        x, norm = ctx.saved
        p, axes, eps = ctx.how
        divisor = np.maximum(norm, x.dtype.type(eps))
        along = (grad * x).sum(axes, keepdims=True) / (divisor * divisor)
        along = np.where(norm > eps, along, x.dtype.type(0))
        return grad / divisor - along * _p_norm_gradient(x, norm, p, axes)


def _axes(op: str, dim: Any, ndim: int) -> tuple[int, ...]:
    dims = tuple(dim) if isinstance(dim, tuple | list) else (dim,)
    for d in dims:
        if not -max(ndim, 1) <= d < max(ndim, 1):
            raise IndexError(f"{op}: dim {d} is out of range for {ndim} dimensions")
    return tuple(d % ndim for d in dims) if ndim else ()


def _check_floats(op: str, *tensors: Tensor) -> None:
    for t in tensors:
        if not is_float(t._data.dtype):
            raise TypeError(f"{op}: expected floating-point tensors, got {t._data.dtype}")


@widened
def normalize(input: Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12) -> Tensor:
    """``input / max(p-norm along dim, eps)``.

    Raises IndexError for a dim out of range, TypeError for integers.

    >>> import fastdl
    >>> import fastdl.nn.functional as F
    >>> F.normalize(fastdl.tensor([[3.0, 4.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929]]
    """
    input = as_tensor(input)
    _check_floats("normalize", input)
    return Normalize.apply(input, float(p), _axes("normalize", dim, input._data.ndim), eps)


@widened
def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """The cosine of the angle between x1 and x2 along ``dim``; the shapes are broadcast, the norms at least eps.

    >>> import fastdl
    >>> import fastdl.nn.functional as F
    >>> F.cosine_similarity(fastdl.tensor([[1.0, 0.0]]), fastdl.tensor([[2.0, 0.0]])).tolist()
    [1.0]
    """
    x1, x2 = as_tensor(x1), as_tensor(x2)
    _check_floats("cosine_similarity", x1, x2)
    ndim = max(x1._data.ndim, x2._data.ndim)
    axis = _axes("cosine_similarity", dim, ndim)[0] - ndim  # from the end: good for both
    shape = np.broadcast_shapes(x1.shape, x2.shape)
    a, b = x1.expand(*shape), x2.expand(*shape)
    return (normalize(a, 2.0, axis, eps) * normalize(b, 2.0, axis, eps)).sum(axis)


@widened
def pairwise_distance(
    x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Tensor:
    """The p-norm of ``x1 - x2 + eps`` along the last dimension; the shapes are broadcast.

    >>> import fastdl
    >>> import fastdl.nn.functional as F
    >>> F.pairwise_distance(fastdl.tensor([[0.0, 0.0]]), fastdl.tensor([[3.0, 4.0]]), eps=0.0).tolist()
    [5.0]
    """
    difference = as_tensor(x1) - as_tensor(x2) + eps
    _check_floats("pairwise_distance", difference)
    return PNorm.apply(difference, float(p), (difference.ndim - 1,), keepdim)


class LocalResponseNorm(ArrayFunction):
    """x / (k + alpha / size * sum of squares over neighbouring channels) ^ beta."""

    @staticmethod
    def forward(ctx: Any, x: np.ndarray, size: int, alpha: float, beta: float, k: float) -> np.ndarray:
        divisor = x.dtype.type(k) + x.dtype.type(alpha / size) * _window_sum(x * x, size, size // 2)
        ctx.how = size, alpha, beta
        ctx.save(x, divisor)
        return x * divisor ** x.dtype.type(-beta)

    @staticmethod
    def backward(ctx: Any, grad: np.ndarray) -> np.ndarray:
        x, divisor = ctx.saved
        size, alpha, beta = ctx.how
        shrink = divisor ** x.dtype.type(-beta)
        # A channel counts in the windows of the channels that see it: the window mirrored.
        others = _window_sum(grad * x * shrink / divisor, size, (size - 1) // 2)
        return grad * shrink - x.dtype.type(2 * alpha * beta / size) * x * others


def _window_sum(x: np.ndarray, size: int, before: int) -> np.ndarray:
    """Sums over channels c - before ... c - before + size - 1, zeros beyond the ends."""
    n = x.shape[1]
    out = np.zeros_like(x)
    for shift in range(-before, size - before):
        if abs(shift) < n:
            out[:, max(-shift, 0) : n - max(shift, 0)] += x[:, max(shift, 0) : n + min(shift, 0)]
    return out


@float32_in_autocast
def local_response_norm(
    input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """Normalisation by neighbouring channels (Krizhevsky et al. 2012, "ImageNet classification with deep
    convolutional neural networks", section 3.3); input (N, C, ...) of at least 3 dimensions.

    Raises ValueError for fewer dimensions or a size below 1.
    """
    input = as_tensor(input)
    _check_floats("local_response_norm", input)
    if input._data.ndim < 3:
        raise ValueError(f"local_response_norm: expected 3 or more dimensions, got shape {input._data.shape}")
    if size < 1:
        raise ValueError(f"local_response_norm: expected a positive size, got {size}")
    return LocalResponseNorm.apply(input, size, alpha, beta, k)
