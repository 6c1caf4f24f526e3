"""Reductions: sums, products, extremes, moments, norms. Two-byte floats are added up in float32."""

from __future__ import annotations

import math
from collections import namedtuple
from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd import ArrayFunction, TensorBase, is_float, wrap
from ..dtypes import as_dtype
from .arithmetic import maximum, minimum
from .core import as_tensor, cast, float_input, normalize_dim, numpy_names

if TYPE_CHECKING:
    from ..tensor import Tensor

_add: Any = np.add.reduce
_multiply: Any = np.multiply.reduce
_maximum: Any = np.maximum.reduce
_minimum: Any = np.minimum.reduce

#: What functions give that return elements and where they stood.
ValuesIndices = namedtuple("ValuesIndices", ["values", "indices"])
MinMax = namedtuple("MinMax", ["min", "max"])


def axes_of(name: str, dim: Any, ndim: int) -> Any:
    """NumPy axes from torch's ``dim``: None or () for all, an int or a tuple of ints, checked."""
    if dim is None:
        return None
    if isinstance(dim, int | np.integer):
        dim = (dim,)
    axes = tuple([normalize_dim(name, d, ndim) for d in dim])
    if len(set(axes)) != len(axes):
        raise ValueError(f"{name}: dim {dim} names a dimension twice")
    return axes if ndim and axes else None


def spread(grad: np.ndarray, shape: tuple, axes: Any, keepdim: bool) -> np.ndarray:
    """The gradient of a reduction, repeated over the reduced axes: a view that nobody may write to."""
    if axes is None and grad.dtype.kind == "f":  # many times faster than broadcast_to
        return np.ndarray(shape, grad.dtype, grad, 0, (0,) * len(shape))
    if axes is not None and not keepdim and shape:
        grad = np.expand_dims(grad, axes)
    return np.broadcast_to(grad, shape)


def total(x: np.ndarray, axes: Any, keepdim: bool) -> Any:
    """Sum of an array; two-byte floats are added up in float32."""
    if x.dtype.itemsize == 2 and is_float(x.dtype):
        return np.asarray(_add(x, axes, np.float32, None, keepdim)).astype(x.dtype)
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
            return (np.asarray(_add(x, axes, np.float32, None, keepdim)) / n).astype(x.dtype)
        return _add(x, axes, None, None, keepdim) / n

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return spread(np.asarray(grad / ctx.count), *ctx.how)


def _count(shape: tuple, axes: Any) -> int:
    return math.prod(shape if axes is None else [shape[i] for i in axes]) if shape else 1


class Prod(ArrayFunction):
    """The gradient multiplies all *other* elements (products from the left and from the right), so zeros are fine."""

    @staticmethod
    def forward(ctx: Any, x: Any, axis: Any, keepdim: bool) -> Any:
        ctx.save(x)
        ctx.how = axis, keepdim
        return np.asarray(_multiply(x, axis, keepdims=keepdim))

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        (x,) = ctx.saved
        axis, keepdim = ctx.how
        flat = x.reshape(1, -1) if axis is None else np.moveaxis(x, axis, -1)
        ones = np.ones((*flat.shape[:-1], 1), x.dtype)
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
        y = np.asarray(function(x, axes, keepdims=keepdim))
        ctx.save(x, y)
        ctx.how = x.shape, axes, keepdim
        return y

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        x, y = ctx.saved
        hit = x == spread(y, *ctx.how)
        share = np.asarray(grad / hit.sum(ctx.how[1], keepdims=ctx.how[2]).astype(grad.dtype))
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
        out = np.zeros(shape, grad.dtype)
        np.put_along_axis(out, indices, grad if keepdim else np.expand_dims(grad, axis), axis)
        return out


class Variance(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, x: Any, axes: Any, correction: Any, keepdim: bool) -> Any:
        wide = x.astype(np.float32) if x.dtype.itemsize == 2 else x
        n = _count(x.shape, axes)
        centred = wide - _add(wide, axes, keepdims=True) / (n or math.nan)
        divisor = n - correction if n > correction else 0
        ctx.how = x.shape, axes, keepdim
        ctx.divisor = divisor
        ctx.save(centred)
        squares = _add(centred * centred, axes, keepdims=keepdim)
        return np.asarray(squares / divisor if divisor else squares / x.dtype.type(0)).astype(
            x.dtype, copy=False
        )

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        (centred,) = ctx.saved
        scaled = np.asarray(grad * 2 / grad.dtype.type(ctx.divisor))
        return (spread(scaled, *ctx.how) * centred).astype(grad.dtype, copy=False)


class LogSumExp(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, x: Any, axes: Any, keepdim: bool) -> Any:
        if not x.size:
            top = np.zeros(_add(x, axes, keepdims=True).shape, x.dtype)
        else:
            top = _maximum(x, axes, keepdims=True)
            top = np.where(np.isfinite(top), top, x.dtype.type(0))
        kept = np.log(_add(np.exp(x - top), axes, keepdims=True)) + top
        ctx.save(x, kept)
        ctx.how = x.shape, axes, keepdim
        return kept if keepdim else np.asarray(kept.squeeze(axes))

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        x, kept = ctx.saved
        return spread(grad, *ctx.how) * np.exp(x - np.where(kept == -np.inf, x.dtype.type(0), kept))


class Norm(ArrayFunction):
    """(sum |x|^p)^(1/p); the gradient at a zero vector is 0 (a subgradient)."""

    @staticmethod
    def forward(ctx: Any, x: Any, p: float, axes: Any, keepdim: bool) -> Any:
        if p == 2:
            y = np.sqrt(_add(x * x, axes, keepdims=keepdim))
        elif p == 1:
            y = _add(np.abs(x), axes, keepdims=keepdim)
        elif p == 0:
            y = _add(x != 0, axes, x.dtype, keepdims=keepdim)
        else:
            y = _add(np.abs(x) ** p, axes, keepdims=keepdim) ** (1 / p)
        y = np.asarray(y).astype(x.dtype, copy=False)
        ctx.save(x, y)
        ctx.how = x.shape, axes, keepdim
        ctx.p = p
        return y

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        x, y = ctx.saved
        p = ctx.p
        if p == 0:
            return np.zeros_like(x)
        if p == 1:
            return spread(grad, *ctx.how) * np.sign(x)
        zero = y == 0
        if p == 2:
            return spread(np.asarray(np.where(zero, 0, grad / np.where(zero, 1, y))), *ctx.how) * x
        scale = spread(np.asarray(np.where(zero, 0, grad / np.where(zero, 1, y) ** (p - 1))), *ctx.how)
        size = np.abs(x)
        gx = scale * np.sign(x) * np.where(size == 0, 1, size) ** (p - 1) * (size != 0)
        return gx.astype(grad.dtype, copy=False)


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


# ------------------------------------------------------------------------------------------------------ functions

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


@numpy_names
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
def prod(input: Tensor, dim: int | None = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Product of all elements, or along one dimension."""
    input = _summand(input, dtype)
    if dim is None or not input._data.ndim:
        return Prod.apply(input, None, False)
    return Prod.apply(input, normalize_dim("prod", dim, input._data.ndim), keepdim)


def _no_empty(name: str, x: np.ndarray, axes: Any) -> None:
    if not x.size and _count(x.shape, axes) == 0:
        raise IndexError(f"{name}: expected a reduced dimension of non-zero size, got shape {x.shape}")


@numpy_names
def amax(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """Maximum over ``dim`` (int or tuple; all by default); equal maxima share the gradient; NaN wins."""
    axes = axes_of("amax", dim, input._data.ndim)
    _no_empty("amax", input._data, axes)
    return Extreme.apply(input, axes, keepdim, _maximum)


@numpy_names
def amin(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """Minimum over ``dim`` (int or tuple; all by default); equal minima share the gradient; NaN wins."""
    axes = axes_of("amin", dim, input._data.ndim)
    _no_empty("amin", input._data, axes)
    return Extreme.apply(input, axes, keepdim, _minimum)


def aminmax(input: Tensor, *, dim: int | None = None, keepdim: bool = False) -> Any:
    """(min, max) of all elements or along one dimension."""
    return MinMax(amin(input, dim, keepdim), amax(input, dim, keepdim))


def _pick(input: Tensor, indices: np.ndarray, axis: int, keepdim: bool) -> Any:
    if not input._data.ndim:
        return ValuesIndices(input + 0, wrap(np.zeros((), np.int64)))
    return ValuesIndices(*Pick.apply(input, np.expand_dims(indices, axis), axis, keepdim))


def _arg(name: str, function: Any, x: np.ndarray, dim: int) -> tuple[np.ndarray, int]:
    axis = normalize_dim(name, dim, x.ndim)
    _no_empty(name, x, (axis,) if x.ndim else None)
    return np.asarray(function(x, axis if x.ndim else None)), axis


@numpy_names
def max(input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """All elements' maximum; along ``dim`` (values, indices); with a second tensor the elementwise `maximum`."""
    if dim is None:
        return amax(input)
    if isinstance(dim, TensorBase):
        return maximum(input, dim)
    return _pick(input, *_arg("max", np.argmax, input._data, dim), keepdim)


@numpy_names
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
        out = np.asarray(function(x))
        return wrap(out.reshape((1,) * x.ndim) if keepdim else out)
    out, axis = _arg(name, function, x, dim)
    return wrap(np.expand_dims(out, axis) if keepdim and x.ndim else out)


@numpy_names
def argmax(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Index of the maximum, int64: in the flattened tensor, or along ``dim``. NaN counts as the maximum."""
    return _argument("argmax", np.argmax, input, dim, keepdim)


@numpy_names
def argmin(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Index of the minimum, int64: in the flattened tensor, or along ``dim``. NaN counts as the minimum."""
    return _argument("argmin", np.argmin, input, dim, keepdim)


@numpy_names
def median(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """The (lower) median of all elements; along ``dim`` (values, indices)."""
    x = input._data
    if dim is None:
        if not x.size:
            return wrap(np.full((), np.nan, x.dtype))
        return _pick(input.reshape(-1), *_middle(x.reshape(-1), 0), False).values
    axis = normalize_dim("median", dim, x.ndim)
    _no_empty("median", x, (axis,) if x.ndim else None)
    return _pick(input, *_middle(x, axis), keepdim)


def _middle(x: np.ndarray, axis: int) -> tuple[np.ndarray, int]:
    if not x.ndim:
        return np.zeros((), np.int64), 0
    order = np.argsort(x, axis, kind="stable")
    indices = np.take(order, (x.shape[axis] - 1) // 2, axis)
    if x.dtype.kind == "f":  # NaN sorts last, and the median of anything with NaN is NaN
        last = np.take(order, -1, axis)
        bad = np.isnan(np.take_along_axis(x, np.expand_dims(last, axis), axis)).squeeze(axis)
        indices = np.where(bad, np.isnan(x).argmax(axis), indices)
    return np.asarray(indices), axis


def kthvalue(input: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    """(values, indices) of the k-th smallest elements along ``dim`` (k from 1)."""
    x = input._data
    axis = normalize_dim("kthvalue", dim, x.ndim)
    n = x.shape[axis] if x.ndim else 1
    if not 1 <= k <= n:
        raise ValueError(f"kthvalue: expected k in 1..{n}, got {k}")
    if not x.ndim:
        return _pick(input, x, 0, keepdim)
    return _pick(input, np.take(np.argsort(x, axis, kind="stable"), k - 1, axis), axis, keepdim)


def _moments(name: str, input: Any, dim: Any, unbiased: Any, correction: Any) -> tuple[Any, Any, Any]:
    if isinstance(dim, bool):  # var(x, False) means unbiased=False
        dim, unbiased = None, dim
    if not is_float(input._data.dtype):
        raise TypeError(f"{name}: expected a floating-point tensor, got {input._data.dtype}")
    if correction is None:
        correction = 1 if unbiased is None or unbiased else 0
    return input, axes_of(name, dim, input._data.ndim), correction


@numpy_names
def var(
    input: Tensor,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: Any = None,
) -> Tensor:
    """Variance over ``dim`` (all by default), divided by n - ``correction`` (1, or 0 with ``unbiased=False``)."""
    x, axes, correction = _moments("var", input, dim, unbiased, correction)
    return Variance.apply(x, axes, correction, keepdim)


@numpy_names
def std(
    input: Tensor,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: Any = None,
) -> Tensor:
    """Standard deviation: the square root of `var`."""
    from .pointwise import sqrt

    return sqrt(var(input, dim, unbiased, keepdim, correction=correction))


@numpy_names
def var_mean(
    input: Tensor,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: Any = None,
) -> tuple[Tensor, Tensor]:
    """(`var`, `mean`)."""
    v = var(input, dim, unbiased, keepdim, correction=correction)
    return v, mean(input, None if isinstance(dim, bool) else dim, keepdim)


@numpy_names
def std_mean(
    input: Tensor,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: Any = None,
) -> tuple[Tensor, Tensor]:
    """(`std`, `mean`)."""
    s = std(input, dim, unbiased, keepdim, correction=correction)
    return s, mean(input, None if isinstance(dim, bool) else dim, keepdim)


@numpy_names
def logsumexp(input: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    """``log(sum(exp(input)))`` over ``dim`` without overflow."""
    input = float_input(input)
    return LogSumExp.apply(input, axes_of("logsumexp", dim, input._data.ndim), keepdim)


@numpy_names
def norm(input: Tensor, p: Any = "fro", dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    """The p-norm of the elements over ``dim`` (all by default); "fro" is p = 2, infinities give extremes."""
    input = cast(as_tensor(input), as_dtype(dtype)) if dtype is not None else as_tensor(input)
    if not is_float(input._data.dtype):
        raise TypeError(f"norm: expected a floating-point tensor, got {input._data.dtype}")
    if p is None or p == "fro":
        p = 2
    if isinstance(p, str):
        raise ValueError(f'norm: expected p to be a number or "fro", got {p!r}')
    if p in (math.inf, -math.inf):
        from .pointwise import abs

        return (amax if p > 0 else amin)(abs(input), dim, keepdim)
    return Norm.apply(input, p, axes_of("norm", dim, input._data.ndim), keepdim)


def dist(input: Tensor, other: Tensor, p: float = 2) -> Tensor:
    """The p-norm of ``input - other``."""
    return norm(input - other, p)


@numpy_names
def cumsum(input: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """Running sums along ``dim``."""
    input = _summand(input, dtype)
    axis = normalize_dim("cumsum", dim, input._data.ndim)
    return CumSum.apply(input, axis) if input._data.ndim else input + 0


@numpy_names
def cumprod(input: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """Running products along ``dim``."""
    input = _summand(input, dtype)
    axis = normalize_dim("cumprod", dim, input._data.ndim)
    return CumProd.apply(input, axis) if input._data.ndim else input + 0


def _running(name: str, function: Any, input: Tensor, dim: int) -> Any:
    x = input._data
    axis = normalize_dim(name, dim, x.ndim)
    if not x.ndim:
        return _pick(input, x, 0, False)
    best = function.accumulate(x, axis)
    positions = np.arange(x.shape[axis]).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    hit = (x == best) | (np.isnan(x) if is_float(x.dtype) else False)
    indices = np.maximum.accumulate(np.where(hit, positions, 0), axis)
    from .indexing import gather

    return ValuesIndices(gather(input, axis, wrap(indices)), wrap(indices))


def cummax(input: Tensor, dim: int) -> Any:
    """(values, indices) of running maxima along ``dim``."""
    return _running("cummax", np.maximum, input, dim)


def cummin(input: Tensor, dim: int) -> Any:
    """(values, indices) of running minima along ``dim``."""
    return _running("cummin", np.minimum, input, dim)


@numpy_names
def any(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """Whether any element is true (not zero), over ``dim`` (all by default)."""
    x = as_tensor(input)._data
    return wrap(np.asarray(np.any(x, axes_of("any", dim, x.ndim), keepdims=keepdim)))


@numpy_names
def all(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """Whether all elements are true (not zero), over ``dim`` (all by default)."""
    x = as_tensor(input)._data
    return wrap(np.asarray(np.all(x, axes_of("all", dim, x.ndim), keepdims=keepdim)))


@numpy_names
def count_nonzero(input: Tensor, dim: Any = None) -> Tensor:
    """The number of elements that are not zero, int64."""
    x = input._data
    return wrap(np.asarray(np.count_nonzero(x, axes_of("count_nonzero", dim, x.ndim)), np.int64))


def bincount(input: Tensor, weights: Any = None, minlength: int = 0) -> Tensor:
    """How often (or with what total weight) each non-negative integer occurs in a 1-d tensor."""
    x = input._data
    if x.ndim != 1 or x.dtype.kind not in "iu" or (x.size and x.min() < 0):
        raise ValueError(
            f"bincount: expected a 1-d tensor of non-negative integers, got {x.dtype} of shape {x.shape}"
        )
    if weights is None:
        return wrap(np.bincount(x, None, minlength))
    w = weights._data
    return wrap(np.bincount(x, w, minlength).astype(w.dtype if w.dtype == np.float32 else np.float64))


def nanmean(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """`mean` of the elements that are not NaN."""
    return nansum(input, dim, keepdim) / sum(wrap(~np.isnan(input._data)), dim, keepdim)


def diff(input: Tensor, n: int = 1, dim: int = -1) -> Tensor:
    """Differences of neighbours along ``dim``, ``n`` times over."""
    for _ in range(n):
        axis = normalize_dim("diff", dim, input._data.ndim)
        size = input._data.shape[axis]
        input = input.narrow(axis, 1, size - 1) - input.narrow(axis, 0, size - 1) if size else input
    return input


def quantile(input: Tensor, q: Any, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """The q-quantile (0 to 1; a number or vector, which becomes the first dimension), interpolated linearly."""
    x = input._data
    weights = np.asarray(q._data if isinstance(q, TensorBase) else q, x.dtype)
    if weights.ndim > 1 or (weights.size and not (weights.min() >= 0 and weights.max() <= 1)):
        raise ValueError("quantile: expected q in [0, 1], a number or a vector")
    axis = 0 if dim is None else normalize_dim("quantile", dim, x.ndim)
    ordered = (input.reshape(-1) if dim is None else input).sort(axis).values
    place = weights.reshape(-1) * x.dtype.type(ordered._data.shape[axis] - 1)
    low = np.floor(place).astype(np.int64)
    column = [-1 if i == axis else 1 for i in range(ordered._data.ndim)]
    share = wrap((place - low).astype(x.dtype).reshape(column))
    high = np.minimum(low + 1, ordered._data.shape[axis] - 1)
    y = ordered.index_select(axis, wrap(low)).lerp(ordered.index_select(axis, wrap(high)), share)
    y = y.movedim(axis, 0)
    if keepdim:
        y = y.unsqueeze(axis + 1) if dim is not None else y.reshape((-1,) + (1,) * x.ndim)
    return y if weights.ndim else y[0]


def histc(input: Tensor, bins: int = 100, min: float = 0, max: float = 0) -> Tensor:
    """Counts in ``bins`` equal bins from min to max (those of the data if both are 0), in the input's dtype."""
    x = input._data
    low, high = (x.min(), x.max()) if min == max == 0 and x.size else (min, max)
    if low == high:
        low, high = low - 1, high + 1
    return wrap(np.histogram(x, bins, (float(low), float(high)))[0].astype(x.dtype))
