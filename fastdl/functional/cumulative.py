"""Running sums, products and extremes; differences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd import ArrayFunction, is_float, wrap
from .core import normalize_dim, numpy_names_widened, widened
from .reduction import ValuesIndices, _pick, _summand

if TYPE_CHECKING:
    from ..tensor import Tensor


class CumSum(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, x: Any, axis: int) -> Any:
        ctx.axis = axis
        if x.dtype.itemsize == 2 and is_float(x.dtype):
            return np.cumsum(x, axis, np.float32).astype(x.dtype)
        return np.cumsum(x, axis)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return np.flip(np.cumsum(np.flip(grad, ctx.axis), ctx.axis), ctx.axis)


class CumProd(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, x: Any, axis: int) -> Any:
        y = np.cumprod(x, axis)
        ctx.save(x, y)
        ctx.axis = axis
        return y

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        x, y = ctx.saved
        if x.all():
            return np.flip(np.cumsum(np.flip(grad * y, ctx.axis), ctx.axis), ctx.axis) / x
        # With a zero: dy_j/dx_i is the product of the others up to j, one i at a time.
        moved, g = np.moveaxis(x, ctx.axis, -1), np.moveaxis(grad, ctx.axis, -1)
        out = np.empty_like(moved)
        for i in range(moved.shape[-1]):
            others = moved.copy()
            others[..., i] = 1
            out[..., i] = (np.cumprod(others, -1)[..., i:] * g[..., i:]).sum(-1)
        return np.moveaxis(out, -1, ctx.axis)


@numpy_names_widened
def cumsum(input: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """Running sums along ``dim``."""
    input = _summand(input, dtype)
    axis = normalize_dim("cumsum", dim, input._data.ndim)
    return CumSum.apply(input, axis) if input._data.ndim else input + 0


@numpy_names_widened
def cumprod(input: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """Running products along ``dim``."""
    input = _summand(input, dtype)
    axis = normalize_dim("cumprod", dim, input._data.ndim)
    return CumProd.apply(input, axis) if input._data.ndim else input + 0


def _accumulated(function: Any, x: Any, axis: int) -> Any:
    """Running extremes. CuPy has no ufunc.accumulate for them: there, runs of twice the length in every step."""
    if x.__class__ is np.ndarray:
        return function.accumulate(x, axis)
    moved = np.moveaxis(x.copy(), axis, -1)
    step = 1
    while step < moved.shape[-1]:
        moved[..., step:] = function(moved[..., step:], moved[..., :-step])
        step *= 2
    return np.moveaxis(moved, -1, axis)


def _running(name: str, function: Any, input: Tensor, dim: int) -> Any:
    x = input._data
    axis = normalize_dim(name, dim, x.ndim)
    if not x.ndim:
        return _pick(input, x, 0, False)
    best = _accumulated(function, x, axis)
    positions = np.arange(x.shape[axis], like=x).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    hit = (x == best) | (np.isnan(x) if is_float(x.dtype) else False)
    indices = _accumulated(np.maximum, np.where(hit, positions, 0), axis)
    from .gather import gather

    return ValuesIndices(gather(input, axis, wrap(indices)), wrap(indices))


@widened
def cummax(input: Tensor, dim: int) -> Any:
    """(values, indices) of running maxima along ``dim``."""
    return _running("cummax", np.maximum, input, dim)


@widened
def cummin(input: Tensor, dim: int) -> Any:
    """(values, indices) of running minima along ``dim``."""
    return _running("cummin", np.minimum, input, dim)


def diff(input: Tensor, n: int = 1, dim: int = -1) -> Tensor:
    """Differences of neighbours along ``dim``, ``n`` times over."""
    for _ in range(n):
        axis = normalize_dim("diff", dim, input._data.ndim)
        size = input._data.shape[axis]
        input = input.narrow(axis, 1, size - 1) - input.narrow(axis, 0, size - 1) if size else input
    return input
