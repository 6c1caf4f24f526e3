"""Which array library and which kernels serve an array.

Everything below the ``Tensor`` works on plain arrays, and an array's class says where it lives: ``numpy.ndarray``
means the CPU, ``cupy.ndarray`` a GPU, ``fastdl.simulated.SimArray`` the host executor. Elementwise work, indexing and
creation beside an array go through NumPy's own functions, which hand them to the array's library
(``np.zeros(n, like=x)``); ``kernels`` gives the compiled kernels for an array, and ``empty(..., like=x)`` memory for
their outputs. Devices other than the CPU are in ``_others``, from their first use on (see device.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

_ndarray = np.ndarray


@dataclass(frozen=True, slots=True)
class Backend:
    """A device other than the CPU: the class of its arrays, its kernels, and its memory."""

    name: str
    array: type
    kernels: Any
    empty: Callable[[Any, Any], Any]  # (shape, dtype)
    from_numpy: Callable[..., Any]  # (array, index of the device or None); both copy
    to_numpy: Callable[[Any], np.ndarray]
    index: Callable[[Any], int | None]  # of an array's device, where there are several
    prototype: Any  # an array of it, for NumPy's ``like=``


_others: dict[type, Backend] = {}  # by the class of their arrays

#: When true, `empty` and `empty_like` fill floating outputs with NaN, so that a kernel that leaves an element
#: unwritten is caught. Tests set it; it costs a pass over memory.
POISON = False

_FLOAT32 = np.dtype(np.float32)
_default_dtype = _FLOAT32


_core: Any = None  # loaded at first use: `import fastdl` need not wait for the shared library


def _load() -> Any:
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


def kernels(array: Any) -> Any:
    """The compiled kernels that work where ``array`` lives. Raises RuntimeError if $FASTDL_CPU_ISA names an instruction
    set that this machine does not run, or $FASTDL_NUM_THREADS no number of threads.
    """
    if array.__class__ is not _ndarray:
        other = of(array)
        if other is not None:
            return other.kernels
    return _core or _load()


def of(array: Any) -> Backend | None:
    """The backend of an array; None for the CPU and for what is no array. CuPy's arrays bring theirs along."""
    cls = array.__class__
    if cls in _others or cls.__name__ != "ndarray" or cls.__module__.partition(".")[0] != "cupy":
        return _others.get(cls)
    from .device import backend_of

    return backend_of("cuda")


def is_array(x: Any) -> bool:
    """Whether ``x`` is an array of any device."""
    return isinstance(x, _ndarray) or of(x) is not None


def as_array(x: Any) -> Any:
    """``x`` where it is an array of any device; else (NumPy scalars, numbers, lists) a NumPy array."""
    return x if x.__class__ is _ndarray or x.__class__ in _others else np.asarray(x)


def copied(x: Any) -> Any:
    """A copy with the memory layout of ``x``, an array of any device or a NumPy scalar."""
    return as_array(x).copy("K")


def to_numpy(array: Any) -> np.ndarray:
    """The array itself if it lives on the CPU, else a copy there."""
    other = of(array)
    return array if other is None else other.to_numpy(array)


def beside(array: Any, other: Any) -> Any:
    """``array`` where ``other`` lives: itself, or a copy moved there."""
    here, there = array.__class__, other.__class__
    if here is there or (here not in _others and there not in _others):
        return array
    array = to_numpy(array)
    return array if there not in _others else _others[there].from_numpy(array)


def is_writable(array: Any) -> bool:
    """Whether an array may be changed (CuPy's always may)."""
    return not isinstance(array, _ndarray) or array.flags.writeable


def address(array: Any) -> int:
    """Where the first element of an array is."""
    if isinstance(array, _ndarray):
        return array.__array_interface__["data"][0]
    return array.data.ptr


def empty(shape: Any, dtype: Any, like: Any = None) -> Any:
    """An uninitialised C-contiguous array where ``like`` lives (default: the CPU): every kernel output is allocated
    here. Large ones of the CPU get memory that an earlier output had (`release_memory` gives it back to the system)."""
    other = None if like.__class__ is _ndarray or like is None else of(like)
    out = (_core or _load()).empty(shape, dtype) if other is None else other.empty(shape, dtype)
    if POISON:
        _poison(out)
    return out


def empty_like(array: np.ndarray, dtype: Any = None) -> np.ndarray:
    """An uninitialised array with the shape, dtype (unless given) and memory layout of ``array``."""
    strides, shape = array.strides, array.shape
    if array.flags.c_contiguous or 0 in strides:
        return empty(shape, array.dtype if dtype is None else dtype, array)
    order = sorted(range(array.ndim), key=lambda axis: -abs(strides[axis]))  # from the outermost axis inwards
    out = empty(tuple([shape[axis] for axis in order]), array.dtype if dtype is None else dtype, array)
    return out.transpose(sorted(range(array.ndim), key=order.__getitem__))


_POOLED = 1 << 17  # bytes from which `empty` reuses memory and a second thread is worth waking
_ADD, _MULTIPLY = 0, 2  # fastdl_arithmetic_kind


def add(a: Any, b: Any) -> Any:
    """``a + b``; large float arrays on our kernels, by all threads into the memory of an earlier output."""
    if a.nbytes >= _POOLED and a.shape == b.shape and a.dtype == b.dtype and a.__class__ is _ndarray:
        return _large(np.add, _ADD, a, b)
    return a + b


def multiply(a: Any, b: Any) -> Any:
    """``a * b``; see `add`."""
    if a.nbytes >= _POOLED and a.shape == b.shape and a.dtype == b.dtype and a.__class__ is _ndarray:
        return _large(np.multiply, _MULTIPLY, a, b)
    return a * b


def _large(function: Any, kind: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    out = empty_like(a)
    if is_float(a.dtype) and a.itemsize <= 8:
        kernels(a).arithmetic(a, b, 0.0, out, kind)
        return out
    return function(a, b, out=out)


def note_out_of_range(indices: Any, limit: int) -> None:
    """Have a device check that 0 <= indices < limit without waiting for it: if not so, the next
    `fastdl.cuda.synchronize` raises IndexError."""
    if not indices.size:
        return
    wrong = ((indices < 0) | (indices >= limit)).any().astype(np.int64).reshape(1)
    table = empty((1, 1), np.float32, indices)
    kernels(indices).embedding_forward(
        table, wrong, empty((1, 1), np.float32, indices)
    )  # 1 is out of its range


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
