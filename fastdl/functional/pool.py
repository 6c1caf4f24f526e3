"""Pooling on Tensors, with torch's names and arguments: (N, C, *spatial) or unbatched (C, *spatial)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import autograd, casting, ops
from ..autograd import ArrayFunction, Deferred, _mode, version, wrap
from ..tensor import Tensor

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
]


class PooledGradient(Deferred):
    """The gradient of a max pooling's input: ``grad`` at the positions ``indices``, zero elsewhere; where the input
    came from a ReLU (``masked``), only if ``out``, the pooled output, is positive. Convolutions take it as it is."""

    __slots__ = ("grad", "indices", "masked", "out", "shape", "window")

    def __init__(self, grad: np.ndarray, indices: np.ndarray, out: np.ndarray, shape: Any, window: Any):
        self.grad, self.indices, self.out, self.shape, self.window = grad, indices, out, shape, window
        self.masked = False

    def relu(self) -> None:
        self.masked = True

    def form(self) -> np.ndarray:
        grad = np.where(self.out <= 0, self.grad.dtype.type(0), self.grad) if self.masked else self.grad
        return ops.max_pool_backward(grad, self.indices, self.shape, *self.window)


class MaxPool(ArrayFunction):
    """Maximum over sliding windows; the positions of the maxima are an output without a gradient."""

    @staticmethod
    def forward(ctx: Any, x: np.ndarray, want_indices: bool, *window: Any) -> Any:
        ctx.window, ctx.shape = window, x.shape
        if ctx.needs[0] is None and not want_indices:
            return ops.max_pool(x, *window)
        out, indices = ops.max_pool(x, *window, return_indices=True)  # type: ignore[misc]
        # The output in a list: it may be changed in place before backward, which then does without it.
        ctx.save(indices, [out])
        return (out, indices.astype(np.int64)) if want_indices else out

    @staticmethod
    def backward(ctx: Any, grad: np.ndarray, _: Any = None) -> Any:
        indices, (out,) = ctx.saved
        takes_pooled = getattr(ctx.inputs[0], "takes_pooled", None)
        if takes_pooled is not None and takes_pooled(grad) and version(out) <= ctx.epoch:
            return PooledGradient(grad, indices, out, ctx.shape, ctx.window)
        return ops.max_pool_backward(grad, indices, ctx.shape, *ctx.window)


class AvgPool(ArrayFunction):
    """Mean over sliding windows."""

    @staticmethod
    def forward(ctx: Any, x: np.ndarray, *window: Any) -> np.ndarray:
        ctx.window, ctx.shape = window, x.shape
        return ops.avg_pool(x, *window)

    @staticmethod
    def backward(ctx: Any, grad: np.ndarray) -> np.ndarray:
        return ops.avg_pool_backward(grad, ctx.shape, *ctx.window)


class AdaptiveMaxPool(ArrayFunction):
    """Maximum over windows that tile the input evenly."""

    @staticmethod
    def forward(ctx: Any, x: np.ndarray, output_size: Any, want_indices: bool) -> Any:
        ctx.shape = x.shape
        out, indices = ops.adaptive_max_pool(x, output_size, return_indices=True)
        ctx.save(indices)
        return (out, indices.astype(np.int64)) if want_indices else out

    @staticmethod
    def backward(ctx: Any, grad: np.ndarray, _: Any = None) -> np.ndarray:
        (indices,) = ctx.saved
        return ops.adaptive_max_pool_backward(grad, indices, ctx.shape)


class AdaptiveAvgPool(ArrayFunction):
    """Mean over windows that tile the input evenly."""

    @staticmethod
    def forward(ctx: Any, x: np.ndarray, output_size: Any) -> np.ndarray:
        ctx.shape = x.shape
        return ops.adaptive_avg_pool(x, output_size)

    @staticmethod
    def backward(ctx: Any, grad: np.ndarray) -> np.ndarray:
        return ops.adaptive_avg_pool_backward(grad, ctx.shape)


def _batched(x: Tensor, n: int, op: str) -> tuple[Tensor, bool]:
    """``x`` with a batch dimension, and whether it had one."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{op}: expected a Tensor, got {type(x).__name__}")
    if x.ndim == n + 2:
        return x, True
    if x.ndim == n + 1:
        return x.unsqueeze(0), False
    raise ValueError(
        f"{op}: expected an input of {n + 1} (unbatched) or {n + 2} dimensions, got shape {tuple(x.shape)}"
    )


def _max_pool(n: int, x: Tensor, return_indices: bool, *window: Any) -> Any:
    x, batched = _batched(x, n, f"max_pool{n}d")
    if not return_indices and (x._node is None or not _mode.enabled):
        out = wrap(ops.max_pool(x._data, *window))
    else:
        out = MaxPool.apply(x, return_indices, *window)
    if batched:
        return out
    return tuple(o.squeeze(0) for o in out) if return_indices else out.squeeze(0)


def _avg_pool(n: int, x: Tensor, *window: Any) -> Tensor:
    x, batched = _batched(x, n, f"avg_pool{n}d")
    if n == 3 and autograd.autocasting:
        (x,) = casting.in_float32(x)
    out = AvgPool.apply(x, *window)
    return out if batched else out.squeeze(0)


def _adaptive_max_pool(n: int, x: Tensor, output_size: Any, return_indices: bool) -> Any:
    x, batched = _batched(x, n, f"adaptive_max_pool{n}d")
    if n == 3 and autograd.autocasting:
        (x,) = casting.in_float32(x)
    out = AdaptiveMaxPool.apply(x, output_size, return_indices)
    if batched:
        return out
    return tuple(o.squeeze(0) for o in out) if return_indices else out.squeeze(0)


def _adaptive_avg_pool(n: int, x: Tensor, output_size: Any) -> Tensor:
    x, batched = _batched(x, n, f"adaptive_avg_pool{n}d")
    if n == 3 and autograd.autocasting:
        (x,) = casting.in_float32(x)
    out = AdaptiveAvgPool.apply(x, output_size)
    return out if batched else out.squeeze(0)


def max_pool1d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Maximum over windows of (N, C, L) or (C, L), floating-point. ``stride`` defaults to ``kernel_size``; with
    ``return_indices`` also the int64 positions of the maxima. Raises ValueError for sizes that do not fit.

    >>> import fastdl
    >>> max_pool1d(fastdl.tensor([[1.0, 3.0, 2.0, 4.0]]), 2).tolist()
    [[3.0, 4.0]]
    """
    return _max_pool(1, input, return_indices, kernel_size, stride, padding, dilation, ceil_mode)


def max_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Maximum over windows of (N, C, H, W) or (C, H, W); see `max_pool1d`.

    >>> import fastdl
    >>> max_pool2d(fastdl.arange(16.0).reshape(1, 1, 4, 4), 2).flatten().tolist()
    [5.0, 7.0, 13.0, 15.0]
    """
    return _max_pool(2, input, return_indices, kernel_size, stride, padding, dilation, ceil_mode)


def max_pool3d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Maximum over windows of (N, C, D, H, W) or (C, D, H, W); see `max_pool1d`.

    >>> import fastdl
    >>> max_pool3d(fastdl.arange(8.0).reshape(1, 2, 2, 2), 2).flatten().tolist()
    [7.0]
    """
    return _max_pool(3, input, return_indices, kernel_size, stride, padding, dilation, ceil_mode)


def avg_pool1d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """Mean over windows of (N, C, L) or (C, L), floating-point. Padding counts as zeros in the divisor unless
    ``count_include_pad`` is false. Raises ValueError for sizes that do not fit.

    >>> import fastdl
    >>> avg_pool1d(fastdl.tensor([[1.0, 3.0, 2.0, 4.0]]), 2).tolist()
    [[2.0, 3.0]]
    """
    return _avg_pool(1, input, kernel_size, stride, padding, ceil_mode, count_include_pad, None)


def avg_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Mean over windows of (N, C, H, W) or (C, H, W), or the sum over ``divisor_override``; see `avg_pool1d`.

    >>> import fastdl
    >>> avg_pool2d(fastdl.arange(16.0).reshape(1, 1, 4, 4), 2).flatten().tolist()
    [2.5, 4.5, 10.5, 12.5]
    """
    return _avg_pool(2, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def avg_pool3d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Mean over windows of (N, C, D, H, W) or (C, D, H, W); see `avg_pool2d`.

    >>> import fastdl
    >>> avg_pool3d(fastdl.arange(8.0).reshape(1, 2, 2, 2), 2).flatten().tolist()
    [3.5]
    """
    return _avg_pool(3, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def adaptive_max_pool1d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """Maximum over ``output_size`` windows that tile (N, C, L) or (C, L): window i of o covers
    [floor(i * L / o), ceil((i + 1) * L / o)).

    >>> import fastdl
    >>> adaptive_max_pool1d(fastdl.tensor([[1.0, 3.0, 2.0, 4.0, 0.0]]), 2).tolist()
    [[3.0, 4.0]]
    """
    return _adaptive_max_pool(1, input, output_size, return_indices)


def adaptive_max_pool2d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """`adaptive_max_pool1d` for (N, C, H, W) or (C, H, W); an int or (height, width), None keeps an extent.

    >>> import fastdl
    >>> adaptive_max_pool2d(fastdl.arange(16.0).reshape(1, 4, 4), (1, None)).flatten().tolist()
    [12.0, 13.0, 14.0, 15.0]
    """
    return _adaptive_max_pool(2, input, output_size, return_indices)


def adaptive_max_pool3d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """`adaptive_max_pool1d` for (N, C, D, H, W) or (C, D, H, W).

    >>> import fastdl
    >>> adaptive_max_pool3d(fastdl.arange(8.0).reshape(1, 2, 2, 2), 1).flatten().tolist()
    [7.0]
    """
    return _adaptive_max_pool(3, input, output_size, return_indices)


def adaptive_avg_pool1d(input: Tensor, output_size: Any) -> Tensor:
    """Mean over the windows of `adaptive_max_pool1d`.

    >>> import fastdl
    >>> adaptive_avg_pool1d(fastdl.tensor([[1.0, 3.0, 2.0, 4.0]]), 2).tolist()
    [[2.0, 3.0]]
    """
    return _adaptive_avg_pool(1, input, output_size)


def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """Mean over the windows of `adaptive_max_pool2d`.

    >>> import fastdl
    >>> adaptive_avg_pool2d(fastdl.arange(16.0).reshape(1, 4, 4), 1).flatten().tolist()
    [7.5]
    """
    return _adaptive_avg_pool(2, input, output_size)


def adaptive_avg_pool3d(input: Tensor, output_size: Any) -> Tensor:
    """Mean over the windows of `adaptive_max_pool3d`.

    >>> import fastdl
    >>> adaptive_avg_pool3d(fastdl.arange(8.0).reshape(1, 2, 2, 2), 1).flatten().tolist()
    [3.5]
    """
    return _adaptive_avg_pool(3, input, output_size)
