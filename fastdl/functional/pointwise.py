"""Functions of one operand, element by element."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import ops as kernels
from ..autograd import ArrayFunction, TensorBase, is_float, wrap
from ..backend import as_array, is_array
from ..dtypes import finfo, float32
from ..ops.activation import erf as erf_kernel
from .core import as_tensor, cast, float_input, promote, select, unbroadcast, widened

if TYPE_CHECKING:
    from ..tensor import Tensor


class Neg(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return -x

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return -grad


class FromInput(ArrayFunction):
    """y = function(x) whose gradient is computed from x."""

    function: Callable
    gradient: Callable

    @classmethod
    def forward(cls, ctx: Any, x: Any) -> Any:
        ctx.save(x)
        return cls.function(x)

    @classmethod
    def backward(cls, ctx: Any, grad: Any) -> Any:
        return cls.gradient(grad, ctx.saved[0])


class FromOutput(ArrayFunction):
    """y = function(x) whose gradient is computed from y."""

    function: Callable
    gradient: Callable

    @classmethod
    def forward(cls, ctx: Any, x: Any) -> Any:
        y = cls.function(x)
        ctx.save(y)
        return y

    @classmethod
    def backward(cls, ctx: Any, grad: Any) -> Any:
        return cls.gradient(grad, ctx.saved[0])


class Step(ArrayFunction):
    """Piecewise constant: the gradient is zero."""

    function: Callable

    @classmethod
    def forward(cls, ctx: Any, x: Any) -> Any:
        return cls.function(x)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return np.zeros_like(grad)


def _sigmoid(x: Any) -> Any:
    return kernels.activation(x, "sigmoid")


def _sigmoid_gradient(g: Any, y: Any) -> Any:
    return kernels.activation_backward(g, y, "sigmoid")


def _tanh(x: Any) -> Any:
    return kernels.activation(x, "tanh")


def _tanh_gradient(g: Any, y: Any) -> Any:
    return kernels.activation_backward(g, y, "tanh")


def _rsqrt(x: Any) -> Any:
    return 1 / np.sqrt(x)


def _frac(x: Any) -> Any:
    return x - np.trunc(x)


_TWO_OVER_SQRT_PI = 2 / math.sqrt(math.pi)


def _make(
    kind: type, name: str, function: Any, gradient: Any, doc: str, whole: bool = False
) -> Callable[..., Tensor]:
    """The torch-named function for one formula. ``whole``: integers stay integers (else they become floats)."""
    body = {"function": function if isinstance(function, np.ufunc) else staticmethod(function)}
    if gradient is not None:
        body["gradient"] = staticmethod(gradient)
    node = type(name.capitalize(), (kind,), body)
    apply = node.apply  # type: ignore[attr-defined]
    prepare = as_tensor if whole else float_input

    def call(input: Tensor) -> Tensor:
        if not isinstance(input, TensorBase) or input._data.dtype.kind != "f":
            input = prepare(input)
            if input._data.dtype.kind == "V":  # bfloat16: in float32, rounded once
                return cast(apply(cast(input, float32)), input._data.dtype)
        return apply(input)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = doc
    return call


exp = _make(FromOutput, "exp", np.exp, lambda g, y: g * y, "e to the power of each element.")
exp2 = _make(FromOutput, "exp2", np.exp2, lambda g, y: g * y * math.log(2), "2 to the power of each element.")
expm1 = _make(FromOutput, "expm1", np.expm1, lambda g, y: g * (y + 1), "exp(x) - 1, exact for small x.")
log = _make(FromInput, "log", np.log, lambda g, x: g / x, "Natural logarithm.")
log2 = _make(FromInput, "log2", np.log2, lambda g, x: g / (x * math.log(2)), "Logarithm to base 2.")
log10 = _make(FromInput, "log10", np.log10, lambda g, x: g / (x * math.log(10)), "Logarithm to base 10.")
log1p = _make(FromInput, "log1p", np.log1p, lambda g, x: g / (x + 1), "log(1 + x), exact for small x.")
sqrt = _make(FromOutput, "sqrt", np.sqrt, lambda g, y: g / (y * 2), "Square root.")
rsqrt = _make(FromOutput, "rsqrt", _rsqrt, lambda g, y: g * y * y * y * -0.5, "1 / sqrt(x).")
reciprocal = _make(FromOutput, "reciprocal", lambda x: 1 / x, lambda g, y: -g * y * y, "1 / x.")
sin = _make(FromInput, "sin", np.sin, lambda g, x: g * np.cos(x), "Sine.")
cos = _make(FromInput, "cos", np.cos, lambda g, x: -g * np.sin(x), "Cosine.")
tan = _make(FromOutput, "tan", np.tan, lambda g, y: g * (y * y + 1), "Tangent.")
asin = _make(FromInput, "asin", np.arcsin, lambda g, x: g / np.sqrt(1 - x * x), "Inverse sine.")
acos = _make(FromInput, "acos", np.arccos, lambda g, x: -g / np.sqrt(1 - x * x), "Inverse cosine.")
atan = _make(FromInput, "atan", np.arctan, lambda g, x: g / (x * x + 1), "Inverse tangent.")
sinh = _make(FromInput, "sinh", np.sinh, lambda g, x: g * np.cosh(x), "Hyperbolic sine.")
cosh = _make(FromInput, "cosh", np.cosh, lambda g, x: g * np.sinh(x), "Hyperbolic cosine.")
tanh = _make(FromOutput, "tanh", _tanh, _tanh_gradient, "Hyperbolic tangent.")
asinh = _make(FromInput, "asinh", np.arcsinh, lambda g, x: g / np.sqrt(x * x + 1), "Inverse hyperbolic sine.")
acosh = _make(
    FromInput, "acosh", np.arccosh, lambda g, x: g / np.sqrt(x * x - 1), "Inverse hyperbolic cosine."
)
atanh = _make(FromInput, "atanh", np.arctanh, lambda g, x: g / (1 - x * x), "Inverse hyperbolic tangent.")
sigmoid = _make(FromOutput, "sigmoid", _sigmoid, _sigmoid_gradient, "1 / (1 + exp(-x)).")
erf = _make(
    FromInput, "erf", erf_kernel,
    lambda g, x: g * np.exp(-x * x) * _TWO_OVER_SQRT_PI, "The error function.",
)  # fmt: skip

abs = _make(FromInput, "abs", np.abs, lambda g, x: g * np.sign(x), "Absolute value.", whole=True)
square = _make(FromInput, "square", np.square, lambda g, x: g * (x * 2), "x * x.", whole=True)
sign = _make(Step, "sign", np.sign, None, "-1, 0 or 1.", whole=True)
floor = _make(Step, "floor", np.floor, None, "The largest integer not above x.", whole=True)
ceil = _make(Step, "ceil", np.ceil, None, "The smallest integer not below x.", whole=True)
trunc = _make(Step, "trunc", np.trunc, None, "x without its fraction.", whole=True)
frac = _make(FromInput, "frac", _frac, lambda g, x: g, "The fraction of x, with its sign.", whole=True)
absolute, arcsin, arccos, arctan, fix = abs, asin, acos, atan, trunc
arcsinh, arccosh, arctanh = asinh, acosh, atanh


def neg(input: Tensor) -> Tensor:
    """``-input``. Raises TypeError for bools."""
    if input._data.dtype.kind == "b":
        raise TypeError("neg: expected numbers, got bool; use ~ or logical_not")
    return Neg.apply(input)


negative = neg


def positive(input: Tensor) -> Tensor:
    """``input`` as it is."""
    return input


class Round(Step):
    @staticmethod
    def forward(ctx: Any, x: Any, decimals: int) -> Any:  # type: ignore[override]
        return np.round(x, decimals)


@widened
def round(input: Tensor, *, decimals: int = 0) -> Tensor:
    """Rounded to ``decimals`` places; halves go to the even neighbour."""
    return Round.apply(as_tensor(input), decimals)


class Clamp(ArrayFunction):
    """Numbers as bounds. The gradient passes where the input is within them."""

    @staticmethod
    def forward(ctx: Any, x: Any, low: Any, high: Any) -> Any:
        ctx.save(x)
        ctx.bounds = low, high
        if x.dtype.kind == "V":  # np.clip would give float32
            x = x if low is None else np.maximum(x, low)
            return x if high is None else np.minimum(x, high)
        return np.clip(x, low, high)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        (x,) = ctx.saved
        low, high = ctx.bounds
        if low is None:
            inside = x <= high
        elif high is None:
            inside = x >= low
        else:
            inside = (x >= low) & (x <= high)
        return np.where(inside, grad, grad.dtype.type(0))


class ClampTo(ArrayFunction):
    """Tensors as bounds (of the input's dtype): a bound that is in force gets the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Any, low: Any, high: Any) -> Any:
        ctx.save(x, low, high)
        if low is not None:
            x = np.maximum(x, low)
        return x if high is None else np.minimum(x, high)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        x, low, high = ctx.saved
        below = np.False_ if low is None else (x < low) if high is None else (x < low) & (low < high)
        above = np.False_ if high is None else (x > high) if low is None else (x > high) | (low > high)
        zero = grad.dtype.type(0)
        return (
            unbroadcast(np.where(below | above, zero, grad), x.shape),
            None if low is None else unbroadcast(np.where(below, grad, zero), low.shape),
            None if high is None else unbroadcast(np.where(above, grad, zero), high.shape),
        )


def clamp(input: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """Each element brought into [min, max]: numbers or Tensors, either may be None. NaN stays NaN; where min > max
    the result is max."""
    if min is None and max is None:
        raise ValueError("clamp: expected min, max or both")
    if any(isinstance(b, TensorBase) or is_array(b) for b in (min, max)):
        dtype = input._data.dtype
        for bound in (min, max):
            if bound is not None:
                dtype = promote("clamp", input, bound)[0]._data.dtype
                input = cast(input, dtype)
        bounds = [None if b is None else cast(as_tensor(b), dtype) for b in (min, max)]
        return ClampTo.apply(input, *bounds)
    if input._data.dtype.kind != "f":
        for bound in (min, max):
            if bound is not None:
                input = promote("clamp", input, bound)[0]
        if input._data.dtype.kind == "V":  # ml_dtypes: Python numbers would widen the result
            of = input._data.dtype.type
            min, max = None if min is None else of(min), None if max is None else of(max)
    return Clamp.apply(input, min, max)


clip = clamp


def clamp_min(input: Tensor, min: Any) -> Tensor:
    """Each element, or ``min`` where that is larger."""
    return clamp(input, min=min)


def clamp_max(input: Tensor, max: Any) -> Tensor:
    """Each element, or ``max`` where that is smaller."""
    return clamp(input, max=max)


class NanToNum(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, x: Any, nan: Any, posinf: Any, neginf: Any) -> Any:
        ctx.save(x)
        if x.dtype.kind == "V":
            top = finfo(x.dtype).max if posinf is None else posinf
            low = finfo(x.dtype).min if neginf is None else neginf
            wide = np.nan_to_num(x.astype(np.float32), nan=nan, posinf=float(top), neginf=float(low))
            return wide.astype(x.dtype)
        return np.nan_to_num(x, nan=nan, posinf=posinf, neginf=neginf)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return np.where(np.isfinite(ctx.saved[0]), grad, grad.dtype.type(0))


@widened
def nan_to_num(input: Tensor, nan: float = 0.0, posinf: Any = None, neginf: Any = None) -> Tensor:
    """NaN and infinities replaced (infinities by the largest finite numbers unless given)."""
    return NanToNum.apply(as_tensor(input), 0.0 if nan is None else nan, posinf, neginf)


class Where(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, condition: Any, a: Any, b: Any) -> Any:
        ctx.save(condition)
        ctx.shapes = a.shape, b.shape
        return select(condition, a, b)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        (c,) = ctx.saved
        sa, sb = ctx.shapes
        _, na, nb = ctx.needs
        zero = np.zeros((), grad.dtype, like=grad)
        return (
            None,
            na and unbroadcast(select(c, grad, zero), sa),
            nb and unbroadcast(select(c, zero, grad), sb),
        )


def where(condition: Tensor, input: Any = None, other: Any = None) -> Any:
    """``input`` where ``condition`` holds, else ``other``; with ``condition`` alone the indices where it holds."""
    condition = as_tensor(condition)
    if input is None and other is None:
        return tuple([wrap(i) for i in condition._data.nonzero()])
    if condition._data.dtype.kind != "b":
        raise TypeError(f"where: expected a bool condition, got {condition._data.dtype}")
    a, b = promote("where", input, other)
    if not isinstance(a, TensorBase):
        a = wrap(np.asarray(a, b._data.dtype, like=b._data))
    if not isinstance(b, TensorBase):
        if not isinstance(input, TensorBase) and not isinstance(other, TensorBase):
            a, b = as_tensor(input), as_tensor(other)
            a, b = promote("where", a, b)
        else:
            b = wrap(np.asarray(b, a._data.dtype, like=a._data))
    return Where.apply(condition, a, b)


@widened
def lerp(input: Tensor, end: Tensor, weight: Any) -> Tensor:
    """``input + weight * (end - input)``."""
    return input + weight * (end - input)


@widened
def addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Any = 1) -> Tensor:
    """``input + value * tensor1 * tensor2``."""
    return input + tensor1 * tensor2 * value


@widened
def addcdiv(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Any = 1) -> Tensor:
    """``input + value * tensor1 / tensor2``."""
    return input + tensor1 / tensor2 * value


def _signbit(x: Any) -> Any:
    return np.signbit(x.astype(np.float32) if x.dtype.kind == "V" else x)


def _test(name: str, function: Any, doc: str) -> Callable[..., Tensor]:
    def call(input: Tensor) -> Tensor:
        x = as_tensor(input)._data
        return wrap(as_array(function(x)))

    call.__name__ = call.__qualname__ = name
    call.__doc__ = doc
    return call


isnan = _test("isnan", np.isnan, "Whether each element is NaN.")
isinf = _test("isinf", np.isinf, "Whether each element is infinite.")
isfinite = _test("isfinite", np.isfinite, "Whether each element is neither infinite nor NaN.")
isposinf = _test("isposinf", lambda x: x == np.inf, "Whether each element is +infinity.")
isneginf = _test("isneginf", lambda x: x == -np.inf, "Whether each element is -infinity.")
signbit = _test("signbit", _signbit, "Whether each element has its sign bit set.")
logical_not = _test("logical_not", np.logical_not, "Elementwise ``not`` of truth values.")


def bitwise_not(input: Tensor) -> Tensor:
    """``~input``. Raises TypeError for floating-point tensors."""
    if is_float(input._data.dtype):
        raise TypeError(f"bitwise_not: expected integers or bools, got {input._data.dtype}")
    return wrap(as_array(~input._data))


@widened
def isclose(
    input: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> Tensor:
    """Whether ``|input - other| <= atol + rtol * |other|``, element by element."""
    a, b = _same_dtype("isclose", input, other)
    return wrap(as_array(np.isclose(a, b, rtol, atol, equal_nan)))


def allclose(
    input: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> bool:
    """Whether `isclose` holds for all elements."""
    return bool(isclose(input, other, rtol, atol, equal_nan)._data.all())


def _same_dtype(name: str, a: Any, b: Any) -> tuple[np.ndarray, np.ndarray]:
    x, y = as_tensor(a)._data, as_tensor(b)._data
    if x.dtype != y.dtype:
        raise TypeError(f"{name}: expected one dtype, got {x.dtype} and {y.dtype}")
    return x, y


def equal(input: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same shape and the same elements."""
    x, y = as_tensor(input)._data, as_tensor(other)._data
    return x.shape == y.shape and bool((x == y).all())
