"""Convolution and its transpose on arrays, in 1 to 3 spatial dimensions: (N, C, *spatial) or unbatched (C, *spatial).

Outputs are logically (N, C, *spatial) with channels-last strides; inputs may have any strides, channels-last ones are
read in place. A fused activation is applied in the kernel, and the backward functions take its derivative on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from ..backend import empty, is_array, kernels
from .activation import NONE, resolve_activation
from .pool import channels_last_empty, spread

__all__ = [
    "conv",
    "conv_backward",
    "conv_pool_backward",
    "conv_transpose",
    "conv_transpose_backward",
]

Size = int | Sequence[int]
Padding = int | str | Sequence[int]
ALL = (True, True, True)


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, (list, np.ndarray)) else value


def _operands(x: Any, weight: Any, op: str) -> int:
    """The number of spatial dimensions; TypeError or ValueError where x and weight do not fit together."""
    for name, a in (("x", x), ("weight", weight)):
        if not is_array(a):
            raise TypeError(f"{op}: expected {name} to be a numpy.ndarray, got {type(a).__name__}")
    n = weight.ndim - 2
    if not 1 <= n <= 3:
        raise ValueError(
            f"{op}: expected a weight of 3 to 5 dimensions (out, in, *kernel), got {weight.shape}"
        )
    if x.ndim not in (n + 1, n + 2):
        raise ValueError(
            f"{op}: expected an input of {n + 1} (unbatched) or {n + 2} dimensions for a weight of shape "
            f"{weight.shape}, got {x.shape}"
        )
    return n


def _paddings(
    padding: Any, kernel: tuple, stride: tuple, dilation: tuple, op: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Zeros before and after each dimension; "same" puts the odd one after."""
    if isinstance(padding, str):
        if padding == "valid":
            return (0,) * len(kernel), (0,) * len(kernel)
        if padding != "same":
            raise ValueError(f"{op}: expected padding to be ints, 'same' or 'valid', got {padding!r}")
        if any(s != 1 for s in stride):
            raise ValueError(f"{op}: padding='same' needs stride 1, got {stride}")
        total = [d * (k - 1) for k, d in zip(kernel, dilation)]
        return tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    both = spread(padding, len(kernel), op, "padding")
    return both, both


def kernel_options(
    core: Any,
    op: str,
    kernel: tuple,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
    activation: Any,
) -> tuple[Any, tuple, tuple, tuple, tuple]:
    n = len(kernel)
    strides, dilations = spread(stride, n, op, "stride"), spread(dilation, n, op, "dilation")
    if min(strides) < 1 or min(dilations) < 1:
        raise ValueError(f"{op}: stride and dilation must be at least 1, got {strides} and {dilations}")
    before, after = _paddings(padding, kernel, strides, dilations, op)
    if min(before) < 0:
        raise ValueError(f"{op}: padding must not be negative, got {padding!r}")
    if not isinstance(groups, (int, np.integer)):
        raise TypeError(f"{op}: expected groups to be an int, got {groups!r}")
    a, rest = resolve_activation(activation), (1,) * (3 - n)
    options = core.ConvOptions(
        strides + rest,
        before + (0,) * (3 - n),
        after + (0,) * (3 - n),
        dilations + rest,
        groups,
        a.kind,
        a.alpha,
        a.beta,
    )
    return options, strides, before, after, dilations


@lru_cache(maxsize=2048, typed=True)
def _plan(
    core: Any,
    size: tuple,
    kernel: tuple,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
    activation: Any,
) -> tuple[Any, list[int]]:
    """The options of the kernels of ``core`` and the spatial output size. Cached: a layer asks for the same one at
    every step."""
    options, strides, before, after, dilations = kernel_options(
        core, "conv", kernel, stride, padding, dilation, groups, activation
    )
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilations)]
    padded = [s + b + a for s, b, a in zip(size, before, after)]
    if min(kernel) < 1 or any(p < r for p, r in zip(padded, reach)):
        raise ValueError(
            f"conv: the kernel must fit into the padded input, got kernel {kernel} with dilation {dilations} for "
            f"padded size {tuple(padded)}"
        )
    return options, [(p - r) // s + 1 for p, r, s in zip(padded, reach, strides)]


@lru_cache(maxsize=2048, typed=True)
def _transpose_plan(
    core: Any,
    size: tuple,
    kernel: tuple,
    stride: Any,
    padding: Any,
    output_padding: Any,
    dilation: Any,
    groups: Any,
    activation: Any,
) -> tuple[Any, list[int]]:
    op = "conv_transpose"
    if isinstance(padding, str):
        raise ValueError(f"{op}: expected padding to be ints, got {padding!r}")
    options, strides, before, _, dilations = kernel_options(
        core, op, kernel, stride, padding, dilation, groups, activation
    )
    extra = spread(output_padding, len(kernel), op, "output_padding")
    if any(not 0 <= e < max(s, d) for e, s, d in zip(extra, strides, dilations)):
        raise ValueError(
            f"{op}: output_padding must be at least 0 and smaller than stride or dilation, got {extra} with stride "
            f"{strides} and dilation {dilations}"
        )
    out = [
        (n - 1) * s - 2 * p + d * (k - 1) + e + 1
        for n, k, s, p, d, e in zip(size, kernel, strides, before, dilations, extra)
    ]
    if min(kernel) < 1 or min(size) < 1 or min(out) < 1:
        raise ValueError(
            f"{op}: the output size {tuple(out)} for an input of size {size} and kernel {kernel} is too small"
        )
    return options, out


def _planned(plan: Any, x: np.ndarray, weight: np.ndarray, *options: Any) -> Any:
    """A cached plan for a call on these operands; the options in the order of the plan's."""
    return plan(kernels(x), x.shape[2:], weight.shape[2:], *map(_hashable, options))


def conv(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    activation: Any = None,
    residual: np.ndarray | None = None,
) -> np.ndarray:
    """activation(x * weight + bias + residual), ``*`` being cross-correlation over the spatial dimensions.

    x: (N, C, *spatial) or (C, *spatial); weight: (O, C / groups, *kernel); bias: (O,); residual: the output's shape;
    floating-point, all alike. ``padding`` is an int, one int per dimension, "valid" or "same".
    Raises ValueError for shapes and sizes that do not fit, TypeError for other dtypes.

    >>> conv(np.array([[[1, 2, 3, 4]]], np.float32), np.array([[[1, 10]]], np.float32)).tolist()
    [[[21.0, 32.0, 43.0]]]
    """
    n = _operands(x, weight, "conv")
    if x.ndim == n + 1:
        r = None if residual is None else residual[None]
        return conv(x[None], weight, bias, stride, padding, dilation, groups, activation, r)[0]
    shape, w = x.shape, weight.shape
    options, size = _planned(_plan, x, weight, stride, padding, dilation, groups, activation)
    out = channels_last_empty(shape[0], w[0], size, x.dtype, x)
    kernels(x).conv_forward(x, weight, bias, residual, out, options)
    return out


def _backward(
    names: tuple[str, str],
    options: Any,
    grad: np.ndarray,
    saved: Any,
    x: np.ndarray,
    weight: np.ndarray,
    channels: int,
    needs: Sequence[Any],
) -> tuple[Any, Any, Any]:
    core = kernels(grad)
    dx = dw = db = None
    if needs[1] or needs[2]:
        dw = empty(weight.shape, weight.dtype, grad) if needs[1] else None
        db = empty(channels, grad.dtype, grad) if needs[2] else None
        getattr(core, names[1])(grad, saved, x, dw, db, options)
    if needs[0]:
        dx = channels_last_empty(x.shape[0], x.shape[1], x.shape[2:], x.dtype, x)
        getattr(core, names[0])(grad, saved, weight, dx, options)
    return dx, dw, db


def _check_saved(op: str, activation: Any, saved: Any) -> None:
    if saved is None and resolve_activation(activation).kind != NONE:
        raise ValueError(f"{op}: activation {activation!r} needs saved")


def conv_backward(
    grad: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    activation: Any = None,
    saved: np.ndarray | None = None,
    needs: Sequence[Any] = ALL,
) -> tuple[Any, Any, Any]:
    """Gradients of `conv` with respect to x, weight and bias; None where ``needs`` is false.

    With an activation, ``saved`` is the output where ``resolve_activation(activation).from_output``, else the value
    before the activation.

    >>> one = np.ones((1, 1, 2), np.float32)
    >>> [g.tolist() for g in conv_backward(one, np.ones((1, 1, 3), np.float32), 3 * one)]
    [[[[3.0, 6.0, 3.0]]], [[[2.0, 2.0]]], [2.0]]
    """
    n = _operands(x, weight, "conv_backward")
    if x.ndim == n + 1:
        s = None if saved is None else saved[None]
        dx, dw, db = conv_backward(
            grad[None], x[None], weight, stride, padding, dilation, groups, activation, s, needs
        )
        return None if dx is None else dx[0], dw, db
    _check_saved("conv_backward", activation, saved)
    options, _ = _planned(_plan, x, weight, stride, padding, dilation, groups, activation)
    names = ("conv_backward_data", "conv_backward_weight")
    return _backward(names, options, grad, saved, x, weight, weight.shape[0], needs)


def conv_pool_backward(
    grad: np.ndarray,
    out: np.ndarray | None,
    indices: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    activation: Any = None,
    needs: Sequence[Any] = ALL,
) -> tuple[Any, Any, Any]:
    """Gradients of ``max_pool(conv(x, weight, bias, ..., activation))`` with respect to x, weight and bias; None where
    ``needs`` is false.

    grad, out and indices (int32): the pooled output's gradient, the output itself, and the positions of the maxima as
    `max_pool` returns them. ``activation``: None or "relu". On the CPU only the products of the maxima are formed.

    >>> x, weight = np.array([[[1, 2, 3]]], np.float32), np.ones((1, 1, 2), np.float32)
    >>> one, where = np.ones((1, 1, 1), np.float32), np.ones((1, 1, 1), np.int32)
    >>> [g.tolist() for g in conv_pool_backward(one, one, where, x, weight)]
    [[[[0.0, 1.0, 1.0]]], [[[2.0, 3.0]]], [1.0]]
    """
    _operands(x, weight, "conv_pool_backward")
    options, _ = _planned(_plan, x, weight, stride, padding, dilation, groups, activation)
    dx = channels_last_empty(x.shape[0], x.shape[1], x.shape[2:], x.dtype, x) if needs[0] else None
    dw = empty(weight.shape, weight.dtype, x) if needs[1] else None
    db = empty(weight.shape[0], weight.dtype, x) if needs[2] else None
    kernels(x).conv_pool_backward(grad, out, indices, x, weight, dx, dw, db, options)
    return dx, dw, db


def conv_transpose(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
    activation: Any = None,
    residual: np.ndarray | None = None,
) -> np.ndarray:
    """activation(y + bias + residual) with y the adjoint of `conv` applied to x; weight: (C, O / groups, *kernel).

    >>> conv_transpose(np.array([[[1, 2]]], np.float32), np.array([[[1, 10]]], np.float32), stride=2).tolist()
    [[[1.0, 10.0, 2.0, 20.0]]]
    """
    n = _operands(x, weight, "conv_transpose")
    if x.ndim == n + 1:
        r = None if residual is None else residual[None]
        return conv_transpose(
            x[None], weight, bias, stride, padding, output_padding, groups, dilation, activation, r
        )[0]
    options, size = _planned(
        _transpose_plan, x, weight, stride, padding, output_padding, dilation, groups, activation
    )
    out = channels_last_empty(x.shape[0], weight.shape[1] * max(int(groups), 1), size, x.dtype, x)
    kernels(x).conv_transpose_forward(x, weight, bias, residual, out, options)
    return out


def conv_transpose_backward(
    grad: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
    activation: Any = None,
    saved: np.ndarray | None = None,
    needs: Sequence[Any] = ALL,
) -> tuple[Any, Any, Any]:
    """Gradients of `conv_transpose` with respect to x, weight and bias; see `conv_backward`.

    >>> one = np.ones((1, 1, 2), np.float32)
    >>> [g.tolist() for g in conv_transpose_backward(np.ones((1, 1, 3), np.float32), one, 3 * one)]
    [[[[6.0, 6.0]]], [[[2.0, 2.0]]], [3.0]]
    """
    n = _operands(x, weight, "conv_transpose_backward")
    if x.ndim == n + 1:
        s = None if saved is None else saved[None]
        sizes = (stride, padding, output_padding, groups, dilation)
        dx, dw, db = conv_transpose_backward(grad[None], x[None], weight, *sizes, activation, s, needs)
        return None if dx is None else dx[0], dw, db
    _check_saved("conv_transpose_backward", activation, saved)
    options, _ = _planned(
        _transpose_plan, x, weight, stride, padding, output_padding, dilation, groups, activation
    )
    names = ("conv_transpose_backward_data", "conv_transpose_backward_weight")
    return _backward(names, options, grad, saved, x, weight, weight.shape[1] * groups, needs)
