"""Convolution on Tensors, with torch's names and arguments, and ``activation=`` fused into the kernel."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..autograd import ArrayFunction
from ..backend import empty_like, kernels
from ..ops.activation import NONE, RELU, Activation, resolve_activation
from ..ops.conv import conv, conv_backward, conv_pool_backward, conv_transpose, conv_transpose_backward
from ..ops.conv_fold import fold as fold_array
from ..ops.conv_fold import unfold as unfold_array
from ..tensor import Tensor
from .pool import PooledGradient

__all__ = [
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "fold",
    "unfold",
]


def _run(
    ctx: Any, op: Any, a: Activation, residual: Any, x: Any, weight: Any, bias: Any, *options: Any
) -> Any:
    """op with its activation, saving what its gradient needs."""
    ctx.options, ctx.activation = options, a
    if a.kind == NONE:
        ctx.save(x, weight)
        return op(x, weight, bias, *options, None, residual)
    if a.from_output:
        y = op(x, weight, bias, *options, a, residual)
        ctx.save(x, weight, y)
        return y
    if not any(ctx.needs):  # nothing will ask for the value before the activation
        return op(x, weight, bias, *options, a, residual)
    z = op(x, weight, bias, *options, None, residual)
    y = empty_like(z)
    kernels(z).activation_forward(z, y, a.kind, a.alpha, a.beta)
    ctx.save(x, weight, z)
    return y


def _run_backward(ctx: Any, op: Any, grad: np.ndarray) -> Any:
    x, weight, *saved = ctx.saved
    a, saved = ctx.activation, saved[0] if saved else None
    if (
        ctx.needs[3] is not None and a.kind != NONE
    ):  # the residual's gradient: taken through the activation once
        through = empty_like(grad)
        kernels(grad).activation_backward(grad, saved, through, a.kind, a.alpha, a.beta, a.from_output)
        grad, a, saved = through, None, None
    gradients = op(grad, x, weight, *ctx.options, a, saved, ctx.needs)
    return (*gradients, grad if ctx.needs[3] is not None else None)


class Conv(ArrayFunction):
    """activation(x * weight + bias + residual)."""

    autocast = "lower"

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, residual: Any, a: Any, *options: Any) -> np.ndarray:
        return _run(ctx, conv, a, residual, x, weight, bias, *options)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        if not isinstance(grad, PooledGradient):
            return _run_backward(ctx, conv_backward, grad)
        relu = "relu" if grad.masked or ctx.activation.kind == RELU else None
        x, weight = ctx.saved[:2]
        stride, padding, dilation, groups = ctx.options
        pooled = (grad.grad, grad.out, grad.indices)
        return conv_pool_backward(
            *pooled, x, weight, stride, padding, dilation, groups, relu, needs=ctx.needs
        )

    def takes_pooled(ctx: Any, grad: np.ndarray) -> bool:
        """Whether backward takes a `PooledGradient` made of ``grad``."""
        return (
            grad.__class__ is np.ndarray
            and grad.dtype.char in "fd"
            and ctx.activation.kind in (NONE, RELU)
            and ctx.options[-1] == 1  # groups
            and ctx.needs[3] is None  # no residual that wants a gradient
            and bool(ctx.saved)
            and grad.ndim == ctx.saved[0].ndim == ctx.saved[1].ndim
        )


class ConvTranspose(ArrayFunction):
    """The adjoint of Conv's sum, with the same ending."""

    autocast = "lower"

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, residual: Any, a: Any, *options: Any) -> np.ndarray:
        return _run(ctx, conv_transpose, a, residual, x, weight, bias, *options)

    @staticmethod
    def backward(ctx: Any, grad: np.ndarray) -> Any:
        return _run_backward(ctx, conv_transpose_backward, grad)


class Unfold(ArrayFunction):
    """Sliding blocks as columns."""

    @staticmethod
    def forward(ctx: Any, x: np.ndarray, *window: Any) -> np.ndarray:
        ctx.size, ctx.window = x.shape[-2:], window
        return unfold_array(x, *window)

    @staticmethod
    def backward(ctx: Any, grad: np.ndarray) -> np.ndarray:
        return fold_array(grad, ctx.size, *ctx.window)


class Fold(ArrayFunction):
    """Columns added into an image."""

    @staticmethod
    def forward(ctx: Any, x: np.ndarray, size: Any, *window: Any) -> np.ndarray:
        ctx.window = window
        return fold_array(x, size, *window)

    @staticmethod
    def backward(ctx: Any, grad: np.ndarray) -> np.ndarray:
        return unfold_array(grad, *ctx.window)


def _check(op: str, n: int, input: Any, weight: Any) -> None:
    for name, t in (("input", input), ("weight", weight)):
        if not isinstance(t, Tensor):
            raise TypeError(f"{op}: expected {name} to be a Tensor, got {type(t).__name__}")
    if weight.ndim != n + 2:
        raise ValueError(f"{op}: expected a weight of {n + 2} dimensions, got shape {tuple(weight.shape)}")


def _conv(
    n: int, input: Any, weight: Any, bias: Any, activation: Any, residual: Any, *options: Any
) -> Tensor:
    _check(f"conv{n}d", n, input, weight)
    return Conv.apply(input, weight, bias, residual, resolve_activation(activation), *options)


def _conv_transpose(
    n: int, input: Any, weight: Any, bias: Any, activation: Any, residual: Any, *options: Any
) -> Tensor:
    _check(f"conv_transpose{n}d", n, input, weight)
    return ConvTranspose.apply(input, weight, bias, residual, resolve_activation(activation), *options)


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    activation: Any = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Cross-correlation of (N, C, L) or (C, L) with weight (O, C / groups, K), plus bias (O,), floating-point.

    ``padding`` is an int, "valid" or "same" (stride 1 only). Beyond torch's arguments: ``residual``, of the output's
    shape, is added before ``activation`` (a name as in `fastdl.ops.activation`), both in the same pass over memory.
    Raises ValueError for shapes and sizes that do not fit, TypeError for dtypes that differ.

    >>> import fastdl
    >>> conv1d(fastdl.tensor([[[1.0, -2.0, 3.0]]]), fastdl.tensor([[[1.0, 1.0]]]), activation="relu").tolist()
    [[[0.0, 1.0]]]
    """
    return _conv(1, input, weight, bias, activation, residual, stride, padding, dilation, groups)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    activation: Any = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Cross-correlation of (N, C, H, W) or (C, H, W) with weight (O, C / groups, KH, KW); see `conv1d`.

    >>> import fastdl
    >>> x = fastdl.arange(9.0).reshape(1, 1, 3, 3)
    >>> conv2d(x, fastdl.ones(1, 1, 2, 2)).tolist()
    [[[[8.0, 12.0], [20.0, 24.0]]]]
    """
    return _conv(2, input, weight, bias, activation, residual, stride, padding, dilation, groups)


def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    activation: Any = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Cross-correlation of (N, C, D, H, W) or (C, D, H, W) with weight (O, C / groups, KD, KH, KW); see `conv1d`.

    >>> import fastdl
    >>> conv3d(fastdl.ones(1, 2, 2, 2, 2), fastdl.ones(1, 2, 2, 2, 2)).tolist()
    [[[[[16.0]]]]]
    """
    return _conv(3, input, weight, bias, activation, residual, stride, padding, dilation, groups)


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    activation: Any = None,
    residual: Tensor | None = None,
) -> Tensor:
    """The adjoint of `conv1d` (its gradient with respect to the input) applied to (N, C, L) or (C, L); weight:
    (C, O / groups, K). ``output_padding``, smaller than stride or dilation, lengthens the output at its end.

    >>> import fastdl
    >>> conv_transpose1d(fastdl.tensor([[[1.0, 2.0]]]), fastdl.tensor([[[1.0, 10.0]]])).tolist()
    [[[1.0, 12.0, 20.0]]]
    """
    return _conv_transpose(
        1, input, weight, bias, activation, residual, stride, padding, output_padding, groups, dilation
    )


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    activation: Any = None,
    residual: Tensor | None = None,
) -> Tensor:
    """The adjoint of `conv2d` applied to (N, C, H, W) or (C, H, W); see `conv_transpose1d`.

    >>> import fastdl
    >>> conv_transpose2d(fastdl.ones(1, 1, 2, 2), fastdl.ones(1, 1, 2, 2)).tolist()
    [[[[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]]]
    """
    return _conv_transpose(
        2, input, weight, bias, activation, residual, stride, padding, output_padding, groups, dilation
    )


def conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    activation: Any = None,
    residual: Tensor | None = None,
) -> Tensor:
    """The adjoint of `conv3d` applied to (N, C, D, H, W) or (C, D, H, W); see `conv_transpose1d`.

    >>> import fastdl
    >>> conv_transpose3d(fastdl.ones(1, 1, 1, 1, 1), fastdl.ones(1, 1, 1, 1, 2)).tolist()
    [[[[[1.0, 1.0]]]]]
    """
    return _conv_transpose(
        3, input, weight, bias, activation, residual, stride, padding, output_padding, groups, dilation
    )


def unfold(input: Tensor, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Tensor:
    """Sliding blocks of (N, C, H, W) or (C, H, W) as columns (N, C * KH * KW, blocks), floating-point.
    Raises ValueError for sizes that do not fit.

    >>> import fastdl
    >>> unfold(fastdl.arange(6.0).reshape(1, 1, 2, 3), 2).shape
    (1, 4, 2)
    """
    if not isinstance(input, Tensor):
        raise TypeError(f"unfold: expected a Tensor, got {type(input).__name__}")
    return Unfold.apply(input, kernel_size, dilation, padding, stride)


def fold(
    input: Tensor,
    output_size: Any,
    kernel_size: Any,
    dilation: Any = 1,
    padding: Any = 0,
    stride: Any = 1,
) -> Tensor:
    """The adjoint of `unfold`: columns (N, C * KH * KW, blocks) added into an image (N, C, *output_size).

    >>> import fastdl
    >>> fold(fastdl.ones(1, 4, 2), (2, 3), 2).tolist()
    [[[[1.0, 2.0, 1.0], [1.0, 2.0, 1.0]]]]
    """
    if not isinstance(input, Tensor):
        raise TypeError(f"fold: expected a Tensor, got {type(input).__name__}")
    return Fold.apply(input, output_size, kernel_size, dilation, padding, stride)
