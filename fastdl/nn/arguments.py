"""What the constructors of layers share: checks of sizes, and parameters to be filled."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import backend
from ..autograd import is_float
from ..device import like
from ..dtypes import as_dtype
from .parameter import Parameter


def check_count(layer: str, name: str, value: Any, minimum: int = 0) -> int:
    """``value`` as an int. Raises TypeError for what is no integer, ValueError below ``minimum``."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{layer}: expected an integer for {name}, got {value!r}")
    value = value.__index__()
    if value < minimum:
        raise ValueError(f"{layer}: expected {name} >= {minimum}, got {value}")
    return value


def check_probability(layer: str, p: Any) -> float:
    """``p`` itself. Raises ValueError unless it is a number within 0 and 1."""
    if isinstance(p, bool) or not isinstance(p, int | float | np.number) or not 0 <= p <= 1:
        raise ValueError(f"{layer}: expected a probability within 0 and 1, got {p!r}")
    return p  # type: ignore[return-value]


def ntuple(layer: str, name: str, value: Any, n: int, minimum: int = 0) -> tuple[int, ...]:
    """An int for every one of n dimensions, from one int or n of them. Raises ValueError for another number."""
    if not isinstance(value, tuple | list):
        return (check_count(layer, name, value, minimum),) * n
    if len(value) != n:
        raise ValueError(f"{layer}: expected an int or {n} of them for {name}, got {value!r}")
    return tuple([check_count(layer, name, v, minimum) for v in value])


def new_parameter(shape: tuple[int, ...], device: Any = None, dtype: Any = None) -> Parameter:
    """A parameter of the given shape whose values are yet to be set.

    Raises RuntimeError for a device that is not there, TypeError for a dtype that is not floating-point.
    """
    return Parameter(np.empty(shape, float_dtype(dtype), like=like(device)), copy=False)


def float_dtype(dtype: Any) -> np.dtype:
    """A floating dtype; the default one for None. Raises TypeError for others."""
    if dtype is None:
        return backend.get_default_dtype()
    dtype = as_dtype(dtype)
    if not is_float(dtype):
        raise TypeError(f"expected a floating-point dtype for parameters, got {dtype}")
    return dtype
