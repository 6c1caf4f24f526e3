"""How exact products of float32 matrices are: a setting of the process that kernels read once per call."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from .backend import _others, kernels

LEVELS = ("highest", "high", "medium")  # the order of fastdl_precision in fastdl/base.h


def _level(precision: Any) -> int:
    if precision not in LEVELS:
        raise ValueError(f"expected a precision of 'highest', 'high' or 'medium', got {precision!r}")
    return LEVELS.index(precision)


def set_float32_precision(precision: str) -> None:
    """Set what products of float32 matrices (matmul, convolution, recurrent layers, attention) may give up for speed.

    * ``"highest"``, the default: as accurate as float32 multiply-adds.
    * ``"high"``: each factor keeps 16 significant bits.
    * ``"medium"``: each factor is rounded to bfloat16 (8 bits).

    Sums are float32 in each, and so are inputs and outputs. The two lower levels allow faster kernels; where there are
    none, results are those of ``"highest"``. So far those kernels are matrix products (`matmul`, linear layers and
    their gradients, from some 64 rows and columns on) on processors with a matrix unit (AMX;
    ``fastdl info`` names the instruction set). It holds for all threads of the process, from each one's next call.
    Raises ValueError for another name.

    >>> import fastdl
    >>> fastdl.set_float32_precision("high")
    >>> fastdl.get_float32_precision()
    'high'
    >>> fastdl.set_float32_precision("highest")
    """
    level = _level(precision)
    kernels(None).set_float32_precision(level)
    for other in list(_others.values()):
        other.kernels.set_float32_precision(level)


def get_float32_precision() -> str:
    """The name that `set_float32_precision` was last given; ``"highest"`` at first."""
    return LEVELS[kernels(None).get_float32_precision()]


class float32_precision:
    """`set_float32_precision` for the length of a ``with`` block, or of a function it decorates. The setting is the
    process's: threads that compute meanwhile are affected too. Raises ValueError for an unknown name.

    >>> import fastdl
    >>> with fastdl.float32_precision("medium"):
    ...     fastdl.get_float32_precision()
    'medium'
    >>> fastdl.get_float32_precision()
    'highest'
    """

    def __init__(self, precision: str):
        _level(precision)
        self.precision = precision
        self.previous: list[str] = []

    def __enter__(self) -> float32_precision:
        self.previous.append(get_float32_precision())
        set_float32_precision(self.precision)
        return self

    def __exit__(self, *exc: Any) -> None:
        set_float32_precision(self.previous.pop())

    def __call__(self, function: Callable) -> Callable:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with float32_precision(self.precision):
                return function(*args, **kwargs)

        return call
