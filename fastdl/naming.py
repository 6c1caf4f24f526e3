"""Complaints about arguments of a wrong kind, by functions that look at them only when they use them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from .autograd import TensorBase
from .backend import is_array

_F = TypeVar("_F", bound=Callable)


def names_itself(function: _F, what: str = "a Tensor") -> _F:
    """The function, raising TypeError with its name where one of its arguments lacks what a Tensor or array has."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except AttributeError as error:
            wrong = error.obj
            if (
                isinstance(wrong, TensorBase)
                or is_array(wrong)
                or not _among(wrong, (*args, *kwargs.values()))
            ):
                raise
            raise TypeError(f"{function.__name__}: expected {what}, got {type(wrong).__name__}") from None

    return call  # type: ignore[return-value]


def names_itself_on_arrays(function: _F) -> _F:
    """`names_itself` for functions on arrays."""
    return names_itself(function, "a numpy.ndarray")


def _among(wrong: object, values: Any) -> bool:
    return any(
        v is wrong or (isinstance(v, list | tuple) and any(item is wrong for item in v)) for v in values
    )
