"""Sliding blocks of images as columns, and back: what a convolution gathers, as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import empty, is_array, kernels
from .conv import Size, kernel_options
from .pool import spread

__all__ = ["fold", "unfold"]


def _windows(
    core: Any, op: str, size: tuple, kernel_size: Size, dilation: Size, padding: Size, stride: Size
) -> Any:
    kernel = spread(kernel_size, 2, op, "kernel_size")
    options, strides, before, after, dilations = kernel_options(
        core, op, kernel, stride, padding, dilation, 1, None
    )
    counts = [
        (s + b + a - d * (k - 1) - 1) // st + 1
        for s, k, st, b, a, d in zip(size, kernel, strides, before, after, dilations)
    ]
    if min(kernel) < 1 or min(counts) < 1:
        raise ValueError(
            f"{op}: the kernel must fit into the padded image, got kernel {kernel} with dilation {dilations} for "
            f"size {tuple(size)} and padding {before}"
        )
    return options, kernel, counts[0] * counts[1]


def unfold(
    x: np.ndarray, kernel_size: Size, dilation: Size = 1, padding: Size = 0, stride: Size = 1
) -> np.ndarray:
    """Sliding blocks of ``x`` (N, C, H, W) or (C, H, W) as columns: (N, C * kernel height * kernel width, blocks).

    >>> unfold(np.arange(6, dtype=np.float32).reshape(1, 1, 2, 3), 2).tolist()
    [[[0.0, 1.0], [1.0, 2.0], [3.0, 4.0], [4.0, 5.0]]]
    """
    if not is_array(x) or x.ndim not in (3, 4):
        raise ValueError(
            f"unfold: expected an array of shape (N, C, H, W) or (C, H, W), got {getattr(x, 'shape', x)}"
        )
    if x.ndim == 3:
        return unfold(x[None], kernel_size, dilation, padding, stride)[0]
    options, kernel, length = _windows(
        kernels(x), "unfold", x.shape[2:], kernel_size, dilation, padding, stride
    )
    out = empty((x.shape[0], x.shape[1] * kernel[0] * kernel[1], length), x.dtype, x)
    kernels(x).unfold(x, kernel, out, options)
    return out


def fold(
    x: np.ndarray,
    output_size: Size,
    kernel_size: Size,
    dilation: Size = 1,
    padding: Size = 0,
    stride: Size = 1,
) -> np.ndarray:
    """The adjoint of `unfold`: columns (N, C * kernel size, blocks) added into an image (N, C, *output_size).

    >>> fold(np.ones((1, 4, 2), np.float32), (2, 3), 2).tolist()
    [[[[1.0, 2.0, 1.0], [1.0, 2.0, 1.0]]]]
    """
    if not is_array(x) or x.ndim not in (2, 3):
        raise ValueError(
            f"fold: expected an array of shape (N, C * kernel, L) or (C * kernel, L), got {getattr(x, 'shape', x)}"
        )
    if x.ndim == 2:
        return fold(x[None], output_size, kernel_size, dilation, padding, stride)[0]
    size = spread(output_size, 2, "fold", "output_size")
    options, kernel, length = _windows(kernels(x), "fold", size, kernel_size, dilation, padding, stride)
    channels, rest = divmod(x.shape[1], kernel[0] * kernel[1])
    if rest or x.shape[2] != length:
        raise ValueError(
            f"fold: expected columns of shape (N, C * {kernel[0] * kernel[1]}, {length}) for an image of {size}, got "
            f"{x.shape}"
        )
    out = empty((x.shape[0], channels, *size), x.dtype, x)
    kernels(x).fold(x, kernel, out, options)
    return out
