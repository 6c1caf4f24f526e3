"""Comparisons, elementwise extremes, logic and bits of two operands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd import ArrayFunction, TensorBase, is_float, wrap
from ..backend import as_array
from .arithmetic import _both, _operands
from .core import as_operand, as_tensor, promote, unbroadcast

if TYPE_CHECKING:
    from ..tensor import Tensor


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


def maximum(input: Tensor, other: Any) -> Tensor:
    """Elementwise maximum. NaN where either is NaN; equal elements share the gradient."""
    return _both("maximum", Maximum, *_operands("maximum", input, other))


def minimum(input: Tensor, other: Any) -> Tensor:
    """Elementwise minimum. NaN where either is NaN; equal elements share the gradient."""
    return _both("minimum", Minimum, *_operands("minimum", input, other))


def _broadcast(name: str, function: Any, a: Any, b: Any) -> np.ndarray:
    """A NumPy function of two operands whose shapes must broadcast."""
    try:
        return as_array(function(a, b))
    except ValueError:
        sa, sb = np.shape(a), np.shape(b)
        raise ValueError(f"{name}: expected shapes that broadcast together, got {sa} and {sb}") from None


def _compare(name: str, function: Any, symbol: str) -> Any:
    def compare(input: Any, other: Any) -> Any:
        other = as_operand(other)
        if other is NotImplemented:
            return NotImplemented
        a, b = promote(name, input, other)
        x = a._data if isinstance(a, TensorBase) else a
        if isinstance(b, TensorBase):
            return wrap(_broadcast(name, function, x, b._data))
        if x.dtype.kind == "V":  # as torch: the number is rounded first
            b = x.dtype.type(b)
        return wrap(_broadcast(name, function, x, b))

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
        return wrap(_broadcast(name, function, as_tensor(input)._data, as_tensor(other)._data))

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
        return wrap(_broadcast(name, function, a._data, b._data))

    bitwise.__name__ = bitwise.__qualname__ = name
    bitwise.__doc__ = f"Elementwise ``{name}`` of integers or bools."
    return bitwise


bitwise_and = _bitwise("bitwise_and", np.bitwise_and)
bitwise_or = _bitwise("bitwise_or", np.bitwise_or)
bitwise_xor = _bitwise("bitwise_xor", np.bitwise_xor)
bitwise_left_shift = _bitwise("bitwise_left_shift", np.left_shift)
bitwise_right_shift = _bitwise("bitwise_right_shift", np.right_shift)
greater, greater_equal, less, less_equal, not_equal = gt, ge, lt, le, ne
