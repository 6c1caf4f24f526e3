"""Max and average pooling on arrays: (N, C, *spatial) in, (N, C, *output) out, with 1 to 3 spatial dimensions.

Outputs are logically (N, C, ...) with channels-last strides; inputs may have any strides, channels-last ones are read
in place. ``indices`` are int32 positions in each input plane, counted in C order.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from ..backend import empty, is_array, kernels

__all__ = [
    "adaptive_avg_pool",
    "adaptive_avg_pool_backward",
    "adaptive_max_pool",
    "adaptive_max_pool_backward",
    "avg_pool",
    "avg_pool_backward",
    "max_pool",
    "max_pool_backward",
    "pool_output_size",
]

Size = int | Sequence[int]


def spread(value: Any, n: int, op: str, name: str) -> tuple[int, ...]:
    """``value`` for each of ``n`` spatial dimensions: an int stands for all of them."""
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return (int(value),) * n
    try:
        values = tuple(value)
    except TypeError:
        raise TypeError(f"{op}: expected {name} to be an int or {n} ints, got {value!r}") from None
    if len(values) == 1:
        values *= n
    if len(values) != n or not all(isinstance(v, (int, np.integer)) for v in values):
        raise ValueError(f"{op}: expected {name} to be an int or {n} ints, got {value!r}")
    return tuple(int(v) for v in values)


# By the number of spatial dimensions.
_CHANNELS_FIRST = [(0, n + 1, *range(1, n + 1)) for n in range(8)]


def channels_last_empty(n: int, c: int, spatial: Sequence[int], dtype: Any, like: Any = None) -> np.ndarray:
    """An uninitialised (N, C, *spatial) array beside ``like`` whose channels are contiguous in memory."""
    return empty((n, *spatial, c), dtype, like).transpose(_CHANNELS_FIRST[len(spatial)])


def _spatial_ndim(x: Any, op: str) -> int:
    if not is_array(x):
        raise TypeError(f"{op}: expected a numpy.ndarray, got {type(x).__name__}")
    if not 3 <= x.ndim <= 5:
        raise ValueError(
            f"{op}: expected an input of shape (N, C, *spatial) with 1 to 3 spatial dimensions, got {x.shape}"
        )
    return x.ndim - 2


def pool_output_size(
    size: int, kernel: int, stride: int, padding: int, dilation: int = 1, ceil_mode: bool = False
) -> int:
    """Number of windows along one dimension. With ``ceil_mode`` a last partial window counts if it starts inside the
    input or its left padding.

    >>> pool_output_size(5, kernel=2, stride=2, padding=0), pool_output_size(5, 2, 2, 0, ceil_mode=True)
    (2, 3)
    """
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    out = (room + (stride - 1 if ceil_mode else 0)) // stride + 1
    if ceil_mode and (out - 1) * stride >= size + padding:
        out -= 1
    return out


def _plan(op: str, like: Any, shape: tuple[int, ...], *window: Any) -> tuple[Any, list[int]]:
    """The options of the kernels for ``like`` and the output's spatial size. A model asks for the same few again and
    again."""
    try:
        return _cached_plan(kernels(like), op, shape[2:], *window)
    except TypeError:  # lists cannot be looked up; wrong kinds raise once more
        return _make_plan(kernels(like), op, shape[2:], *window)


def _make_plan(
    kernel_set: Any,
    op: str,
    spatial: tuple[int, ...],
    kernel_size: Size,
    stride: Size | None,
    padding: Size,
    dilation: Size,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> tuple[Any, list[int]]:
    n = len(spatial)
    kernel = spread(kernel_size, n, op, "kernel_size")
    strides = kernel if stride is None or stride == () else spread(stride, n, op, "stride")
    pad = spread(padding, n, op, "padding")
    dil = spread(dilation, n, op, "dilation")
    if min(kernel) < 1 or min(strides) < 1 or min(dil) < 1:
        raise ValueError(
            f"{op}: kernel_size, stride and dilation must be positive, got {kernel}, {strides} and {dil}"
        )
    if any(p < 0 or 2 * p > k for p, k in zip(pad, kernel)):
        raise ValueError(
            f"{op}: padding must be between 0 and half the kernel_size, got padding {pad} for kernel_size {kernel}"
        )
    if divisor_override is not None and divisor_override <= 0:
        raise ValueError(f"{op}: divisor_override must be positive, got {divisor_override}")
    out = [
        pool_output_size(s, k, st, p, d, ceil_mode)
        for s, k, st, p, d in zip(spatial, kernel, strides, pad, dil)
    ]
    if min(out) < 1:
        raise ValueError(
            f"{op}: an input of spatial shape {spatial} is too small for kernel_size {kernel}, dilation {dil} and "
            f"padding {pad}"
        )
    three = (1,) * (3 - n)
    options = kernel_set.PoolOptions(
        kernel + three,
        strides + three,
        pad + three,
        dil + three,
        ceil_mode,
        count_include_pad,
        divisor_override or 0,
    )
    return options, out


_cached_plan = lru_cache(maxsize=256, typed=True)(_make_plan)


def max_pool(
    x: np.ndarray,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Maximum over sliding windows of ``x`` (N, C, *spatial), floating-point; NaN wins over every number.

    Returns out (N, C, *output), and with ``return_indices`` also the int32 positions of the maxima in their planes.
    Raises ValueError for shapes and sizes that do not fit, TypeError for other dtypes.

    >>> x = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    >>> max_pool(x, 2)[0, 0].tolist()
    [[5.0, 7.0], [13.0, 15.0]]
    """
    _spatial_ndim(x, "max_pool")
    options, size = _plan(
        "max_pool", x, x.shape, kernel_size, stride, padding, dilation, ceil_mode, True, None
    )
    return _max(x, options, size, return_indices)


def _max(x: np.ndarray, options: Any, size: Sequence[int], return_indices: bool) -> Any:
    out = channels_last_empty(x.shape[0], x.shape[1], size, x.dtype, x)
    indices = channels_last_empty(x.shape[0], x.shape[1], size, np.int32, x) if return_indices else None
    kernels(x).max_pool_forward(x, out, indices, options)
    return (out, indices) if return_indices else out


def max_pool_backward(
    grad: np.ndarray,
    indices: np.ndarray,
    shape: tuple[int, ...],
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> np.ndarray:
    """Gradient of `max_pool` for an input of ``shape``: ``grad`` (N, C, *output) added at the maxima's positions.

    >>> x = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)
    >>> out, indices = max_pool(x, 2, return_indices=True)
    >>> max_pool_backward(np.ones_like(out), indices, x.shape, 2)[0, 0].tolist()
    [[0.0, 0.0], [0.0, 1.0]]
    """
    options, _ = _plan(
        "max_pool_backward", grad, shape, kernel_size, stride, padding, dilation, ceil_mode, True, None
    )
    return _max_backward(grad, indices, shape, options)


def _max_backward(grad: np.ndarray, indices: np.ndarray, shape: tuple[int, ...], options: Any) -> np.ndarray:
    grad_x = channels_last_empty(shape[0], shape[1], shape[2:], grad.dtype, grad)
    kernels(grad).max_pool_backward(grad, indices, grad_x, options)
    return grad_x


def avg_pool(
    x: np.ndarray,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> np.ndarray:
    """Mean over sliding windows of ``x`` (N, C, *spatial), floating-point; padding counts as zeros unless
    ``count_include_pad`` is false. Raises ValueError for shapes and sizes that do not fit, TypeError for other dtypes.

    >>> x = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    >>> avg_pool(x, 2)[0, 0].tolist()
    [[2.5, 4.5], [10.5, 12.5]]
    """
    _spatial_ndim(x, "avg_pool")
    options, size = _plan(
        "avg_pool",
        x,
        x.shape,
        kernel_size,
        stride,
        padding,
        1,
        ceil_mode,
        count_include_pad,
        divisor_override,
    )
    out = channels_last_empty(x.shape[0], x.shape[1], size, x.dtype, x)
    kernels(x).avg_pool_forward(x, out, options)
    return out


def avg_pool_backward(
    grad: np.ndarray,
    shape: tuple[int, ...],
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> np.ndarray:
    """Gradient of `avg_pool` for an input of ``shape``: each window's gradient spread evenly over it.

    >>> avg_pool_backward(np.ones((1, 1, 1), np.float32), (1, 1, 2), 2)[0, 0].tolist()
    [0.5, 0.5]
    """
    options, _ = _plan(
        "avg_pool_backward",
        grad,
        shape,
        kernel_size,
        stride,
        padding,
        1,
        ceil_mode,
        count_include_pad,
        divisor_override,
    )
    grad_x = channels_last_empty(shape[0], shape[1], shape[2:], grad.dtype, grad)
    kernels(grad).avg_pool_backward(grad, grad_x, options)
    return grad_x


def _adaptive_size(x: np.ndarray, output_size: Any, op: str) -> list[int]:
    n = _spatial_ndim(x, op)
    values = (output_size,) * n if output_size is None or isinstance(output_size, int) else tuple(output_size)
    if len(values) != n:
        raise ValueError(f"{op}: expected output_size to be an int or {n} ints, got {output_size!r}")
    size = [s if v is None else int(v) for s, v in zip(x.shape[2:], values)]
    if min(size) < 0:
        raise ValueError(f"{op}: output_size must not be negative, got {output_size!r}")
    return size


def adaptive_max_pool(x: np.ndarray, output_size: Any, return_indices: bool = False) -> Any:
    """Maximum over windows chosen so that the output has ``output_size`` (an int, or one int or None per spatial
    dimension; None keeps the input's): window i of o covers [floor(i * in / o), ceil((i + 1) * in / o)).

    >>> adaptive_max_pool(np.arange(5, dtype=np.float32).reshape(1, 1, 5), 2)[0, 0].tolist()
    [2.0, 4.0]
    """
    size = _adaptive_size(x, output_size, "adaptive_max_pool")
    return _max(x, kernels(x).PoolOptions(), size, return_indices)


def adaptive_max_pool_backward(grad: np.ndarray, indices: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Gradient of `adaptive_max_pool` for an input of ``shape``.

    >>> out, indices = adaptive_max_pool(np.arange(3, dtype=np.float32).reshape(1, 1, 3), 1, return_indices=True)
    >>> adaptive_max_pool_backward(np.ones_like(out), indices, (1, 1, 3))[0, 0].tolist()
    [0.0, 0.0, 1.0]
    """
    return _max_backward(grad, indices, shape, kernels(grad).PoolOptions())


def adaptive_avg_pool(x: np.ndarray, output_size: Any) -> np.ndarray:
    """Mean over the windows of `adaptive_max_pool`.

    >>> adaptive_avg_pool(np.arange(4, dtype=np.float32).reshape(1, 1, 4), 2)[0, 0].tolist()
    [0.5, 2.5]
    """
    size = _adaptive_size(x, output_size, "adaptive_avg_pool")
    out = channels_last_empty(x.shape[0], x.shape[1], size, x.dtype, x)
    kernels(x).avg_pool_forward(x, out, kernels(x).PoolOptions())
    return out


def adaptive_avg_pool_backward(grad: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Gradient of `adaptive_avg_pool` for an input of ``shape``.

    >>> adaptive_avg_pool_backward(np.ones((1, 1, 1), np.float32), (1, 1, 4))[0, 0].tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    grad_x = channels_last_empty(shape[0], shape[1], shape[2:], grad.dtype, grad)
    kernels(grad).avg_pool_backward(grad, grad_x, kernels(grad).PoolOptions())
    return grad_x
