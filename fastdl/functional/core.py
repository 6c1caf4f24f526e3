"""What every function module shares: promotion of operands, undoing of broadcasting, views and in-place forms."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from .. import autograd, backend, casting
from ..autograd import ArrayFunction, Leaf, TensorBase, _mode, is_float, mark_inplace, wrap
from ..backend import as_array, beside, convert, copied, is_array, is_writable
from ..device import is_on, place
from ..device import of as device_of
from ..dtypes import combine, promote_types, scalar_dtype

if TYPE_CHECKING:
    from ..tensor import Tensor

_SCALARS = (float, int, bool)
_F = TypeVar("_F", bound=Callable)


def widened(function: _F) -> _F:
    """The function, with two-byte floats widened to float32 for all of it, forward and backward, and its results
    rounded once at the end."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        first = args[0] if args else next(iter(kwargs.values()), None)
        if isinstance(first, TensorBase) and first._data.itemsize == 2 and is_float(first._data.dtype):
            return in_float32(function, first, args, kwargs)
        return function(*args, **kwargs)

    return call  # type: ignore[return-value]


def float32_in_autocast(function: _F) -> _F:
    """`widened`, but that results stay float32 inside `fastdl.autocast`."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        first = args[0] if args else next(iter(kwargs.values()), None)
        if isinstance(first, TensorBase) and first._data.itemsize == 2 and is_float(first._data.dtype):
            return in_float32(
                function, first, args, kwargs, autograd.autocasting and casting.is_autocast_enabled()
            )
        return function(*args, **kwargs)

    return call  # type: ignore[return-value]


def in_float32(function: Callable, first: Any, args: tuple, kwargs: dict, keep: Any = False) -> Any:
    """A call of a function whose ``first`` argument is a Tensor of two-byte floats, computed in float32. The results
    have the dtype to which its Tensors promote (float32 with ``keep``); one that ``dtype=`` asks for stays."""
    result = first._data.dtype

    def widen(t: Any) -> Any:
        nonlocal result
        if not isinstance(t, TensorBase) or not is_float(t._data.dtype):
            return t
        dtype = t._data.dtype
        if dtype != result:
            result = promote_types(result, dtype) if t._data.ndim or not first._data.ndim else result
        return cast(t, _FLOAT32) if dtype.itemsize == 2 else t

    args = tuple([widen(a) for a in args])
    out = function(*args, **{k: widen(v) for k, v in kwargs.items()})
    if keep or kwargs.get("dtype") is not None or result.itemsize > 2:
        return out
    return _rounded(out, result)


def _rounded(out: Any, dtype: np.dtype) -> Any:
    if isinstance(out, TensorBase):
        return cast(out, dtype) if out._data.dtype == _FLOAT32 else out
    if isinstance(out, tuple):
        parts = [_rounded(o, dtype) for o in out]
        return out._make(parts) if hasattr(out, "_make") else tuple(parts)
    return out


_FLOAT32 = np.dtype(np.float32)


def numpy_names(function: _F, wide: bool = False) -> _F:
    """Let a function also take NumPy's ``axis`` and ``keepdims``, as torch does, and name itself in complaints about
    its first argument (a Tensor; cat and stack take lists of them). ``wide``: it is `widened`, too."""
    kinds: Any = (TensorBase, list, tuple) if function.__name__ in ("cat", "stack") else TensorBase

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if kwargs:
            if "axis" in kwargs:
                kwargs["dim"] = kwargs.pop("axis")
            if "keepdims" in kwargs:
                kwargs["keepdim"] = kwargs.pop("keepdims")
        if args and not isinstance(args[0], kinds):
            if not is_array(args[0]):
                raise TypeError(f"{function.__name__}: expected a Tensor, got {type(args[0]).__name__}")
            args = (wrap(args[0]), *args[1:])
        if wide:
            first = args[0] if args else kwargs.get("input")
            if isinstance(first, TensorBase) and first._data.itemsize == 2 and is_float(first._data.dtype):
                return in_float32(function, first, args, kwargs)
        return function(*args, **kwargs)

    return call  # type: ignore[return-value]


def numpy_names_widened(function: _F) -> _F:
    """`numpy_names` and `widened` in one."""
    return numpy_names(function, True)


def unbroadcast(grad: np.ndarray, shape: tuple) -> np.ndarray:
    """Sum a gradient over the axes along which an operand of ``shape`` was repeated."""
    if grad.shape == shape:
        return grad
    lead = grad.ndim - len(shape)
    axes = tuple(range(lead)) + tuple(
        [lead + i for i, n in enumerate(shape) if n == 1 and grad.shape[lead + i] != 1]
    )
    dtype = _FLOAT32 if grad.dtype.itemsize == 2 else None
    return as_array(grad.sum(axes, dtype=dtype)).astype(grad.dtype, copy=False).reshape(shape)


def add_at(out: np.ndarray, index: Any, values: Any) -> None:
    """``out[index] += values`` for a C-contiguous ``out`` and an index that may name a place more than once. Going
    through the places in flat memory is ten times faster than ``np.add.at`` with several dimensions. Two-byte floats
    are added up in float32."""
    places = np.arange(out.size, like=out).reshape(out.shape)[index]
    values = np.broadcast_to(values, places.shape).reshape(-1)
    if out.itemsize == 2 and is_float(out.dtype):
        sums = out.reshape(-1).astype(_FLOAT32)
        np.add.at(sums, places.reshape(-1), values.astype(_FLOAT32))
        out.reshape(-1)[...] = sums
    else:
        np.add.at(out.reshape(-1), places.reshape(-1), values)


def select(condition: Any, a: Any, b: Any) -> np.ndarray:
    """``np.where``, of bfloat16 by way of its bits: NumPy takes twenty times as long for a type it does not know."""
    if b.dtype.kind == "V":
        return np.where(condition, a.view(np.uint16), b.view(np.uint16)).view(b.dtype)
    return np.where(condition, a, b)


class Clone(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return copied(x)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return grad


class Contiguous(Clone):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x.copy()


class Cast(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, x: Any, dtype: Any) -> Any:
        ctx.dtype = x.dtype
        return convert(x, dtype)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return convert(grad, ctx.dtype)


class Move(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, x: Any, where: Any) -> Any:
        ctx.home = device_of(x)
        return place(x, where)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return place(grad, ctx.home)


def move(x: Any, where: Any) -> Any:
    """A Tensor on another device (the same Tensor where it is there already)."""
    return x if is_on(x._data, where) else Move.apply(x, where)


def cast(x: Any, dtype: np.dtype) -> Any:
    """A Tensor of another dtype (the same Tensor where it has it already)."""
    if x._data.dtype == dtype:
        return x
    if is_float(dtype):
        return Cast.apply(x, dtype)
    return wrap(x._data.astype(dtype))


casting._cast = cast


def as_operand(x: Any) -> Any:
    """A Tensor, or a Python scalar, from whatever stands in an expression."""
    if isinstance(x, TensorBase) or x.__class__ in _SCALARS:
        return x
    if is_array(x) or isinstance(x, np.generic):
        return wrap(as_array(x))
    if isinstance(x, _SCALARS):
        return x
    if isinstance(x, complex):
        raise TypeError("complex numbers are not supported")
    return NotImplemented


def promote(name: str, a: Any, b: Any) -> tuple[Any, Any]:
    """Bring two operands (Tensors, arrays, Python scalars) to one dtype by torch's rules; scalars stay scalars."""
    a, b = as_operand(a), as_operand(b)
    if a is NotImplemented or b is NotImplemented:
        raise TypeError(f"{name}: expected Tensors, arrays or numbers")
    if not isinstance(a, TensorBase):
        if not isinstance(b, TensorBase):
            return wrap(np.asarray(a, scalar_dtype(a))), b
        b, a = _with_scalar(b, a)
        return a, b
    if not isinstance(b, TensorBase):
        return _with_scalar(a, b)
    da, db = a._data.dtype, b._data.dtype
    if da == db:
        return a, b
    if (a._data.ndim == 0) == (b._data.ndim == 0):
        dtype = promote_types(da, db)
    elif a._data.ndim:
        dtype = combine(da, db)
    else:
        dtype = combine(db, da)
    return cast(a, dtype), cast(b, dtype)


def _with_scalar(t: Any, s: Any) -> tuple[Any, Any]:
    dtype = t._data.dtype
    if is_float(dtype):
        return t, s
    target = combine(dtype, scalar_dtype(s))
    if target is not dtype:
        t = cast(t, target)
    if target.kind in "iub":  # out-of-range values wrap, as torch has it
        s = np.asarray(s).astype(target)
    return t, s


def float_input(x: Any) -> Any:
    """A Tensor of floating dtype: integers become the default dtype (exp, sqrt, mean ... of integers)."""
    x = as_tensor(x)
    if not is_float(x._data.dtype):
        return wrap(x._data.astype(backend.get_default_dtype()))
    return x


def as_tensor(x: Any) -> Any:
    """``x`` itself where it is a Tensor, else a Tensor made from an array, a number or a nested list."""
    if isinstance(x, TensorBase):
        return x
    if is_array(x):
        return wrap(x)
    return autograd.Tensor(x)


def normalize_dim(name: str, dim: int, ndim: int) -> int:
    """A dimension counted from the front. Raises IndexError outside ``[-ndim, ndim)`` (a 0-d tensor has dim 0)."""
    n = ndim or 1
    if not isinstance(dim, int | np.integer):
        raise TypeError(f"{name}: expected dim to be an integer, got {type(dim).__name__}")
    if not -n <= dim < n:
        raise IndexError(
            f"{name}: dimension out of range (expected to be in range of [{-n}, {n - 1}], but got {dim})"
        )
    return dim + n if dim < 0 else dim


# --------------------------------------------------------------------------------------------------------- views


_apply: Any = ArrayFunction.apply.__func__  # type: ignore[attr-defined]  # quicker than super()


class View(ArrayFunction):
    """A function whose output shares the memory of its first argument. The output remembers its base, and a base with
    history its views, so that changing either in place reaches the gradient of the other."""

    @classmethod
    def apply(cls, *args: Any) -> Any:
        t = _apply(cls, *args)
        if _mode.enabled:
            t._base = (cls, args)
            base = args[0]
            if t._node is not None and base._node.__class__ is not Leaf:  # leaves never change in place
                views = getattr(base, "_views", None)
                if views is None:
                    base._views = [weakref.ref(t)]
                else:
                    views.append(weakref.ref(t))
        return t


class _CopySlices(ArrayFunction):
    """What a tensor has become after one of its views was modified in place."""

    view: Any

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        rest = grad.copy()
        part = ctx.view(ArrayFunction(), rest)
        grad_part = part.copy()
        part[...] = 0
        return rest, grad_part


class _Constant(ArrayFunction):
    """What a tensor with history has become when constants were written over all of it."""

    @staticmethod
    def backward(ctx: Any, grad: Any) -> None:
        return None


def _rebase(t: Any, node: Any) -> None:
    """Give a tensor modified in place its new node, and so for those it is a view of, and their other views."""
    changed = None
    while True:
        t._node = node
        _renew_views(t, changed)
        changed = t
        view = getattr(t, "_base", None)
        if view is None:
            return
        cls, args = view
        t = args[0]
        if node is None and t._node is None:
            continue
        copy = _CopySlices()
        copy.view = lambda ctx, a, cls=cls, rest=args[1:]: cls.forward(ctx, a, *rest)
        copy.inputs = copy.needs = [t._node, node]
        copy.key = next(autograd._keys)
        copy.epoch = autograd._epoch
        node = copy


def _renew_views(t: Any, changed: Any) -> None:
    """Make the views of ``t`` views of what it has become (but for the one through which it was changed)."""
    for ref in getattr(t, "_views", ()):
        view = ref()
        if view is not None and view is not changed:
            cls, args = view._base
            node = None
            if t._node is not None:
                node = cls()
                node.inputs = node.needs = [t._node] + [None] * (len(args) - 1)
                node.key = next(autograd._keys)
                node.epoch = autograd._epoch
                cls.forward(node, t._data, *args[1:])
            view._node = node
            _renew_views(view, None)


def check_inplace(name: str, t: Any) -> None:
    """Raise where an in-place change would cut a leaf that requires a gradient off its graph."""
    if not _mode.enabled:
        return
    if t._node.__class__ is Leaf:
        raise RuntimeError(
            f"{name}: a leaf Tensor that requires grad is being used in an in-place operation."
        )
    view = getattr(t, "_base", None)
    while view is not None:
        base = view[1][0]
        if base._node.__class__ is Leaf:
            raise RuntimeError(
                f"{name}: a view of a leaf Tensor that requires grad is being used in an in-place operation."
            )
        view = getattr(base, "_base", None)


def overwrite(name: str, t: Any, new: Any) -> Any:
    """Make ``t`` in place what the Tensor ``new`` is: value, and history where there is one."""
    data, value = t._data, new._data
    if value.shape != data.shape:
        raise RuntimeError(
            f"{name}: output with shape {data.shape} doesn't match the broadcast shape {value.shape}"
        )
    if value.dtype != data.dtype:
        if (is_float(value.dtype) and not is_float(data.dtype)) or data.dtype.kind == "b":
            raise RuntimeError(
                f"{name}: result type {value.dtype} can't be cast to the tensor's type {data.dtype}"
            )
        new = cast(new, data.dtype)
    if not is_writable(data):
        raise RuntimeError(f"{name}: the tensor's memory is read-only")
    data[...] = beside(new._data, data)
    mark_inplace(data)
    if _mode.enabled:
        node = new._node
        if node is None and t._node is not None:
            node = _Constant()
            node.inputs = node.needs = [t._node]
            node.key = next(autograd._keys)
            node.epoch = autograd._epoch
        _rebase(t, node)
    return t


def inplace(function: Callable) -> Callable:
    """The in-place form of a function: ``add`` -> ``add_``."""
    name = function.__name__ + "_"

    @functools.wraps(function)
    def method(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        check_inplace(name, self)
        source = self
        if self._node is not None and _mode.enabled:  # the node may save its input, which is about to change
            source = wrap(copied(self._data))
            source._node = self._node
        return overwrite(name, self, function(source, *args, **kwargs))

    method.__name__ = name
    method.__doc__ = f"In-place form of ``{function.__name__}``: changes this tensor and returns it."
    return method
