"""The inverse of max pooling, and power-average pooling."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd import ArrayFunction
from .core import as_tensor
from .pool import avg_pool1d, avg_pool2d, avg_pool3d

if TYPE_CHECKING:
    from ..tensor import Tensor


class MaxUnpool(ArrayFunction):
    """Values put at flat positions within the spatial dimensions of the output, zeros elsewhere."""

    @staticmethod
    def forward(ctx: Any, x: np.ndarray, indices: np.ndarray, size: tuple) -> np.ndarray:
        n, c = x.shape[:2]
        ctx.how = x.shape, indices.reshape(n, c, -1)
        y = np.zeros((n, c, math.prod(size)), x.dtype, like=x)
        np.put_along_axis(y, ctx.how[1], x.reshape(n, c, -1), axis=2)
        return y.reshape(n, c, *size)

    @staticmethod
    def backward(ctx: Any, grad: np.ndarray) -> np.ndarray:
        shape, indices = ctx.how
        flat = grad.reshape(*shape[:2], -1)
        return np.take_along_axis(flat, indices, axis=2).reshape(shape)


def _per_dimension(op: str, name: str, value: Any, n: int) -> tuple[int, ...]:
    sizes = tuple(value) if isinstance(value, tuple | list) else (value,) * n
    if len(sizes) != n:
        raise ValueError(f"{op}: expected an int or {n} of them for {name}, got {value!r}")
    return sizes


def _max_unpool(
    n: int, input: Any, indices: Any, kernel_size: Any, stride: Any, padding: Any, output_size: Any
) -> Tensor:
    op = f"max_unpool{n}d"
    input, indices = as_tensor(input), as_tensor(indices)
    if input._data.ndim not in (n + 1, n + 2) or indices._data.shape != input._data.shape:
        raise ValueError(
            f"{op}: expected input and indices of one shape with {n + 1} or {n + 2} dimensions, "
            f"got {input._data.shape} and {indices._data.shape}"
        )
    if indices._data.dtype.kind not in "iu":
        raise TypeError(f"{op}: expected integer indices, got {indices._data.dtype}")
    kernel = _per_dimension(op, "kernel_size", kernel_size, n)
    strides = kernel if stride is None else _per_dimension(op, "stride", stride, n)
    pads = _per_dimension(op, "padding", padding, n)
    spatial = input._data.shape[-n:]
    size = tuple([(o - 1) * s + k - 2 * p for o, s, k, p in zip(spatial, strides, kernel, pads, strict=True)])
    if output_size is not None:
        wanted = tuple(output_size)[-n:]
        if len(wanted) != n or any(abs(w - o) >= s for w, o, s in zip(wanted, size, strides, strict=True)):
            raise ValueError(
                f"{op}: expected an output_size within a stride of {size}, got {tuple(output_size)}"
            )
        size = wanted
    index = indices._data
    if index.size and (index.min() < 0 or index.max() >= math.prod(size)):
        raise IndexError(
            f"{op}: expected indices from 0 to {math.prod(size) - 1}, got {index.min()} to {index.max()}"
        )
    if input._data.ndim == n + 1:
        return MaxUnpool.apply(input.unsqueeze(0), index[None], size).squeeze(0)
    return MaxUnpool.apply(input, index, size)


def max_unpool1d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    output_size: Any = None,
) -> Tensor:
    """The input's values at the positions that `max_pool1d(return_indices=True)` gave, zeros elsewhere."""
    return _max_unpool(1, input, indices, kernel_size, stride, padding, output_size)


def max_unpool2d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    output_size: Any = None,
) -> Tensor:
    """The input's values at the positions that `max_pool2d(return_indices=True)` gave, zeros elsewhere.

    Raises ValueError for shapes that do not fit, IndexError for positions outside the output.

    >>> import fastdl
    >>> import fastdl.nn.functional as F
    >>> y, where = F.max_pool2d(fastdl.tensor([[[[1.0, 2.0], [4.0, 3.0]]]]), 2, return_indices=True)
    >>> F.max_unpool2d(y, where, 2).tolist()
    [[[[0.0, 0.0], [4.0, 0.0]]]]
    """
    return _max_unpool(2, input, indices, kernel_size, stride, padding, output_size)


def max_unpool3d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    output_size: Any = None,
) -> Tensor:
    """The input's values at the positions that `max_pool3d(return_indices=True)` gave, zeros elsewhere."""
    return _max_unpool(3, input, indices, kernel_size, stride, padding, output_size)


class _Root(ArrayFunction):
    """sign(x) |x|^(1/p), with gradient 0 at 0."""

    @staticmethod
    def forward(ctx: Any, x: np.ndarray, p: float) -> np.ndarray:
        y = np.sign(x) * np.abs(x) ** x.dtype.type(1 / p)
        ctx.p = p
        ctx.save(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: np.ndarray) -> np.ndarray:
        (y,) = ctx.saved
        with np.errstate(divide="ignore"):
            slope = np.abs(y) ** y.dtype.type(1 - ctx.p) / y.dtype.type(ctx.p)
        return np.where(y == 0, y.dtype.type(0), grad * slope)


def lp_pool1d(
    input: Tensor, norm_type: float, kernel_size: int, stride: Any = None, ceil_mode: bool = False
) -> Tensor:
    """The p-th root of the sum of p-th powers over every window of (N, C, L) or (C, L)."""
    mean = avg_pool1d(as_tensor(input) ** norm_type, kernel_size, stride, 0, ceil_mode)
    return _Root.apply(mean * _per_dimension("lp_pool1d", "kernel_size", kernel_size, 1)[0], norm_type)


def lp_pool2d(
    input: Tensor, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False
) -> Tensor:
    """The p-th root of the sum of p-th powers over every window of (N, C, H, W) or (C, H, W)."""
    mean = avg_pool2d(as_tensor(input) ** norm_type, kernel_size, stride, 0, ceil_mode)
    return _Root.apply(
        mean * math.prod(_per_dimension("lp_pool2d", "kernel_size", kernel_size, 2)), norm_type
    )


def lp_pool3d(
    input: Tensor, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False
) -> Tensor:
    """The p-th root of the sum of p-th powers over every window of (N, C, D, H, W) or (C, D, H, W)."""
    mean = avg_pool3d(as_tensor(input) ** norm_type, kernel_size, stride, 0, ceil_mode)
    return _Root.apply(
        mean * math.prod(_per_dimension("lp_pool3d", "kernel_size", kernel_size, 3)), norm_type
    )
