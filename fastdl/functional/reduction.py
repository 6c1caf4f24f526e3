"""Reductions: sums, products, extremes, moments, norms. Two-byte floats are added up in float32."""

from __future__ import annotations

import math
from collections import namedtuple
from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd import ArrayFunction, TensorBase, is_float, wrap
from ..backend import as_array
from ..dtypes import as_dtype
from .comparison import maximum, minimum
from .core import (
    as_tensor,
    cast,
    float32_in_autocast,
    float_input,
    normalize_dim,
    numpy_names,
    numpy_names_widened,
    widened,
)

if TYPE_CHECKING:
    from ..tensor import Tensor

_add: Any = np.add.reduce
_multiply: Any = np.multiply.reduce


def _maximum(x: Any, axes: Any, keepdims: bool) -> Any:
    return x.max(axes, keepdims=keepdims)


def _minimum(x: Any, axes: Any, keepdims: bool) -> Any:
    return x.min(axes, keepdims=keepdims)


#: What functions give that return elements and where they stood.
ValuesIndices = namedtuple("ValuesIndices", ["values", "indices"])
MinMax = namedtuple("MinMax", ["min", "max"])


def axes_of(name: str, dim: Any, ndim: int) -> Any:
    """NumPy axes from torch's ``dim``: None or () for all, an int or a tuple of ints, checked."""
    if dim is None:
        return None
    if isinstance(dim, int | np.integer):
        dim = (dim,)
    elif not isinstance(dim, tuple | list):
        raise TypeError(f"{name}: expected dim to be an integer or a tuple of them, got {type(dim).__name__}")
    axes = tuple([normalize_dim(name, d, ndim) for d in dim])
    if len(set(axes)) != len(axes):
        raise ValueError(f"{name}: dim {dim} names a dimension twice")
    return axes if ndim and axes else None


def spread(grad: np.ndarray, shape: tuple, axes: Any, keepdim: bool) -> np.ndarray:
    """The gradient of a reduction, repeated over the reduced axes: a view that nobody may write to."""
    if (
        axes is None and grad.dtype.kind == "f" and grad.__class__ is np.ndarray
    ):  # many times faster than broadcast_to
        return np.ndarray(shape, grad.dtype, grad, 0, (0,) * len(shape))
    if axes is not None and not keepdim and shape:
        grad = np.expand_dims(grad, axes)
    return np.broadcast_to(grad, shape)


def total(x: np.ndarray, axes: Any, keepdim: bool) -> Any:
    """Sum of an array; two-byte floats are added up in float32."""
    if x.dtype.itemsize == 2 and is_float(x.dtype):
        return as_array(_add(x, axes, np.float32, None, keepdim)).astype(x.dtype)
    return _add(x, axes, None, None, keepdim)


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
        n = x.size if axes is None else _count(x.shape, axes)
        ctx.count = n = n or math.nan
        if x.dtype.itemsize == 2:
            return (as_array(_add(x, axes, np.float32, None, keepdim)) / n).astype(x.dtype)
        return _add(x, axes, None, None, keepdim) / n

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        if grad.dtype.itemsize == 2:  # a count may have more digits than bfloat16 holds
            return spread((grad.astype(np.float32) / ctx.count).astype(grad.dtype), *ctx.how)
        return spread(as_array(grad / ctx.count), *ctx.how)


def _count(shape: tuple, axes: Any) -> int:
    return math.prod(shape if axes is None else [shape[i] for i in axes]) if shape else 1


class Prod(ArrayFunction):
    """The gradient multiplies all *other* elements (products from the left and from the right), so zeros are fine."""

    autocast = "float32"

    @staticmethod
    def forward(ctx: Any, x: Any, axis: Any, keepdim: bool) -> Any:
        ctx.save(x)
        ctx.how = axis, keepdim
        return as_array(_multiply(x, axis, keepdims=keepdim))

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        (x,) = ctx.saved
        axis, keepdim = ctx.how
        flat = x.reshape(1, -1) if axis is None else np.moveaxis(x, axis, -1)
        ones = np.ones((*flat.shape[:-1], 1), x.dtype, like=x)
        left = np.cumprod(np.concatenate([ones, flat[..., :-1]], -1), -1)
        right = np.cumprod(np.concatenate([ones, flat[..., :0:-1]], -1), -1)[..., ::-1]
        others = left * right if flat.shape[-1] else flat
        if axis is None:
            return grad.reshape(()) * others.reshape(x.shape)
        return (np.expand_dims(grad, axis) if not keepdim else grad) * np.moveaxis(others, -1, axis)


class Extreme(ArrayFunction):
    """amax / amin: equal extremes share the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Any, axes: Any, keepdim: bool, function: Any) -> Any:
        y = as_array(function(x, axes, keepdims=keepdim))
        ctx.save(x, y)
        ctx.how = x.shape, axes, keepdim
        return y

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        x, y = ctx.saved
        hit = x == spread(y, *ctx.how)
        share = as_array(grad / hit.sum(ctx.how[1], keepdims=ctx.how[2]).astype(grad.dtype))
        return hit * spread(share, *ctx.how)


class Pick(ArrayFunction):
    """The elements at ``indices`` (with the reduced axis kept), and those indices: max, min, median, kthvalue."""

    @staticmethod
    def forward(ctx: Any, x: Any, indices: Any, axis: int, keepdim: bool) -> Any:
        ctx.how = x.shape, indices, axis, keepdim
        y = np.take_along_axis(x, indices, axis)
        return (y, indices) if keepdim else (y.squeeze(axis), indices.squeeze(axis))

    @staticmethod
    def backward(ctx: Any, grad: Any, _: Any) -> Any:
        shape, indices, axis, keepdim = ctx.how
        out = np.zeros(shape, grad.dtype, like=grad)
        np.put_along_axis(out, indices, grad if keepdim else np.expand_dims(grad, axis), axis)
        return out


class LogSumExp(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, x: Any, axes: Any, keepdim: bool) -> Any:
        if not x.size:
            top = np.zeros(_add(x, axes, keepdims=True).shape, x.dtype, like=x)
        else:
            top = _maximum(x, axes, keepdims=True)
            top = np.where(np.isfinite(top), top, x.dtype.type(0))
        kept = np.log(_add(np.exp(x - top), axes, keepdims=True)) + top
        ctx.save(x, kept)
        ctx.how = x.shape, axes, keepdim
        return kept if keepdim else as_array(kept.squeeze(axes))

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        x, kept = ctx.saved
        return spread(grad, *ctx.how) * np.exp(x - np.where(kept == -np.inf, x.dtype.type(0), kept))


_WIDE = np.dtype(np.int64)


def _summand(input: Any, dtype: Any) -> Any:
    input = as_tensor(input)
    if dtype is not None:
        return cast(input, as_dtype(dtype))
    if input._data.dtype.kind in "iub":
        return cast(input, _WIDE)
    return input


@numpy_names
def sum(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Sum over ``dim`` (int or tuple; all by default). Integers and bools add up in int64."""
    if dtype is not None or input._data.dtype.kind != "f":
        input = _summand(input, dtype)
    return Sum.apply(input, None if dim is None else axes_of("sum", dim, input._data.ndim), keepdim)


@numpy_names_widened
def nansum(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """`sum` with NaN counted as zero."""
    from .pointwise import where

    return sum(where(wrap(np.isnan(input._data)), 0, input), dim, keepdim, dtype=dtype)


@numpy_names
def mean(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Mean over ``dim`` (int or tuple; all by default). Raises TypeError for integers unless ``dtype`` is given."""
    if dtype is not None:
        input = cast(as_tensor(input), as_dtype(dtype))
    if input._data.dtype.kind != "f" and not is_float(input._data.dtype):
        raise TypeError(f"mean: expected a floating-point tensor, got {input._data.dtype}; pass dtype=")
    return Mean.apply(input, None if dim is None else axes_of("mean", dim, input._data.ndim), keepdim)


@numpy_names
@float32_in_autocast
def prod(input: Tensor, dim: int | None = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Product of all elements, or along one dimension."""
    input = _summand(input, dtype)
    if dim is None or not input._data.ndim:
        return Prod.apply(input, None, False)
    return Prod.apply(input, normalize_dim("prod", dim, input._data.ndim), keepdim)


def _no_empty(name: str, x: np.ndarray, axes: Any) -> None:
    if not x.size and _count(x.shape, axes) == 0:
        raise IndexError(f"{name}: expected a reduced dimension of non-zero size, got shape {x.shape}")


@numpy_names_widened
def amax(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """Maximum over ``dim`` (int or tuple; all by default); equal maxima share the gradient; NaN wins."""
    axes = axes_of("amax", dim, input._data.ndim)
    _no_empty("amax", input._data, axes)
    return Extreme.apply(input, axes, keepdim, _maximum)


@numpy_names_widened
def amin(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """Minimum over ``dim`` (int or tuple; all by default); equal minima share the gradient; NaN wins."""
    axes = axes_of("amin", dim, input._data.ndim)
    _no_empty("amin", input._data, axes)
    return Extreme.apply(input, axes, keepdim, _minimum)


@widened
def aminmax(input: Tensor, *, dim: int | None = None, keepdim: bool = False) -> Any:
    """(min, max) of all elements or along one dimension."""
    return MinMax(amin(input, dim, keepdim), amax(input, dim, keepdim))


def _pick(input: Tensor, indices: np.ndarray, axis: int, keepdim: bool) -> Any:
    if not input._data.ndim:
        return ValuesIndices(input + 0, wrap(np.zeros((), np.int64, like=input._data)))
    return ValuesIndices(*Pick.apply(input, np.expand_dims(indices, axis), axis, keepdim))


def _arg(name: str, function: Any, x: np.ndarray, dim: int) -> tuple[np.ndarray, int]:
    axis = normalize_dim(name, dim, x.ndim)
    _no_empty(name, x, (axis,) if x.ndim else None)
    return as_array(function(x, axis if x.ndim else None)), axis


@numpy_names_widened
def max(input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """All elements' maximum; along ``dim`` (values, indices); with a second tensor the elementwise `maximum`."""
    if dim is None:
        return amax(input)
    if isinstance(dim, TensorBase):
        return maximum(input, dim)
    return _pick(input, *_arg("max", np.argmax, input._data, dim), keepdim)


@numpy_names_widened
def min(input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """All elements' minimum; along ``dim`` (values, indices); with a second tensor the elementwise `minimum`."""
    if dim is None:
        return amin(input)
    if isinstance(dim, TensorBase):
        return minimum(input, dim)
    return _pick(input, *_arg("min", np.argmin, input._data, dim), keepdim)


def _argument(name: str, function: Any, input: Any, dim: int | None, keepdim: bool) -> Tensor:
    x = as_tensor(input)._data
    if dim is None:
        _no_empty(name, x, None)
        out = as_array(function(x))
        return wrap(out.reshape((1,) * x.ndim) if keepdim else out)
    out, axis = _arg(name, function, x, dim)
    return wrap(np.expand_dims(out, axis) if keepdim and x.ndim else out)


@numpy_names_widened
def argmax(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Index of the maximum, int64: in the flattened tensor, or along ``dim``. NaN counts as the maximum."""
    return _argument("argmax", np.argmax, input, dim, keepdim)


@numpy_names_widened
def argmin(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Index of the minimum, int64: in the flattened tensor, or along ``dim``. NaN counts as the minimum."""
    return _argument("argmin", np.argmin, input, dim, keepdim)


@numpy_names_widened
def logsumexp(input: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    """``log(sum(exp(input)))`` over ``dim`` without overflow."""
    input = float_input(input)
    return LogSumExp.apply(input, axes_of("logsumexp", dim, input._data.ndim), keepdim)


@numpy_names
def any(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """Whether any element is true (not zero), over ``dim`` (all by default)."""
    x = as_tensor(input)._data
    return wrap(as_array(np.any(x, axes_of("any", dim, x.ndim), keepdims=keepdim)))


@numpy_names
def all(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """Whether all elements are true (not zero), over ``dim`` (all by default)."""
    x = as_tensor(input)._data
    return wrap(as_array(np.all(x, axes_of("all", dim, x.ndim), keepdims=keepdim)))


@numpy_names
def count_nonzero(input: Tensor, dim: Any = None) -> Tensor:
    """The number of elements that are not zero, int64."""
    x = input._data
    return wrap(np.asarray(np.count_nonzero(x, axes_of("count_nonzero", dim, x.ndim)), np.int64, like=x))


@widened
def nanmean(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """`mean` of the elements that are not NaN."""
    return nansum(input, dim, keepdim) / sum(wrap(~np.isnan(input._data)), dim, keepdim)
