"""Arithmetic with two operands, with broadcasting and torch's type promotion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd import ArrayFunction, TensorBase, is_float, wrap
from .core import as_operand, as_tensor, cast, promote, unbroadcast

if TYPE_CHECKING:
    from ..tensor import Tensor

# Operands reach these classes with one dtype, or one of them as a Python number (NumPy then keeps the array's dtype).


class Add(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, a: Any, b: Any) -> Any:
        ctx.shapes = getattr(a, "shape", None), getattr(b, "shape", None)
        return a + b

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        sa, sb = ctx.shapes
        na, nb = ctx.needs
        return na and unbroadcast(grad, sa), nb and unbroadcast(grad, sb)


class Sub(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, a: Any, b: Any) -> Any:
        ctx.shapes = getattr(a, "shape", None), getattr(b, "shape", None)
        return a - b

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        sa, sb = ctx.shapes
        na, nb = ctx.needs
        return na and unbroadcast(grad, sa), nb and unbroadcast(-grad, sb)


class Mul(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, a: Any, b: Any) -> Any:
        na, nb = ctx.needs[:2]
        ctx.shapes = na and a.shape, nb and b.shape
        ctx.save(b if na else None, a if nb else None)
        return a * b

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        b, a = ctx.saved
        sa, sb = ctx.shapes
        return (
            None if sa is None else unbroadcast(grad * b, sa),
            None if sb is None else unbroadcast(grad * a, sb),
        )


class Div(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, a: Any, b: Any) -> Any:
        na, nb = ctx.needs[:2]
        ctx.shapes = na and a.shape, nb and b.shape
        ctx.save(b, a if nb else None)
        return a / b

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        b, a = ctx.saved
        sa, sb = ctx.shapes
        return (
            None if sa is None else unbroadcast(grad / b, sa),
            None if sb is None else unbroadcast(-grad * a / (b * b), sb),
        )


class Pow(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, a: Any, b: Any) -> Any:
        y = a**b
        na, nb = ctx.needs[:2]
        ctx.shapes = na and a.shape, nb and b.shape
        ctx.save(a, b, y if nb else None)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        a, b, y = ctx.saved
        sa, sb = ctx.shapes
        ga = gb = None
        if sa is not None:
            if isinstance(b, np.ndarray):  # x**0 has gradient 0, also at x = 0
                ga = np.where(b == 0, grad.dtype.type(0), grad * b * a ** (b - 1))
            elif b == 0:
                ga = np.zeros_like(a)
            elif b == 2:
                ga = grad * (a * 2)
            else:
                ga = grad * (b * a ** (b - 1))
            ga = unbroadcast(ga, sa)
        if sb is not None:
            la = np.log(np.asarray(a, y.dtype))
            gb = unbroadcast(np.where((a == 0) & (b >= 0), grad.dtype.type(0), grad * y * la), sb)
        return ga, gb


class Remainder(ArrayFunction):
    """``a - b * floor(a / b)``: the sign of the divisor (Python's %)."""

    function = np.remainder
    quotient = np.floor

    @classmethod
    def forward(cls, ctx: Any, a: Any, b: Any) -> Any:
        na, nb = ctx.needs[:2]
        ctx.shapes = na and a.shape, nb and b.shape
        ctx.save(a if nb else None, b if nb else None)
        return cls.function(a, b)

    @classmethod
    def backward(cls, ctx: Any, grad: Any) -> Any:
        a, b = ctx.saved
        sa, sb = ctx.shapes
        return (
            None if sa is None else unbroadcast(grad, sa),
            None if sb is None else unbroadcast(-grad * cls.quotient(a / b), sb),
        )


class Fmod(Remainder):
    """The remainder with the sign of the dividend (C's fmod)."""

    function = np.fmod
    quotient = np.trunc


class Maximum(ArrayFunction):
    """Elementwise maximum; NaN if either is NaN; where both are equal each gets half the gradient."""

    function: Any = np.maximum
    wins: Any = np.greater

    @classmethod
    def forward(cls, ctx: Any, a: Any, b: Any) -> Any:
        ctx.shapes = a.shape, b.shape
        ctx.save(a, b)
        return cls.function(a, b)

    @classmethod
    def backward(cls, ctx: Any, grad: Any) -> Any:
        a, b = ctx.saved
        sa, sb = ctx.shapes
        na, nb = ctx.needs
        half, zero = grad * grad.dtype.type(0.5), grad.dtype.type(0)
        tie = a == b
        return (
            None
            if na is None
            else unbroadcast(np.where(tie, half, np.where(cls.wins(b, a), zero, grad)), sa),
            None
            if nb is None
            else unbroadcast(np.where(tie, half, np.where(cls.wins(a, b), zero, grad)), sb),
        )


class Minimum(Maximum):
    function = np.minimum
    wins = np.less


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


class Rounded(ArrayFunction):
    """A quotient rounded to a whole number: no gradient."""

    @staticmethod
    def forward(ctx: Any, a: Any, b: Any, function: Any) -> Any:
        return function(a, b)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return None


def _truncated(a: Any, b: Any) -> Any:
    if is_float(a.dtype):
        return np.trunc(a / b)
    return (np.sign(a) * np.sign(b) * np.floor_divide(np.abs(a), np.abs(b))).astype(a.dtype)


def _operands(name: str, a: Any, b: Any) -> tuple[Any, Any]:
    """Both as Tensors of one dtype."""
    a, b = promote(name, a, b)
    if not isinstance(a, TensorBase):
        a = wrap(np.asarray(a, b._data.dtype))
    elif not isinstance(b, TensorBase):
        b = wrap(np.asarray(b, a._data.dtype))
    return a, b


def _float_pair(name: str, a: Any, b: Any) -> tuple[Any, Any]:
    a, b = promote(name, a, b)
    ta, tb = isinstance(a, TensorBase), isinstance(b, TensorBase)
    dtype = (a if ta else b)._data.dtype
    if not is_float(dtype):
        from .. import backend

        dtype = backend.get_default_dtype()
        if ta:
            a = cast(a, dtype)
        if tb:
            b = cast(b, dtype)
    return (a if ta else dtype.type(a)), (b if tb else dtype.type(b))


def add(input: Tensor, other: Any, *, alpha: Any = 1) -> Tensor:
    """``input + alpha * other``."""
    if alpha != 1:
        other = mul(other, alpha)
    if not (
        isinstance(other, TensorBase)
        and isinstance(input, TensorBase)
        and input._data.dtype is other._data.dtype
    ):
        input, other = promote("add", input, other)
    return Add.apply(input, other)


def sub(input: Tensor, other: Any, *, alpha: Any = 1) -> Tensor:
    """``input - alpha * other``."""
    if alpha != 1:
        other = mul(other, alpha)
    if not (
        isinstance(other, TensorBase)
        and isinstance(input, TensorBase)
        and input._data.dtype is other._data.dtype
    ):
        input, other = promote("sub", input, other)
    return Sub.apply(input, other)


def rsub(input: Tensor, other: Any) -> Tensor:
    """``other - input``."""
    return sub(other, input)


def mul(input: Tensor, other: Any) -> Tensor:
    """``input * other``."""
    if not (
        isinstance(other, TensorBase)
        and isinstance(input, TensorBase)
        and input._data.dtype is other._data.dtype
    ):
        input, other = promote("mul", input, other)
    return Mul.apply(input, other)


def div(input: Tensor, other: Any, *, rounding_mode: str | None = None) -> Tensor:
    """``input / other``; integers give the default dtype. ``rounding_mode``: "trunc" (towards zero), "floor"."""
    if rounding_mode is None:
        return Div.apply(*_float_pair("div", input, other))
    if rounding_mode == "floor":
        return floor_divide(input, other)
    if rounding_mode != "trunc":
        raise ValueError(f'div: expected rounding_mode None, "trunc" or "floor", got {rounding_mode!r}')
    a, b = _operands("div", input, other)
    _no_zero("div", b._data)
    return Rounded.apply(a, b, _truncated)


def rdiv(input: Tensor, other: Any) -> Tensor:
    """``other / input``."""
    return div(other, input)


def _no_zero(name: str, y: Any) -> None:
    if not is_float(y.dtype) and not np.all(y):
        raise RuntimeError(f"{name}: integer division by zero")


def floor_divide(input: Tensor, other: Any) -> Tensor:
    """``floor(input / other)``, without a gradient."""
    a, b = _operands("floor_divide", input, other)
    _no_zero("floor_divide", b._data)
    return Rounded.apply(a, b, np.floor_divide)


def rfloordiv(input: Tensor, other: Any) -> Tensor:
    """``floor(other / input)``."""
    return floor_divide(other, input)


def remainder(input: Tensor, other: Any) -> Tensor:
    """The remainder of a division rounded down (Python's ``%``)."""
    a, b = _operands("remainder", input, other)
    _no_zero("remainder", b._data)
    return Remainder.apply(a, b)


def rmod(input: Tensor, other: Any) -> Tensor:
    """``other % input``."""
    return remainder(other, input)


def fmod(input: Tensor, other: Any) -> Tensor:
    """The remainder of a division rounded towards zero (C's fmod)."""
    a, b = _operands("fmod", input, other)
    _no_zero("fmod", b._data)
    return Fmod.apply(a, b)


def pow(input: Any, exponent: Any) -> Tensor:
    """``input ** exponent``. Raises RuntimeError for integers to negative integer powers."""
    a, b = promote("pow", input, exponent)
    base_dtype = (a if isinstance(a, TensorBase) else b)._data.dtype
    if base_dtype.kind in "iu":
        e = b._data if isinstance(b, TensorBase) else np.asarray(b)
        if (e < 0).any():
            raise RuntimeError("pow: integers to negative integer powers are not allowed")
    return Pow.apply(a, b)


def rpow(input: Tensor, other: Any) -> Tensor:
    """``other ** input``."""
    return pow(other, input)


def maximum(input: Tensor, other: Any) -> Tensor:
    """Elementwise maximum. NaN where either is NaN; equal elements share the gradient."""
    return Maximum.apply(*_operands("maximum", input, other))


def minimum(input: Tensor, other: Any) -> Tensor:
    """Elementwise minimum. NaN where either is NaN; equal elements share the gradient."""
    return Minimum.apply(*_operands("minimum", input, other))


def atan2(input: Tensor, other: Any) -> Tensor:
    """The angle of the point (other, input)."""
    a, b = _float_pair("atan2", input, other)
    return Atan2.apply(as_tensor(a), as_tensor(b))


def _compare(name: str, function: Any, symbol: str) -> Any:
    def compare(input: Any, other: Any) -> Any:
        other = as_operand(other)
        if other is NotImplemented:
            return NotImplemented
        a, b = promote(name, input, other)
        a = a._data if isinstance(a, TensorBase) else a
        b = b._data if isinstance(b, TensorBase) else b
        return wrap(np.asarray(function(a, b)))

    compare.__name__ = compare.__qualname__ = name
    compare.__doc__ = f"Elementwise ``input {symbol} other``, a bool tensor."
    return compare


eq = _compare("eq", np.equal, "==")
ne = _compare("ne", np.not_equal, "!=")
lt = _compare("lt", np.less, "<")
le = _compare("le", np.less_equal, "<=")
gt = _compare("gt", np.greater, ">")
ge = _compare("ge", np.greater_equal, ">=")


def _logical(name: str, function: Any) -> Any:
    def logical(input: Any, other: Any) -> Tensor:
        return wrap(np.asarray(function(as_tensor(input)._data, as_tensor(other)._data)))

    logical.__name__ = logical.__qualname__ = name
    logical.__doc__ = f"Elementwise ``{name}`` of truth values."
    return logical


logical_and = _logical("logical_and", np.logical_and)
logical_or = _logical("logical_or", np.logical_or)
logical_xor = _logical("logical_xor", np.logical_xor)


def _bitwise(name: str, function: Any) -> Any:
    def bitwise(input: Any, other: Any) -> Tensor:
        a, b = _operands(name, input, other)
        if is_float(a._data.dtype):
            raise TypeError(f"{name}: expected integers or bools, got {a._data.dtype}")
        return wrap(np.asarray(function(a._data, b._data)))

    bitwise.__name__ = bitwise.__qualname__ = name
    bitwise.__doc__ = f"Elementwise ``{name}`` of integers or bools."
    return bitwise


bitwise_and = _bitwise("bitwise_and", np.bitwise_and)
bitwise_or = _bitwise("bitwise_or", np.bitwise_or)
bitwise_xor = _bitwise("bitwise_xor", np.bitwise_xor)
bitwise_left_shift = _bitwise("bitwise_left_shift", np.left_shift)
bitwise_right_shift = _bitwise("bitwise_right_shift", np.right_shift)

multiply, divide, true_divide, subtract = mul, div, div, sub
greater, greater_equal, less, less_equal, not_equal = gt, ge, lt, le, ne
