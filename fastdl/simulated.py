"""Arrays of the device "cuda-sim": CUDA kernels run by the host executor, on memory that is NumPy's.

A `SimArray` is as strict as ``cupy.ndarray``, so that code which works on it has a chance to work on a GPU, and an
array that was forgotten on the CPU shows in tests on a machine without one: it does not mix with NumPy arrays (but for
0-d ones), no element of it is a NumPy scalar, and only `from_numpy` and `to_numpy` move data.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib import import_module
from typing import Any, ClassVar

import numpy as np

from .backend import Backend

_ndarray = np.ndarray
#: NumPy's functions that may be given a NumPy array: they copy it to the device, as CuPy's do.
_TRANSFERS = ("array", "asarray", "asanyarray", "ascontiguousarray")


def from_numpy(array: np.ndarray, index: int | None = None) -> SimArray:
    """A copy on the device."""
    return array.copy("K").view(SimArray)


def to_numpy(array: SimArray) -> np.ndarray:
    """A copy for the CPU."""
    wait("a copy to the CPU")
    return array.view(_ndarray).copy("K")


_recorded = 0  # recordings of a graph that are under way (fastdl.cuda.graph)


@contextlib.contextmanager
def recording() -> Iterator[None]:
    """What would wait for a GPU raises meanwhile, as it does while CUDA records a stream."""
    global _recorded
    _recorded += 1
    try:
        yield
    finally:
        _recorded -= 1


def wait(what: str) -> None:
    """Called where a GPU's results would have to be waited for. Raises RuntimeError while a graph is recorded."""
    if _recorded:
        raise RuntimeError(
            f"cuda.graph: {what} waits for the device, which a step that is recorded cannot do"
        )


class SimArray(np.ndarray):
    """An array of the device "cuda-sim"."""

    __slots__ = ()
    __array_priority__ = 100

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **kwargs: Any) -> Any:
        plain = [_operand(x) for x in inputs]
        kwargs = {key: _operand(value) for key, value in kwargs.items()}
        if out is None:
            return _wrapped(getattr(ufunc, method)(*plain, **kwargs))
        for x in out:
            if not isinstance(x, SimArray):
                raise TypeError(
                    f"cuda-sim: {ufunc.__name__} of an array of the device cannot write into one of the CPU"
                )
        getattr(ufunc, method)(*plain, out=tuple([x.view(_ndarray) for x in out]), **kwargs)
        return out[0] if len(out) == 1 else out

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func.__name__ in _TRANSFERS:
            first, *rest = args
            if not isinstance(first, SimArray):
                return from_numpy(func(first, *rest, **kwargs))
            plain = first.view(_ndarray)
            made = func(plain, *rest, **kwargs)
            return first if made is plain else made.view(SimArray)
        return _wrapped(func(*_plain(args), **_plain(kwargs)))

    def __getitem__(self, key: Any) -> Any:
        return _wrapped(super().__getitem__(key))

    def __setitem__(self, key: Any, value: Any) -> None:
        _operand(value)
        super().__setitem__(key, value)

    def take(self, indices: Any, axis: Any = None) -> Any:  # type: ignore[override]
        """NumPy's; the indices may be a NumPy array."""
        places = indices.view(_ndarray) if isinstance(indices, SimArray) else indices
        return _wrapped(self.view(_ndarray).take(places, axis))

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("cuda-sim: an array of the device does not become a NumPy array by itself")


def _operand(x: Any) -> Any:
    """An operand as NumPy's own. Raises TypeError for an array of the CPU."""
    if isinstance(x, SimArray):
        return x.view(_ndarray)
    if isinstance(x, _ndarray) and x.ndim:
        raise TypeError(f"cuda-sim: an array of the device meets one of the CPU, of shape {x.shape}")
    return x


def _plain(x: Any) -> Any:
    """Arguments of a function, lists and tuples of arrays among them, as NumPy's own."""
    if isinstance(x, tuple | list):
        return type(x)([_plain(item) for item in x])
    if isinstance(x, dict):
        return {key: _plain(value) for key, value in x.items()}
    return _operand(x)


def _wrapped(x: Any) -> Any:
    """Results: arrays and NumPy scalars are the device's."""
    if x.__class__ is SimArray or x is None:
        return x
    if isinstance(x, _ndarray):
        return x.view(SimArray)
    if isinstance(x, np.generic):
        return np.asarray(x).view(SimArray)
    if isinstance(x, list):
        return [_wrapped(item) for item in x]
    if isinstance(x, tuple):
        parts = [_wrapped(item) for item in x]
        return x._make(parts) if hasattr(x, "_make") else tuple(parts)
    return x


def _method(name: str) -> Any:
    function = getattr(_ndarray, name)

    def method(self: SimArray, *args: Any, **kwargs: Any) -> Any:
        return _wrapped(function(self.view(_ndarray), *_plain(args), **_plain(kwargs)))

    method.__name__ = name
    return method


for _name in (  # those that NumPy would answer with a scalar or an array of its own, or take a NumPy array for
    *("all", "any", "argmax", "argmin", "argpartition", "argsort", "choose", "clip", "compress", "cumprod", "cumsum"),
    *("diagonal", "dot", "max", "mean", "min", "nonzero", "prod", "repeat", "round", "searchsorted", "std", "sum"),
    *("trace", "var"),
):  # fmt: skip
    setattr(SimArray, _name, _method(_name))


def _waiting(name: str) -> Any:
    function = getattr(_ndarray, name)

    def method(self: SimArray, *args: Any) -> Any:
        wait(f"{name.strip('_')}()")
        return function(self, *args)

    method.__name__ = name
    return method


for _name in ("__bool__", "__complex__", "__float__", "__index__", "__int__", "item", "tolist"):
    setattr(SimArray, _name, _waiting(_name))


class Kernels:
    """The compiled kernels, which take arrays of the device only, as those of a GPU take CuPy's only."""

    #: Arguments that are NumPy arrays on every device: lengths, read before a kernel runs.
    _on_the_host: ClassVar[dict[str, int]] = {"rnn_forward": 4, "rnn_backward": 7}

    def __init__(self, module: Any):
        self._module = module

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        kept = found if isinstance(found, type) else self._checked(found, self._on_the_host.get(name))
        setattr(self, name, kept)
        return kept

    @staticmethod
    def _checked(kernel: Any, host: int | None) -> Any:
        def call(*args: Any) -> Any:
            for i, x in enumerate(args):
                if i != host:
                    _check_array(x)
            return kernel(*args)

        return call


def _check_array(x: Any) -> None:
    """Raises TypeError for an array of the CPU, in a list or by itself."""
    if x.__class__ is _ndarray:
        raise TypeError("expected an array of the device cuda-sim, got numpy.ndarray")
    if x.__class__ is list:
        for item in x:
            _check_array(item)


def empty(shape: Any, dtype: Any) -> SimArray:
    """An uninitialised array on the device."""
    return np.empty(shape, dtype).view(SimArray)


def make_backend() -> Backend:
    """The backend of this device. Raises RuntimeError if fastdl was built without the executor."""
    try:
        kernels = Kernels(import_module("fastdl._cuda_sim"))
    except ImportError as error:
        raise RuntimeError(
            f"device 'cuda-sim' is not available: fastdl was built without the host executor (FASTDL_SIMT=ON): {error}"
        ) from None
    return Backend(
        "cuda-sim", SimArray, kernels, empty, from_numpy, to_numpy, lambda _: None, empty((), np.float32)
    )
