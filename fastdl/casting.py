"""Automatic mixed precision: `autocast` has each function compute in the dtype that suits it.

Functions say what suits them in their class (`ArrayFunction.autocast`), and `ArrayFunction.apply` asks here. Outside
autocast that costs one look at a global variable.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from . import autograd
from .autograd import Leaf, TensorBase, _mode, version
from .backend import is_array
from .device import KINDS, check_device
from .locks import process_lock

_FLOAT32 = np.dtype(np.float32)


class _State(threading.local):
    dtype: Any = None  # what products are computed in; None: autocast is off in this thread
    cache: Any = None  # casts of parameters by (id, whether recorded): see _lowered
    caching = True
    depth = 0


_state = _State()
_cast: Any = None  # fastdl.functional.core.cast, once that is there
_lock = process_lock()  # for the number of blocks that all threads are in


class autocast:
    """Mixed precision in a ``with`` block, or in a function it decorates (for this thread): functions on float32 and
    16-bit Tensors cast their arguments to the dtype that suits them, as torch's autocast does.

    * Products - linear, matmul and its kin, convolutions, recurrent layers, attention, prelu - are computed in
      ``dtype``, bfloat16 or float16.
    * Losses, prod, quantile, cdist, trace and three-dimensional average pooling are computed in float32.
    * Everything else takes what comes; where two dtypes meet (add, cat, where ...), the wider one wins. Sums,
      norms and softmax of 16-bit Tensors are accumulated in float32 in any case.

    Parameters stay float32, and so do their gradients: the casts are part of the graph. A parameter is cast once per
    block and again after it was changed in place (``cache_enabled=False``: at every use). float64 is left alone.

    ``autocast("cpu", dtype)`` is torch's form, ``autocast(dtype)`` the short one; either holds for all devices.
    ``enabled=False`` switches mixed precision off for a part of a block. Call ``backward`` outside or inside: it
    works in the dtypes of forward. Raises ValueError for another dtype, RuntimeError for another device.

    >>> import fastdl
    >>> layer = fastdl.nn.Linear(3, 2)
    >>> with fastdl.autocast("bfloat16"):
    ...     y = layer(fastdl.ones(4, 3))
    ...     loss = fastdl.nn.functional.mse_loss(y, fastdl.zeros(4, 2))
    >>> y.dtype.name, loss.dtype.name
    ('bfloat16', 'float32')
    >>> loss.backward()
    >>> layer.weight.grad.dtype.name
    'float32'
    """

    def __init__(
        self,
        device_type: Any = "cpu",
        dtype: Any = None,
        enabled: bool = True,
        cache_enabled: bool | None = None,
    ):
        from .dtypes import as_dtype

        if dtype is None and not (isinstance(device_type, str) and device_type.split(":")[0] in KINDS):
            device_type, dtype = "cpu", device_type
        check_device(device_type)
        self.dtype = as_dtype("bfloat16" if dtype is None else dtype)
        if self.dtype.name not in ("bfloat16", "float16"):
            raise ValueError(f"autocast: expected dtype to be bfloat16 or float16, got {self.dtype.name}")
        self.enabled = bool(enabled)
        self.cache_enabled = True if cache_enabled is None else bool(cache_enabled)
        self.previous: list[tuple] = []

    def __enter__(self) -> autocast:
        self.previous.append((_state.dtype, _state.caching))
        if not _state.depth:
            _state.cache = {}
        _state.dtype = self.dtype if self.enabled else None
        _state.caching = self.cache_enabled
        _state.depth += 1
        with _lock:
            autograd.autocasting += 1
        return self

    def __exit__(self, *exc: Any) -> None:
        with _lock:
            autograd.autocasting -= 1
        _state.depth -= 1
        _state.dtype, _state.caching = self.previous.pop()
        if not _state.depth:
            _state.cache = None

    def __call__(self, function: Callable) -> Callable:
        device, dtype, enabled, cache = "cpu", self.dtype, self.enabled, self.cache_enabled

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with autocast(device, dtype, enabled, cache):
                return function(*args, **kwargs)

        return call


def is_autocast_enabled(device_type: Any = "cpu") -> bool:
    """Whether this thread is inside an `autocast` block that is enabled."""
    return _state.dtype is not None


def get_autocast_dtype(device_type: Any = "cpu") -> Any:
    """What `autocast` computes products in: that of the block, bfloat16 outside."""
    from .dtypes import as_dtype

    return as_dtype("bfloat16") if _state.dtype is None else _state.dtype


def cast_arguments(function: Any, args: tuple) -> tuple:
    """The arguments of ``function.apply`` in the dtypes that suit the function."""
    policy, dtype = function.autocast, _state.dtype
    if policy is None or dtype is None:
        return args
    if policy == "lower":
        return tuple([_lowered(a, dtype) if isinstance(a, TensorBase) else a for a in args])
    if policy == "promote" and not any(_castable(a) and a._data.dtype == _FLOAT32 for a in args):
        return args
    return tuple([_in_float32(a) for a in args])


def lowered(*args: Any) -> tuple:
    """Tensors as `autocast` wants them in a product, for functions that look at dtypes before they call one."""
    dtype = _state.dtype
    if dtype is None:
        return args
    return tuple([_lowered(a, dtype) if isinstance(a, TensorBase) else a for a in args])


def in_float32(*args: Any) -> tuple:
    """Tensors as `autocast` wants them in a loss."""
    return args if _state.dtype is None else tuple([_in_float32(a) for a in args])


def _castable(a: Any) -> bool:
    return isinstance(a, TensorBase) and a._data.dtype.itemsize <= 4 and autograd.is_float(a._data.dtype)


def _in_float32(a: Any) -> Any:
    if isinstance(a, TensorBase):
        return _cast(a, _FLOAT32) if a._data.itemsize == 2 and _castable(a) else a
    if is_array(a) and a.itemsize == 2 and autograd.is_float(a.dtype):
        return a.astype(_FLOAT32)
    return a


def _lowered(t: Any, dtype: np.dtype) -> Any:
    data = t._data
    if data.dtype is dtype or not _castable(t):
        return t
    if t._node.__class__ is not Leaf or not _state.caching:
        return _cast(t, dtype)
    # A parameter: the cast is kept with what it was made from, which may be replaced or changed in place.
    key = id(t), _mode.enabled
    entry = _state.cache.get(key)
    now = version(data)
    if entry is not None and entry[0] is data and entry[1] == now and entry[2].dtype == dtype:
        return entry[2]
    made = _cast(t, dtype)
    _state.cache[key] = data, now, made, t  # t: so that no other tensor gets its id
    return made


if autograd.cast_arguments is None:  # doctest runners import modules twice
    autograd.cast_arguments = cast_arguments
