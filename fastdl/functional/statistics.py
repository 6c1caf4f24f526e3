"""Moments, norms, medians and counts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd import ArrayFunction, TensorBase, is_float, wrap
from ..backend import as_array
from ..dtypes import as_dtype
from .core import as_tensor, cast, float32_in_autocast, normalize_dim, numpy_names_widened, widened
from .reduction import _add, _count, _no_empty, _pick, amax, amin, axes_of, mean, spread

if TYPE_CHECKING:
    from ..tensor import Tensor


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
        return as_array(squares / divisor if divisor else squares / x.dtype.type(0)).astype(
            x.dtype, copy=False
        )

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        (centred,) = ctx.saved
        scaled = as_array(grad * 2 / grad.dtype.type(ctx.divisor))
        return (spread(scaled, *ctx.how) * centred).astype(grad.dtype, copy=False)


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
        y = as_array(y).astype(x.dtype, copy=False)
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
            return spread(as_array(np.where(zero, 0, grad / np.where(zero, 1, y))), *ctx.how) * x
        scale = spread(as_array(np.where(zero, 0, grad / np.where(zero, 1, y) ** (p - 1))), *ctx.how)
        size = np.abs(x)
        gx = scale * np.sign(x) * np.where(size == 0, 1, size) ** (p - 1) * (size != 0)
        return gx.astype(grad.dtype, copy=False)


@numpy_names_widened
def median(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """The (lower) median of all elements; along ``dim`` (values, indices)."""
    x = input._data
    if dim is None:
        if not x.size:
            return wrap(np.full((), np.nan, x.dtype, like=x))
        return _pick(input.reshape(-1), *_middle(x.reshape(-1), 0), False).values
    axis = normalize_dim("median", dim, x.ndim)
    _no_empty("median", x, (axis,) if x.ndim else None)
    return _pick(input, *_middle(x, axis), keepdim)


def _middle(x: np.ndarray, axis: int) -> tuple[np.ndarray, int]:
    if not x.ndim:
        return np.zeros((), np.int64, like=x), 0
    order = np.argsort(x, axis, kind="stable")
    indices = np.take(order, (x.shape[axis] - 1) // 2, axis)
    if x.dtype.kind == "f":  # NaN sorts last, and the median of anything with NaN is NaN
        last = np.take(order, -1, axis)
        bad = np.isnan(np.take_along_axis(x, np.expand_dims(last, axis), axis)).squeeze(axis)
        indices = np.where(bad, np.isnan(x).argmax(axis), indices)
    return as_array(indices), axis


@widened
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


@numpy_names_widened
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


@numpy_names_widened
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


@numpy_names_widened
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


@numpy_names_widened
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


@numpy_names_widened
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


@widened
def dist(input: Tensor, other: Tensor, p: float = 2) -> Tensor:
    """The p-norm of ``input - other``."""
    return norm(input - other, p)


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


@float32_in_autocast
def quantile(input: Tensor, q: Any, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """The q-quantile (0 to 1; a number or vector, which becomes the first dimension), interpolated linearly."""
    x = input._data
    weights = np.asarray(q._data if isinstance(q, TensorBase) else q, x.dtype, like=x)
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


@widened
def histc(input: Tensor, bins: int = 100, min: float = 0, max: float = 0) -> Tensor:
    """Counts in ``bins`` equal bins from min to max (those of the data if both are 0), in the input's dtype."""
    x = input._data
    low, high = (x.min(), x.max()) if min == max == 0 and x.size else (min, max)
    if low == high:
        low, high = low - 1, high + 1
    return wrap(np.histogram(x, bins, (float(low), float(high)))[0].astype(x.dtype))
