"""Triangles and diagonals of matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd import ArrayFunction, wrap
from .core import (
    View,
    normalize_dim,
)

if TYPE_CHECKING:
    from ..tensor import Tensor


class Triangle(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, x: Any, function: Any, k: int) -> Any:
        ctx.how = function, k
        return function(x, k)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        function, k = ctx.how
        return function(grad, k)


def _matrix(name: str, input: Tensor) -> Tensor:
    if input._data.ndim < 2:
        raise ValueError(f"{name}: expected at least 2 dimensions, got shape {input._data.shape}")
    return input


def tril(input: Tensor, diagonal: int = 0) -> Tensor:
    """The lower triangle of matrices, zero above ``diagonal``."""
    return Triangle.apply(_matrix("tril", input), np.tril, diagonal)


def triu(input: Tensor, diagonal: int = 0) -> Tensor:
    """The upper triangle of matrices, zero below ``diagonal``."""
    return Triangle.apply(_matrix("triu", input), np.triu, diagonal)


def tril_indices(row: int, col: int, offset: int = 0) -> Tensor:
    """Row and column indices of a lower triangle: (2, count)."""
    return wrap(np.stack(np.tril_indices(row, offset, col)).astype(np.int64))


def triu_indices(row: int, col: int, offset: int = 0) -> Tensor:
    """Row and column indices of an upper triangle: (2, count)."""
    return wrap(np.stack(np.triu_indices(row, offset, col)).astype(np.int64))


class Diagonal(View):
    @staticmethod
    def forward(ctx: Any, x: Any, offset: int, a: int, b: int) -> Any:
        ctx.how = x.shape, offset, a, b
        y = np.diagonal(x, offset, a, b)
        if isinstance(x, np.ndarray) and x.flags.writeable:
            y.flags.writeable = True  # NumPy hands out a read-only view of writable memory
        return y

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        shape, offset, a, b = ctx.how
        out = np.zeros(shape, grad.dtype, like=grad)
        Diagonal.forward(ctx, out, offset, a, b)[...] = grad
        return out


def diagonal(input: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """The diagonal over two dimensions, as a last dimension: a view."""
    n = input._data.ndim
    a, b = normalize_dim("diagonal", dim1, n), normalize_dim("diagonal", dim2, n)
    if a == b:
        raise ValueError(f"diagonal: expected two different dimensions, got {dim1} and {dim2}")
    return Diagonal.apply(input, offset, a, b)


def diag(input: Tensor, diagonal: int = 0) -> Tensor:
    """A matrix's diagonal, or the matrix with a vector as its diagonal."""
    n = input._data.ndim
    if n == 1:
        return diag_embed(input, diagonal)
    if n != 2:
        raise ValueError(f"diag: expected 1 or 2 dimensions, got {n}")
    return Diagonal.apply(input, diagonal, 0, 1)


class DiagEmbed(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, x: Any, offset: int, a: int, b: int) -> Any:
        ctx.how = offset, a, b
        n = x.shape[-1] + abs(offset)
        out = np.zeros((*x.shape[:-1], n, n), x.dtype, like=x)
        i = np.arange(x.shape[-1])
        out[..., i + max(-offset, 0), i + max(offset, 0)] = x
        return np.moveaxis(out, (-2, -1), (a, b))

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return np.diagonal(grad, *ctx.how)


def diag_embed(input: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """Matrices with the last dimension of ``input`` as their diagonals."""
    n = input._data.ndim + 1
    a, b = normalize_dim("diag_embed", dim1, n), normalize_dim("diag_embed", dim2, n)
    if a == b:
        raise ValueError(f"diag_embed: expected two different dimensions, got {dim1} and {dim2}")
    return DiagEmbed.apply(input, offset, a, b)
