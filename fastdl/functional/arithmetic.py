"""Arithmetic with two operands, with broadcasting and torch's type promotion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from ..autograd import ArrayFunction, TensorBase, is_float, wrap
from ..backend import add as add_arrays
from ..backend import multiply as multiply_arrays
from ..dtypes import as_dtype, float32
from .core import cast, promote, unbroadcast

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
        return multiply_arrays(a, b)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        b, a = ctx.saved
        ga = None if b is None else multiply_arrays(grad, b)
        gb = None if a is None else multiply_arrays(grad, a)
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


def unbroadcast_both(ctx: Any, ga: Any, gb: Any) -> tuple[Any, Any]:
    """Gradients of two operands that were broadcast against each other."""
    sa, sb = ctx.shapes
    na, nb = ctx.needs
    return (
        None if na is None or ga is None else unbroadcast(ga, sa),
        None if nb is None or gb is None else unbroadcast(gb, sb),
    )


def _operands(name: str, a: Any, b: Any) -> tuple[Any, Any]:
    """Both as Tensors of one dtype."""
    a, b = promote(name, a, b)
    if not isinstance(a, TensorBase):
        a = wrap(np.asarray(a, b._data.dtype, like=b._data))
    elif not isinstance(b, TensorBase):
        b = wrap(np.asarray(b, a._data.dtype, like=a._data))
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


def rdiv(input: Tensor, other: Any) -> Tensor:
    """``other / input``."""
    if (other.__class__ is float or other.__class__ is int) and input._data.dtype.kind == "f":
        return NumberDiv.apply(input, other)
    return divided(other, input)


multiply, subtract = mul, sub
