"""Division, its rounded forms and remainders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd import ArrayFunction, is_float
from .arithmetic import _both, _operands, divided
from .core import unbroadcast

if TYPE_CHECKING:
    from ..tensor import Tensor


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


def _no_zero(name: str, y: Any) -> None:
    if not is_float(y.dtype) and not np.all(y):
        raise RuntimeError(f"{name}: integer division by zero")


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


divide = true_divide = div
