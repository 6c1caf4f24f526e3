"""Which array library and which kernels serve an array.

Everything below the ``Tensor`` works on plain arrays. ``xp`` is the array library for memory, elementwise work and
indexing; ``kernels`` gives the compiled kernels for an array. Today both are the CPU's: NumPy and ``fastdl._core``.
"""

from __future__ import annotations

import os
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

xp = np

#: When true, `empty` and `empty_like` fill floating outputs with NaN, so that a kernel that leaves an element
#: unwritten is caught. Tests set it; it costs a pass over memory.
POISON = False

_FLOAT32 = np.dtype(np.float32)
_default_dtype = _FLOAT32


_core: Any = None  # loaded at first use: `import fastdl` need not wait for the shared library


def _load() -> ModuleType:
    global _core
    loaded: Any = import_module("fastdl._core")

    wanted = os.environ.get("FASTDL_CPU_ISA")
    if wanted and wanted not in loaded.available_isas():
        raise RuntimeError(f"FASTDL_CPU_ISA={wanted}: this machine runs {', '.join(loaded.available_isas())}")
    threads = os.environ.get("FASTDL_NUM_THREADS")
    if threads and not (threads.strip().isdecimal() and 1 <= int(threads) <= 1024):
        raise RuntimeError(f"FASTDL_NUM_THREADS={threads}: expected 1 to 1024 threads")
    _core = loaded
    return loaded


def kernels(array: Any) -> ModuleType:
    """The compiled kernels that work where ``array`` lives. Raises RuntimeError if $FASTDL_CPU_ISA names an instruction
    set that this machine does not run, or $FASTDL_NUM_THREADS no number of threads.
    """
    return _core or _load()


def empty(shape: Any, dtype: Any) -> np.ndarray:
    """An uninitialised C-contiguous array: every kernel output is allocated here. Large ones get memory that an
    earlier output had (`release_memory` gives it back to the system)."""
    out = (_core or _load()).empty(shape, dtype)
    if POISON:
        _poison(out)
    return out


def empty_like(array: np.ndarray, dtype: Any = None) -> np.ndarray:
    """An uninitialised array with the shape, dtype (unless given) and memory layout of ``array``."""
    strides, shape = array.strides, array.shape
    if array.flags.c_contiguous or 0 in strides:
        return empty(shape, array.dtype if dtype is None else dtype)
    order = sorted(range(array.ndim), key=lambda axis: -abs(strides[axis]))  # from the outermost axis inwards
    out = empty(tuple([shape[axis] for axis in order]), array.dtype if dtype is None else dtype)
    return out.transpose(sorted(range(array.ndim), key=order.__getitem__))


_POOLED = 1 << 17  # bytes from which `empty` reuses memory and a second thread is worth waking
_ADD, _MULTIPLY = 0, 2  # fastdl_arithmetic_kind


def add(a: Any, b: Any) -> Any:
    """``a + b``; large float arrays on our kernels, by all threads into the memory of an earlier output."""
    if a.nbytes >= _POOLED and a.shape == b.shape and a.dtype == b.dtype and a.__class__ is np.ndarray:
        return _large(np.add, _ADD, a, b)
    return a + b


def multiply(a: Any, b: Any) -> Any:
    """``a * b``; see `add`."""
    if a.nbytes >= _POOLED and a.shape == b.shape and a.dtype == b.dtype and a.__class__ is np.ndarray:
        return _large(np.multiply, _MULTIPLY, a, b)
    return a * b


def _large(function: Any, kind: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    out = empty_like(a)
    if is_float(a.dtype) and a.itemsize <= 8:
        kernels(a).arithmetic(a, b, 0.0, out, kind)
        return out
    return function(a, b, out=out)


def wide(dtype: np.dtype) -> np.dtype:
    """The dtype of sums, and of what an op keeps for its backward pass: float32 beside two-byte floats."""
    return dtype if dtype.itemsize > 2 else _FLOAT32


def convert(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """``array.astype(dtype)``, on our kernels between float32 and the 16-bit floats."""
    if (
        array.size > 256
        and array.itemsize + dtype.itemsize in (4, 6)
        and is_float(array.dtype)
        and is_float(dtype)
    ):
        out = empty_like(array, dtype)
        kernels(array).convert(array, out)
        return out
    return array.astype(dtype)


def is_float(dtype: Any) -> bool:
    """Whether a dtype can carry gradients (ml_dtypes' bfloat16 has kind V)."""
    return dtype.kind == "f" or (dtype.kind == "V" and dtype.type.__name__ == "bfloat16")


def release_memory() -> None:
    """Give memory that is kept for later outputs back to the system."""
    (_core or _load()).release_pool()


def _poison(out: np.ndarray) -> None:
    if out.dtype.kind == "f" or out.dtype.name == "bfloat16":
        out.fill(np.nan)
    elif out.dtype.kind in "iu":
        out.fill(np.iinfo(out.dtype).min // 3)


def get_default_dtype() -> np.dtype:
    """The dtype that Python floats take in `fastdl.tensor` (float32 unless set)."""
    return _default_dtype


def set_default_dtype(dtype: Any) -> None:
    """Set the dtype that Python floats take in `fastdl.tensor`. Raises TypeError unless it is a float type."""
    global _default_dtype
    from .dtypes import as_dtype

    dt = as_dtype(dtype)
    if not is_float(dt):
        raise TypeError(f"set_default_dtype: expected a floating-point dtype, got {dt.name}")
    _default_dtype = dt


def set_num_threads(count: int) -> None:
    """Set how many threads kernels use. Raises ValueError for a count out of range, TypeError for no integer."""
    if isinstance(count, bool) or not hasattr(count, "__index__"):
        raise TypeError(f"set_num_threads: expected an integer, got {count!r}")
    kernels(None).set_num_threads(count)


def get_num_threads() -> int:
    """How many threads kernels use."""
    return kernels(None).get_num_threads()
