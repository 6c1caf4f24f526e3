"""Indexing, reading and writing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd import ArrayFunction, TensorBase, _mode, wrap
from .core import View, as_tensor, cast, check_inplace, overwrite

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
        if i.__class__ is list or i.__class__ is range:
            i = np.asarray([j.item() if isinstance(j, TensorBase) else j for j in i])
            if i.size == 0:
                i = i.astype(np.int64)
        if isinstance(i, np.ndarray):
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
        return x[(*index, ...)] if Ellipsis not in index else x[index]

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        out = np.zeros(ctx.shape, grad.dtype)
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
        out = np.zeros(ctx.shape, grad.dtype)
        if all(not isinstance(i, np.ndarray) or i.dtype.kind == "b" for i in ctx.index):
            out[ctx.index] = grad  # a mask picks each element once
        else:
            np.add.at(out, ctx.index, grad)
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
        from .core import unbroadcast

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


def getitem(input: Tensor, index: Any) -> Tensor:
    """``input[index]``: a view for integers and slices, a copy for index tensors and masks."""
    index, basic = array_index(index)
    return Slice.apply(input, index) if basic else Index.apply(input, index)


def setitem(input: Tensor, index: Any, value: Any) -> None:
    """``input[index] = value``, recorded where a gradient is wanted."""
    check_inplace("__setitem__", input)
    index, _ = array_index(index)
    data = input._data
    value = as_tensor(value) if not isinstance(value, int | float) else wrap(np.asarray(value))
    if value._data.dtype != data.dtype:
        value = cast(value, data.dtype)
    if _mode.enabled and (input._node is not None or value._node is not None):
        overwrite("__setitem__", input, SetIndex.apply(input, value, index))
        return
    try:
        data[index] = value._data
    except ValueError as e:
        raise ValueError(f"__setitem__: {e}") from None
    from ..autograd import mark_inplace

    mark_inplace(data)
