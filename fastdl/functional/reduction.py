"""Reductions. Two-byte floats are summed in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd import ArrayFunction, is_float
from ..dtypes import as_dtype
from .core import as_tensor, cast, normalize_dim

if TYPE_CHECKING:
    from ..tensor import Tensor


def axes_of(name: str, dim: Any, ndim: int) -> Any:
    """NumPy axes from torch's ``dim``: None or () for all, an int or a tuple of ints, checked."""
    if dim is None or dim == ():
        return None
    if isinstance(dim, int):
        dim = (dim,)
    axes = tuple([normalize_dim(name, d, ndim) for d in dim])
    if len(set(axes)) != len(axes):
        raise RuntimeError(f"{name}: dim {dim} names a dimension twice")
    return axes if ndim else None


def spread(grad: np.ndarray, shape: tuple, axes: Any, keepdim: bool) -> np.ndarray:
    """The gradient of a reduction, repeated over the reduced axes (a read-only view)."""
    if axes is not None and not keepdim:
        grad = np.expand_dims(grad, axes)
    return np.broadcast_to(grad, shape)


def total(x: np.ndarray, axes: Any, keepdim: bool) -> np.ndarray:
    """Sum of an array; two-byte floats are added up in float32."""
    if x.dtype.itemsize == 2 and is_float(x.dtype):
        return np.asarray(x.sum(axes, np.float32, keepdims=keepdim)).astype(x.dtype)
    return np.asarray(x.sum(axes, keepdims=keepdim))


class Sum(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, x: Any, axes: Any, keepdim: bool) -> Any:
        ctx.how = x.shape, axes, keepdim
        return total(x, axes, keepdim)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return spread(grad, *ctx.how)


class Mean(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, x: Any, axes: Any, keepdim: bool) -> Any:
        ctx.how = x.shape, axes, keepdim
        y = total(x, axes, keepdim)
        ctx.scale = y.size / x.size if x.size else float("nan") if y.size else 1.0
        if not x.size:
            return y * x.dtype.type("nan")
        return y * x.dtype.type(ctx.scale) if y.dtype.itemsize == 2 else y / (x.size // (y.size or 1))

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return spread(np.asarray(grad * grad.dtype.type(ctx.scale)), *ctx.how)


def sum(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Sum over ``dim`` (int or tuple; all by default). Integers and bools add up in int64."""
    input = as_tensor(input)
    if dtype is not None:
        input = cast(input, as_dtype(dtype))
    elif input._data.dtype.kind in "iub" and input._data.dtype.itemsize < 8:
        input = cast(input, np.dtype(np.int64))
    return Sum.apply(input, None if dim is None else axes_of("sum", dim, input._data.ndim), keepdim)


def mean(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Mean over ``dim`` (int or tuple; all by default). Raises TypeError for integers unless ``dtype`` is given."""
    input = as_tensor(input)
    if dtype is not None:
        input = cast(input, as_dtype(dtype))
    if not is_float(input._data.dtype):
        raise TypeError(f"mean: expected a floating-point tensor, got {input._data.dtype}; pass dtype=")
    return Mean.apply(input, None if dim is None else axes_of("mean", dim, input._data.ndim), keepdim)
