"""Sliding patches of images as columns, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd import ArrayFunction
from .core import as_tensor

if TYPE_CHECKING:
    from ..tensor import Tensor


class Unfold(ArrayFunction):
    """(N, C, H, W) -> (N, C kh kw, L)."""

    @staticmethod
    def forward(ctx: Any, x: np.ndarray, geometry: tuple) -> np.ndarray:
        ctx.how = x.shape[2:], geometry
        return _unfold(x, geometry)

    @staticmethod
    def backward(ctx: Any, grad: np.ndarray) -> np.ndarray:
        size, geometry = ctx.how
        return _fold(grad, size, geometry)


class Fold(ArrayFunction):
    """(N, C kh kw, L) -> (N, C, H, W), overlapping elements added."""

    @staticmethod
    def forward(ctx: Any, x: np.ndarray, size: tuple, geometry: tuple) -> np.ndarray:
        ctx.geometry = geometry
        return _fold(x, size, geometry)

    @staticmethod
    def backward(ctx: Any, grad: np.ndarray) -> np.ndarray:
        return _unfold(grad, ctx.geometry)


def _counts(size: tuple, geometry: tuple) -> tuple[int, ...]:
    """How many positions the patch has along each dimension."""
    return tuple(
        [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, (k, d, p, s) in zip(size, geometry, strict=True)]
    )


def _windows(padded: np.ndarray, counts: tuple, geometry: tuple) -> Any:
    """For every element (i, j) of the patch, the view of all its positions in the image."""
    (kh, dh, _, sh), (kw, dw, _, sw) = geometry
    for i in range(kh):
        for j in range(kw):
            rows = slice(i * dh, i * dh + (counts[0] - 1) * sh + 1, sh)
            columns = slice(j * dw, j * dw + (counts[1] - 1) * sw + 1, sw)
            yield i, j, padded[:, :, rows, columns]


def _unfold(x: np.ndarray, geometry: tuple) -> np.ndarray:
    n, c = x.shape[:2]
    counts = _counts(x.shape[2:], geometry)
    (kh, _, ph, _), (kw, _, pw, _) = geometry
    padded = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    y = np.empty((n, c, kh, kw, *counts), x.dtype)
    for i, j, window in _windows(padded, counts, geometry):
        y[:, :, i, j] = window
    return y.reshape(n, c * kh * kw, -1)


def _fold(columns: np.ndarray, size: tuple, geometry: tuple) -> np.ndarray:
    counts = _counts(size, geometry)
    (kh, _, ph, _), (kw, _, pw, _) = geometry
    n, c = columns.shape[0], columns.shape[1] // (kh * kw)
    columns = columns.reshape(n, c, kh, kw, *counts)
    padded = np.zeros((n, c, size[0] + 2 * ph, size[1] + 2 * pw), columns.dtype)
    for i, j, window in _windows(padded, counts, geometry):
        window += columns[:, :, i, j]
    return padded[:, :, ph : ph + size[0], pw : pw + size[1]]


def _geometry(op: str, kernel_size: Any, dilation: Any, padding: Any, stride: Any) -> tuple:
    named = {"kernel_size": kernel_size, "dilation": dilation, "padding": padding, "stride": stride}
    pairs = []
    for name, value in named.items():
        pair = (value, value) if isinstance(value, int | np.integer) else value
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ValueError(f"{op}: expected an int or two for {name}, got {value!r}")
        if min(pair) < (name != "padding"):
            raise ValueError(f"{op}: {name} is too small: {value!r}")
        pairs.append(tuple(pair))
    return tuple(zip(*pairs, strict=True))


def unfold(input: Tensor, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Tensor:
    """Patches of a (N, C, H, W) or (C, H, W) input as columns: (N, C kh kw, L) with one column per position.

    Raises ValueError for another number of dimensions, or where no patch fits.

    >>> import fastdl
    >>> import fastdl.nn.functional as F
    >>> F.unfold(fastdl.ones(1, 1, 3, 3), 2).shape
    (1, 4, 4)
    """
    geometry = _geometry("unfold", kernel_size, dilation, padding, stride)
    input = as_tensor(input)
    shape = input._data.shape
    if len(shape) not in (3, 4):
        raise ValueError(f"unfold: expected 3 or 4 dimensions, got shape {shape}")
    if min(_counts(shape[-2:], geometry)) < 1:
        raise ValueError(f"unfold: no patch of {kernel_size} (dilation {dilation}) fits into {shape[-2:]}")
    if len(shape) == 3:
        return Unfold.apply(input.unsqueeze(0), geometry).squeeze(0)
    return Unfold.apply(input, geometry)


def fold(
    input: Tensor, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> Tensor:
    """The sum of patches put back in their places: (N, C kh kw, L) -> (N, C, *output_size). The transpose of
    `unfold`.

    Raises ValueError where the shapes do not belong together.
    """
    geometry = _geometry("fold", kernel_size, dilation, padding, stride)
    size = _geometry("fold", output_size, 1, 0, 1)
    size = (size[0][0], size[1][0])
    input = as_tensor(input)
    shape = input._data.shape
    if len(shape) not in (2, 3):
        raise ValueError(f"fold: expected 2 or 3 dimensions, got shape {shape}")
    counts = _counts(size, geometry)
    patch = geometry[0][0] * geometry[1][0]
    if min(counts) < 1 or shape[-2] % patch or shape[-1] != counts[0] * counts[1]:
        raise ValueError(
            f"fold: expected (..., a multiple of {patch}, {max(counts[0], 0) * max(counts[1], 0)}) "
            f"for output_size {size}, got shape {shape}"
        )
    if len(shape) == 2:
        return Fold.apply(input.unsqueeze(0), size, geometry).squeeze(0)
    return Fold.apply(input, size, geometry)
