"""Indexing, gathering, scattering, sorting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd import ArrayFunction, TensorBase, _mode, mark_inplace, wrap
from ..backend import is_array, note_out_of_range
from ..device import of as device_of
from .core import (
    View,
    add_at,
    as_tensor,
    cast,
    check_inplace,
    move,
    normalize_dim,
    overwrite,
    select,
    unbroadcast,
)

if TYPE_CHECKING:
    from ..tensor import Tensor


def array_index(index: Any) -> tuple[Any, bool]:
    """An index for NumPy, and whether it is basic (slices, integers, None, ...: the result is a view)."""
    if index.__class__ is not tuple:
        index = (index,)
    out = []
    basic = True
    for i in index:
        if isinstance(i, TensorBase):
            i = i._data
            if i.ndim == 0 and i.dtype.kind in "iu":
                i = int(i)
        elif isinstance(i, np.integer):
            i = int(i)
        if i.__class__ is list or i.__class__ is range:
            i = np.asarray([j._data.item() if isinstance(j, TensorBase) else j for j in i])
            if i.size == 0:
                i = i.astype(np.int64)
        if is_array(i):
            if i.dtype.kind not in "iub":
                raise IndexError(f"index: expected integers or bools, got {i.dtype}")
            basic = False
        elif i is True or i is False:
            basic = False
        out.append(i)
    return tuple(out), basic


class Slice(View):
    @staticmethod
    def forward(ctx: Any, x: Any, index: Any) -> Any:
        ctx.index = index
        ctx.shape = x.shape
        y = x[index]
        return (
            y if y.__class__ is x.__class__ else x[(*index, ...)]
        )  # an element as a 0-d view, not as a number

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        out = np.zeros(ctx.shape, grad.dtype, like=grad)
        out[ctx.index] = grad
        return out


class Index(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, x: Any, index: Any) -> Any:
        ctx.index = index
        ctx.shape = x.shape
        return x[index]

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        out = np.zeros(ctx.shape, grad.dtype, like=grad)
        if all(not is_array(i) or i.dtype.kind == "b" for i in ctx.index):
            out[ctx.index] = grad  # a mask picks each element once
        else:
            add_at(out, ctx.index, grad)
        return out


class SetIndex(ArrayFunction):
    """``x`` with the elements at ``index`` replaced by ``value``."""

    @staticmethod
    def forward(ctx: Any, x: Any, value: Any, index: Any) -> Any:
        ctx.index = index
        ctx.value_shape = value.shape
        out = x.copy()
        out[index] = value
        return out

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        gx = gv = None
        if ctx.needs[0]:
            gx = grad.copy()
            gx[ctx.index] = 0
        if ctx.needs[1]:
            gv = grad[ctx.index]
            lead = len(ctx.value_shape) - gv.ndim
            shape = ctx.value_shape[lead:] if lead > 0 else ctx.value_shape
            gv = unbroadcast(gv, shape).reshape(ctx.value_shape)
        return gx, gv


def _integers_first(input: Tensor, index: tuple) -> tuple[Tensor, tuple]:
    """Integers beside index arrays are taken first, as slices are: torch's rule (NumPy broadcasts them with the
    arrays, which can move dimensions). Returns what is left to index, and with what."""
    if not any(i.__class__ is int for i in index):
        return input, index
    ndim = input._data.ndim
    used = sum([i.ndim if i.dtype.kind == "b" else 1 for i in index if is_array(i)])
    used += len([i for i in index if i.__class__ is int or i.__class__ is slice])
    first: list = []
    rest: list = []
    for i in index:
        if i.__class__ is int:
            first.append(i)
        elif i is Ellipsis:
            first += [slice(None)] * (ndim - used)
            rest.append(i)
        elif is_array(i):
            first += [slice(None)] * (i.ndim if i.dtype.kind == "b" else 1)
            rest.append(i)
        else:
            if i.__class__ is slice:
                first.append(slice(None))
            rest.append(i)
    return Slice.apply(input, tuple(first)), tuple(rest)


def getitem(input: Tensor, index: Any) -> Tensor:
    """``input[index]``: a view for integers and slices, a copy for index tensors and masks."""
    if index.__class__ is int or index.__class__ is slice:
        return Slice.apply(input, (index,))
    index, basic = array_index(index)
    if basic:
        return Slice.apply(input, index)
    return Index.apply(*_integers_first(input, index))


def setitem(input: Tensor, index: Any, value: Any) -> None:
    """``input[index] = value``, recorded where a gradient is wanted."""
    check_inplace("__setitem__", input)
    index, basic = array_index(index)
    if not basic:
        input, index = _integers_first(input, index)
    data = input._data
    value = as_tensor(value) if not isinstance(value, int | float) else wrap(np.asarray(value, like=data))
    if value._data.dtype != data.dtype:
        value = cast(value, data.dtype)
    if value._data.__class__ is not data.__class__:
        value = move(value, device_of(data))
    if _mode.enabled and (input._node is not None or value._node is not None):
        overwrite("__setitem__", input, SetIndex.apply(input, value, index))
        return
    try:
        data[index] = value._data
    except ValueError as e:
        raise ValueError(f"__setitem__: {e}") from None
    mark_inplace(data)


def _indices(name: str, index: Any, limit: int) -> np.ndarray:
    """An integer index array, checked against the size of the dimension it picks from."""
    i = as_tensor(index)._data
    if i.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected an integer index, got {i.dtype}")
    if i.__class__ is not np.ndarray:
        note_out_of_range(i, limit)
    elif i.size and not (i.min() >= 0 and i.max() < limit):
        bad = int(i.min() if i.min() < 0 else i.max())
        raise IndexError(f"{name}: index {bad} is out of bounds for a dimension of size {limit}")
    return i


def _vector_index(name: str, input: Tensor, dim: int, index: Any) -> tuple[int, np.ndarray]:
    axis = normalize_dim(name, dim, input._data.ndim)
    i = _indices(name, index, input._data.shape[axis])
    if i.ndim > 1:
        raise ValueError(f"{name}: expected a 1-d index, got shape {i.shape}")
    return axis, i.reshape(-1)


def _slices(axis: int, index: np.ndarray) -> tuple:
    return (*(slice(None),) * axis, index)


def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """The slices of ``dim`` that a 1-d ``index`` lists. Raises IndexError out of bounds."""
    axis, i = _vector_index("index_select", input, dim, index)
    return Index.apply(input, _slices(axis, i))


class IndexAdd(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, x: Any, src: Any, at: tuple) -> Any:
        ctx.at = at
        out = x.copy()
        add_at(out, at, src)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return grad, grad[ctx.at] if ctx.needs[1] else None


def index_add(input: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: Any = 1) -> Tensor:
    """``input`` with ``alpha * source``'s slices added at the places ``index`` lists along ``dim``."""
    axis, i = _vector_index("index_add", input, dim, index)
    if alpha != 1:
        source = source * alpha
    return IndexAdd.apply(input, source, _slices(axis, i))


def index_copy(input: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """``input`` with its slices at ``index`` along ``dim`` replaced by those of ``source``."""
    axis, i = _vector_index("index_copy", input, dim, index)
    return SetIndex.apply(input, source, _slices(axis, i))


def index_fill(input: Tensor, dim: int, index: Tensor, value: Any) -> Tensor:
    """``input`` with its slices at ``index`` along ``dim`` set to a number."""
    axis, i = _vector_index("index_fill", input, dim, index)
    return SetIndex.apply(input, cast(as_tensor(value), input._data.dtype), _slices(axis, i))


def take(input: Tensor, index: Tensor) -> Tensor:
    """Elements of the flattened tensor at ``index``."""
    i = _indices("take", index, input._data.size)
    return Index.apply(input.reshape(-1), (i,))


class MaskedFill(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, x: Any, mask: Any, value: Any) -> Any:
        ctx.save(mask)
        ctx.shape = x.shape
        return select(mask, value, x)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        (mask,) = ctx.saved
        zero = np.zeros((), grad.dtype, like=grad)
        gv = unbroadcast(select(mask, grad, zero), ()) if ctx.needs[2] else None
        return unbroadcast(select(mask, zero, grad), ctx.shape), None, gv


def _mask(name: str, mask: Any) -> np.ndarray:
    m = as_tensor(mask)._data
    if m.dtype.kind != "b":
        raise TypeError(f"{name}: expected a bool mask, got {m.dtype}")
    return m


def _number(name: str, value: Any, like: Any) -> Any:
    """A Python number as an array of the dtype of ``like``, beside it. Raises ValueError where an integer dtype cannot
    hold it."""
    dtype = like.dtype
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if not limits.min <= value <= limits.max:
            raise ValueError(f"{name}: {value} can't be converted to {dtype.name} without overflow")
    return np.asarray(value, like=like).astype(dtype)


def masked_fill(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """``value`` (a number or 0-d tensor) where ``mask`` holds, else ``input``. Integer tensors take its whole part, as
    in torch. Raises ValueError for a number that the dtype cannot hold."""
    m = _mask("masked_fill", mask)
    if isinstance(value, TensorBase):
        if value._data.ndim:
            raise ValueError(f"masked_fill: expected a number or a 0-d tensor, got shape {value._data.shape}")
        value = cast(value, input._data.dtype)
    else:
        value = _number("masked_fill", value, input._data)
    try:
        return MaskedFill.apply(input, m, value)
    except ValueError:
        raise ValueError(
            f"masked_fill: expected shapes that broadcast together, got {input._data.shape} and {m.shape}"
        ) from None


def masked_select(input: Tensor, mask: Tensor) -> Tensor:
    """The elements where ``mask`` holds, as a vector (both are broadcast)."""
    m = _mask("masked_select", mask)
    shape = np.broadcast_shapes(m.shape, input._data.shape)
    x = input if input._data.shape == shape else input.expand(shape)
    return Index.apply(x, (np.broadcast_to(m, shape),))


def masked_scatter(input: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """``input`` with the elements where ``mask`` holds taken, in order, from ``source``."""
    m = np.broadcast_to(_mask("masked_scatter", mask), input._data.shape)
    n = int(m.sum())
    if source._data.size < n:
        raise ValueError(f"masked_scatter: expected at least {n} elements in source, got {source._data.size}")
    return SetIndex.apply(input, source.reshape(-1)[:n], (m,))


def nonzero(input: Tensor, *, as_tuple: bool = False) -> Any:
    """Indices of the elements that are not zero: (count, ndim), or one vector per dimension."""
    found = np.atleast_1d(input._data).nonzero() if not input._data.ndim else input._data.nonzero()
    if as_tuple:
        return tuple([wrap(i) for i in found])
    if not input._data.ndim:
        return wrap(np.zeros((len(found[0]), 0), np.int64, like=input._data))
    return wrap(np.stack(found, 1).astype(np.int64, copy=False))


argwhere = nonzero


def iterate(input: Tensor) -> Any:
    """The slices along dimension 0, one after another."""
    if not input._data.ndim:
        raise TypeError("iteration over a 0-d tensor")
    from .joining import unbind

    return iter(unbind(input, 0))
