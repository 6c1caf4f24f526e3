"""Data types: NumPy dtype objects under torch's names, and torch's promotion rules."""

from __future__ import annotations

import builtins
import functools
from typing import Any

import numpy as np

from . import backend

float16 = half = np.dtype(np.float16)
float32 = float = np.dtype(np.float32)
float64 = double = np.dtype(np.float64)
int8 = np.dtype(np.int8)
int16 = short = np.dtype(np.int16)
int32 = int = np.dtype(np.int32)
int64 = long = np.dtype(np.int64)
uint8 = np.dtype(np.uint8)
bool = np.dtype(np.bool_)

NAMES = (
    *("float16", "half", "float32", "float", "float64", "double"),
    *("int8", "int16", "short", "int32", "int", "int64", "long", "uint8", "bool"),
)
_PYTHON = {builtins.float: None, builtins.int: int64, builtins.bool: bool}


def __getattr__(name: str) -> Any:
    if name == "bfloat16":  # ml_dtypes is loaded at first use
        import ml_dtypes

        globals()["bfloat16"] = dt = np.dtype(ml_dtypes.bfloat16)
        return dt
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def as_dtype(dtype: Any) -> np.dtype:
    """A dtype from a dtype, NumPy scalar type, name, or Python's float, int, bool (float = the default dtype)."""
    if isinstance(dtype, np.dtype):
        return dtype
    if isinstance(dtype, type) and dtype in _PYTHON:
        return _PYTHON[dtype] or backend.get_default_dtype()
    if dtype == "bfloat16":
        return __getattr__("bfloat16")
    try:
        return np.dtype(dtype)
    except TypeError:
        raise TypeError(f"expected a dtype such as float32, or its name, got {dtype!r}") from None


def _category(dtype: np.dtype) -> Any:
    return 0 if dtype.kind == "b" else 1 if dtype.kind in "iu" else 2


@functools.cache
def promote_types(a: Any, b: Any) -> np.dtype:
    """The smallest dtype both fit in, as torch has it: an integer never widens a float."""
    a, b = as_dtype(a), as_dtype(b)
    if a == b:
        return a
    ca, cb = _category(a), _category(b)
    if ca == 2 or cb == 2:
        if ca != cb:
            return a if ca == 2 else b
        if a.kind == "V" or b.kind == "V":  # bfloat16 with another float type
            other = b if a.kind == "V" else a
            return float32 if other.itemsize <= 4 else float64
    return np.promote_types(a, b)


def combine(strong: np.dtype, weak: np.dtype) -> np.dtype:
    """Result of a tensor and something weaker (a 0-d tensor, a Python scalar): the kind may rise, no more."""
    return promote_types(strong, weak) if _category(weak) > _category(strong) else strong


def scalar_dtype(value: Any) -> np.dtype:
    """What a Python scalar stands for."""
    if value is True or value is False:
        return bool
    if isinstance(value, builtins.int):
        return int64
    return backend.get_default_dtype()


def result_type(a: Any, b: Any) -> np.dtype:
    """The dtype in which `a` and `b` (Tensors, arrays or numbers) are combined."""
    from .functional.core import promote

    x, y = promote("result_type", a, b)
    return (x if hasattr(x, "_data") else y)._data.dtype


def can_cast(source: Any, target: Any) -> builtins.bool:
    """Whether a cast keeps the kind: bool to int to float, never back."""
    return _category(as_dtype(source)) <= _category(as_dtype(target))


def finfo(dtype: Any = None) -> Any:
    """Limits of a floating-point dtype: ``eps``, ``max``, ``min``, ``tiny``."""
    dt = float32 if dtype is None else as_dtype(dtype)
    if dt.kind == "V":
        import ml_dtypes

        return ml_dtypes.finfo(dt)
    return np.finfo(dt)


def iinfo(dtype: Any) -> Any:
    """Limits of an integer dtype: ``min``, ``max``, ``bits``."""
    return np.iinfo(as_dtype(dtype))
