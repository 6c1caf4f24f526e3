"""Powers, and other smooth functions of two operands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd import ArrayFunction, TensorBase
from .arithmetic import _both, _either, _float_pair, unbroadcast_both
from .core import as_tensor, promote, unbroadcast

if TYPE_CHECKING:
    from ..tensor import Tensor


def _saved(ctx: Any, a: Any, b: Any, y: Any) -> Any:
    """y, with what backward takes kept."""
    ctx.save(a, b, y)
    ctx.shapes = a.shape, b.shape
    return y


class Pow(ArrayFunction):
    """Gradient of x ** 0 is 0, also at x = 0."""

    @staticmethod
    def forward(ctx: Any, a: Any, b: Any) -> Any:
        y = a**b
        return _saved(ctx, a, b, y) if ctx.inputs else y

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        a, b, y = ctx.saved
        zero = grad.dtype.type(0)
        ga = gb = None
        if ctx.needs[0]:
            ga = np.where(b == 0, zero, grad * b * a ** (b - 1))
        if ctx.needs[1]:
            gb = np.where((a == 0) & (b >= 0), zero, grad * y * np.log(a))
        return unbroadcast_both(ctx, ga, gb)


class PowNumber(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, x: Any, number: Any) -> Any:
        ctx.save(x)
        ctx.number = number
        return x**number

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        (x,) = ctx.saved
        n = ctx.number
        if n == 2:
            return grad * (x * 2)
        return np.zeros_like(x) if n == 0 else grad * (n * x ** (n - 1))


class NumberPow(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, x: Any, number: Any) -> Any:
        y = number**x
        ctx.save(x, y)
        ctx.number = number
        return y

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        x, y = ctx.saved
        if ctx.number == 0:
            return np.where(x >= 0, 0, grad * y * -np.inf)
        return grad * y * np.log(grad.dtype.type(ctx.number))


class Atan2(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, a: Any, b: Any) -> Any:
        ctx.shapes = a.shape, b.shape
        ctx.save(a, b)
        return np.arctan2(a, b)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        a, b = ctx.saved
        sa, sb = ctx.shapes
        na, nb = ctx.needs
        g = grad / (a * a + b * b)
        return na and unbroadcast(g * b, sa), nb and unbroadcast(-g * a, sb)


class LogAddExp(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, a: Any, b: Any) -> Any:
        return _saved(ctx, a, b, np.logaddexp(a, b))

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        a, b, y = ctx.saved
        return unbroadcast_both(ctx, grad * np.exp(a - y), grad * np.exp(b - y))


class Hypot(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, a: Any, b: Any) -> Any:
        return _saved(ctx, a, b, np.hypot(a, b))

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        a, b, y = ctx.saved
        return unbroadcast_both(ctx, grad * a / y, grad * b / y)


def pow(input: Any, exponent: Any) -> Tensor:
    """``input ** exponent``. Raises RuntimeError for integers to negative integer powers."""
    number = exponent.__class__ is int or exponent.__class__ is float
    if number and isinstance(input, TensorBase) and input._data.dtype.kind == "f":
        return PowNumber.apply(input, exponent)
    a, b = promote("pow", input, exponent)
    base_dtype = (a if isinstance(a, TensorBase) else b)._data.dtype
    if base_dtype.kind in "iu":
        e = b._data if isinstance(b, TensorBase) else np.asarray(b)
        if (e < 0).any():
            raise RuntimeError("pow: integers to negative integer powers are not allowed")
    return _either("pow", a, b, Pow, PowNumber, NumberPow)


def rpow(input: Tensor, other: Any) -> Tensor:
    """``other ** input``."""
    return pow(other, input)


def logaddexp(input: Tensor, other: Any) -> Tensor:
    """``log(exp(input) + exp(other))`` without overflow."""
    a, b = _float_pair("logaddexp", input, other)
    return _both("logaddexp", LogAddExp, as_tensor(a), as_tensor(b))


def hypot(input: Tensor, other: Any) -> Tensor:
    """``sqrt(input ** 2 + other ** 2)`` without overflow."""
    a, b = _float_pair("hypot", input, other)
    return _both("hypot", Hypot, as_tensor(a), as_tensor(b))


def atan2(input: Tensor, other: Any) -> Tensor:
    """The angle of the point (other, input)."""
    a, b = _float_pair("atan2", input, other)
    return _both("atan2", Atan2, as_tensor(a), as_tensor(b))
