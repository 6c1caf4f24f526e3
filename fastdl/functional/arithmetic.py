"""Arithmetic with two operands, with broadcasting and torch's type promotion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from ..autograd import ArrayFunction, TensorBase, is_float, wrap
from ..backend import add as add_arrays
from ..dtypes import as_dtype, float32
from .core import as_tensor, cast, promote, unbroadcast

if TYPE_CHECKING:
    from ..tensor import Tensor

# Operands reach these classes as arrays of one dtype; the ...Number classes take a Python number, which keeps the
# array's dtype and shape. `shapes` is None where nothing was broadcast.


class Add(ArrayFunction):
    shapes = None

    @staticmethod
    def forward(ctx: Any, a: Any, b: Any) -> Any:
        if ctx.inputs and a.shape != b.shape:
            ctx.shapes = a.shape, b.shape
        return add_arrays(a, b)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        if ctx.shapes is None:
            return grad, grad
        return unbroadcast_both(ctx, grad, grad)


class AddNumber(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, x: Any, number: Any) -> Any:
        return x + number

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return grad


class Sub(ArrayFunction):
    shapes = None

    @staticmethod
    def forward(ctx: Any, a: Any, b: Any) -> Any:
        if ctx.inputs and a.shape != b.shape:
            ctx.shapes = a.shape, b.shape
        return a - b

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        other = -grad if ctx.needs[1] else None
        if ctx.shapes is None:
            return grad, other
        return unbroadcast_both(ctx, grad, other)


class SubNumber(AddNumber):
    @staticmethod
    def forward(ctx: Any, x: Any, number: Any) -> Any:
        return x - number


class NumberSub(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, x: Any, number: Any) -> Any:
        return number - x

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return -grad


class Mul(ArrayFunction):
    shapes = None

    @staticmethod
    def forward(ctx: Any, a: Any, b: Any) -> Any:
        if ctx.inputs:
            na, nb = ctx.inputs
            ctx.saved = (None if na is None else b), (None if nb is None else a)
            if a.shape != b.shape:
                ctx.shapes = a.shape, b.shape
        return a * b

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        b, a = ctx.saved
        ga = None if b is None else grad * b
        gb = None if a is None else grad * a
        if ctx.shapes is None:
            return ga, gb
        return unbroadcast_both(ctx, ga, gb)


class MulNumber(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, x: Any, number: Any) -> Any:
        ctx.number = number
        return x * number

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return grad * ctx.number


class Div(ArrayFunction):
    shapes = None

    @staticmethod
    def forward(ctx: Any, a: Any, b: Any) -> Any:
        if ctx.inputs:
            ctx.saved = (b, None if ctx.inputs[1] is None else a)
            if a.shape != b.shape:
                ctx.shapes = a.shape, b.shape
        return a / b

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        b, a = ctx.saved
        ga = grad / b
        gb = None if a is None else -ga * a / b
        if ctx.shapes is None:
            return ga, gb
        return unbroadcast_both(ctx, ga, gb)


class DivNumber(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, x: Any, number: Any) -> Any:
        ctx.number = number
        return x / number

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return grad / ctx.number


class NumberDiv(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, x: Any, number: Any) -> Any:
        y = number / x
        ctx.save(x, y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        x, y = ctx.saved
        return -grad * y / x


class Pow(ArrayFunction):
    """Gradient of x ** 0 is 0, also at x = 0."""

    @staticmethod
    def forward(ctx: Any, a: Any, b: Any) -> Any:
        y = a**b
        if ctx.inputs:
            ctx.save(a, b, y)
            ctx.shapes = a.shape, b.shape
        return y

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


def unbroadcast_both(ctx: Any, ga: Any, gb: Any) -> tuple[Any, Any]:
    """Gradients of two operands that were broadcast against each other."""
    sa, sb = ctx.shapes
    na, nb = ctx.needs
    return (
        None if na is None or ga is None else unbroadcast(ga, sa),
        None if nb is None or gb is None else unbroadcast(gb, sb),
    )


class Remainder(ArrayFunction):
    """``a - b * floor(a / b)``: the sign of the divisor (Python's %)."""

    function: Any = np.remainder
    quotient: Any = np.floor

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


class Floored(ArrayFunction):
    """A quotient rounded down: no gradient."""

    @staticmethod
    def forward(ctx: Any, a: Any, b: Any) -> Any:
        return np.floor_divide(a, b)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return None


class Truncated(Floored):
    """A quotient rounded towards zero: no gradient."""

    @staticmethod
    def forward(ctx: Any, a: Any, b: Any) -> Any:
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
    return (a if ta else float(a)), (b if tb else float(b))


def add(input: Tensor, other: Any, *, alpha: Any = 1) -> Tensor:
    """``input + alpha * other``."""
    return plus(input, other if alpha == 1 else mul(other, alpha))


def sub(input: Tensor, other: Any, *, alpha: Any = 1) -> Tensor:
    """``input - alpha * other``."""
    return minus(input, other if alpha == 1 else mul(other, alpha))


# The operators. Their first operand is a Tensor; two Tensors of one dtype and a float Tensor with a Python number are
# what training does all day and go straight through.


def plus(input: Any, other: Any) -> Tensor:
    """``input + other``."""
    if isinstance(other, TensorBase):
        if isinstance(input, TensorBase) and input._data.dtype is other._data.dtype:
            try:
                return Add.apply(input, other)
            except ValueError:
                _mismatch("add", input, other)
    elif (
        (other.__class__ is float or other.__class__ is int)
        and isinstance(input, TensorBase)
        and input._data.dtype.kind == "f"
    ):
        return AddNumber.apply(input, other)
    return _either("add", input, other, Add, AddNumber, AddNumber)


def minus(input: Any, other: Any) -> Tensor:
    """``input - other``."""
    if isinstance(other, TensorBase):
        if isinstance(input, TensorBase) and input._data.dtype is other._data.dtype:
            try:
                return Sub.apply(input, other)
            except ValueError:
                _mismatch("sub", input, other)
    elif (
        (other.__class__ is float or other.__class__ is int)
        and isinstance(input, TensorBase)
        and input._data.dtype.kind == "f"
    ):
        return SubNumber.apply(input, other)
    return _either("sub", input, other, Sub, SubNumber, NumberSub)


def mul(input: Any, other: Any) -> Tensor:
    """``input * other``."""
    if isinstance(other, TensorBase):
        if isinstance(input, TensorBase) and input._data.dtype is other._data.dtype:
            try:
                return Mul.apply(input, other)
            except ValueError:
                _mismatch("mul", input, other)
    elif (
        (other.__class__ is float or other.__class__ is int)
        and isinstance(input, TensorBase)
        and input._data.dtype.kind == "f"
    ):
        return MulNumber.apply(input, other)
    return _either("mul", input, other, Mul, MulNumber, MulNumber)


def divided(input: Any, other: Any) -> Tensor:
    """``input / other``; integers give the default dtype."""
    if isinstance(other, TensorBase):
        if (
            isinstance(input, TensorBase)
            and input._data.dtype is other._data.dtype
            and other._data.dtype.kind == "f"
        ):
            try:
                return Div.apply(input, other)
            except ValueError:
                _mismatch("div", input, other)
    elif (
        (other.__class__ is float or other.__class__ is int)
        and isinstance(input, TensorBase)
        and input._data.dtype.kind == "f"
    ):
        return DivNumber.apply(input, other)
    return _either("div", *_float_pair("div", input, other), Div, DivNumber, NumberDiv)


def _either(name: str, a: Any, b: Any, both: Any, number: Any, number_first: Any) -> Tensor:
    """Two operands of any kind to the class for two arrays, or for one array and a number."""
    a, b = promote(name, a, b)
    x = a if isinstance(a, TensorBase) else b
    if x._data.dtype.kind == "V":  # bfloat16: in float32, rounded once
        x = _either(name, _float32(a), _float32(b), both, number, number_first)
        return cast(x, as_dtype("bfloat16"))
    if not isinstance(b, TensorBase):
        return number.apply(a, b)
    if not isinstance(a, TensorBase):
        return number_first.apply(b, a)
    return _both(name, both, a, b)


def _float32(x: Any) -> Any:
    return cast(x, float32) if isinstance(x, TensorBase) else x


def _both(name: str, function: Any, a: Any, b: Any) -> Tensor:
    """A function of two Tensors whose shapes must broadcast."""
    if a._data.dtype.kind == "V":
        return cast(_both(name, function, _float32(a), _float32(b)), a._data.dtype)
    try:
        return function.apply(a, b)
    except ValueError:
        _mismatch(name, a, b)


def _mismatch(name: str, a: Any, b: Any) -> NoReturn:
    sa, sb = a._data.shape, b._data.shape
    raise ValueError(f"{name}: expected shapes that broadcast together, got {sa} and {sb}") from None


def rsub(input: Tensor, other: Any) -> Tensor:
    """``other - input``."""
    if (other.__class__ is float or other.__class__ is int) and input._data.dtype.kind == "f":
        return NumberSub.apply(input, other)
    return minus(other, input)


def div(input: Tensor, other: Any, *, rounding_mode: str | None = None) -> Tensor:
    """``input / other``; integers give the default dtype. ``rounding_mode``: "trunc" (towards zero), "floor"."""
    if rounding_mode is None:
        return divided(input, other)
    if rounding_mode == "floor":
        return floor_divide(input, other)
    if rounding_mode != "trunc":
        raise ValueError(f'div: expected rounding_mode None, "trunc" or "floor", got {rounding_mode!r}')
    a, b = _operands("div", input, other)
    _no_zero("div", b._data)
    return _both("div", Truncated, a, b)


def rdiv(input: Tensor, other: Any) -> Tensor:
    """``other / input``."""
    if (other.__class__ is float or other.__class__ is int) and input._data.dtype.kind == "f":
        return NumberDiv.apply(input, other)
    return divided(other, input)


def _no_zero(name: str, y: Any) -> None:
    if not is_float(y.dtype) and not np.all(y):
        raise RuntimeError(f"{name}: integer division by zero")


def floor_divide(input: Tensor, other: Any) -> Tensor:
    """``floor(input / other)``, without a gradient."""
    a, b = _operands("floor_divide", input, other)
    _no_zero("floor_divide", b._data)
    return _both("floor_divide", Floored, a, b)


def rfloordiv(input: Tensor, other: Any) -> Tensor:
    """``floor(other / input)``."""
    return floor_divide(other, input)


def remainder(input: Tensor, other: Any) -> Tensor:
    """The remainder of a division rounded down (Python's ``%``)."""
    a, b = _operands("remainder", input, other)
    _no_zero("remainder", b._data)
    return _both("remainder", Remainder, a, b)


def rmod(input: Tensor, other: Any) -> Tensor:
    """``other % input``."""
    return remainder(other, input)


def fmod(input: Tensor, other: Any) -> Tensor:
    """The remainder of a division rounded towards zero (C's fmod)."""
    a, b = _operands("fmod", input, other)
    _no_zero("fmod", b._data)
    return _both("fmod", Fmod, a, b)


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


class LogAddExp(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, a: Any, b: Any) -> Any:
        y = np.logaddexp(a, b)
        ctx.save(a, b, y)
        ctx.shapes = a.shape, b.shape
        return y

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        a, b, y = ctx.saved
        return unbroadcast_both(ctx, grad * np.exp(a - y), grad * np.exp(b - y))


class Hypot(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, a: Any, b: Any) -> Any:
        y = np.hypot(a, b)
        ctx.save(a, b, y)
        ctx.shapes = a.shape, b.shape
        return y

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        a, b, y = ctx.saved
        return unbroadcast_both(ctx, grad * a / y, grad * b / y)


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


multiply, divide, true_divide, subtract = mul, div, div, sub
