"""Gathering and scattering along one dimension by index tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd import ArrayFunction, TensorBase, _mode, is_float, wrap
from .core import (
    add_at,
    as_tensor,
    normalize_dim,
    numpy_names,
    widened,
)
from .indexing import _indices

if TYPE_CHECKING:
    from ..tensor import Tensor


def _grid(index: np.ndarray, axis: int) -> tuple:
    """The full index that reads or writes ``x[..., index[...], ...]`` along ``axis``."""
    grid = list(np.ogrid[tuple([slice(n) for n in index.shape])])
    grid[axis] = index
    return tuple(grid)


class Gather(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, x: Any, axis: int, index: Any) -> Any:
        ctx.how = x.shape, axis, index
        return x[_grid(index, axis)]

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        shape, axis, index = ctx.how
        out = np.zeros(shape, grad.dtype, like=grad)
        add_at(out, _grid(index, axis), grad)
        return out


def gather(input: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False) -> Tensor:
    """``out[i][j] = input[index[i][j]][j]`` (for dim 0): elements picked along ``dim``. ``index`` has as many
    dimensions as ``input`` and no larger sizes elsewhere. Raises IndexError for indices out of bounds."""
    x = input._data
    axis = normalize_dim("gather", dim, x.ndim)
    i = _index_for("gather", x.shape, axis, index)
    return Gather.apply(input, axis, i) if x.ndim else input + 0


def _index_for(name: str, shape: tuple, axis: int, index: Any) -> np.ndarray:
    i = _indices(name, index, shape[axis] if shape else 1)
    if i.ndim != len(shape) and i.size:
        raise ValueError(f"{name}: expected an index of {len(shape)} dimensions, got shape {i.shape}")
    if any(a > b for d, (a, b) in enumerate(zip(i.shape, shape)) if d != axis) and i.size:
        raise ValueError(f"{name}: index shape {i.shape} exceeds {shape} outside dimension {axis}")
    return i


@numpy_names
def take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """As `gather`, with ``input`` and ``indices`` broadcast against each other outside ``dim``."""
    if dim is None:
        return gather(input.reshape(-1), 0, as_tensor(indices).reshape(-1))
    axis = normalize_dim("take_along_dim", dim, input._data.ndim)
    a, b = list(input._data.shape), list(indices._data.shape)
    if len(a) != len(b):
        raise ValueError(f"take_along_dim: expected as many dimensions, got shapes {tuple(a)} and {tuple(b)}")
    na, nb = a[axis], b[axis]
    a[axis] = b[axis] = 1
    common = list(np.broadcast_shapes(tuple(a), tuple(b)))
    common[axis] = na
    input = input.expand(common)
    common[axis] = nb
    return gather(input, axis, indices.expand(common))


class Scatter(ArrayFunction):
    """``x`` with ``src`` written (or added) where ``index`` says along ``axis``."""

    @staticmethod
    def forward(ctx: Any, x: Any, src: Any, axis: int, index: Any, add: bool) -> Any:
        grid = _grid(index, axis)
        ctx.how = src.shape, grid, add
        out = x.copy()
        src = src[tuple([slice(n) for n in index.shape])]
        if add:
            add_at(out, grid, src)
        else:
            out[grid] = src
        return out

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        shape, grid, add = ctx.how
        gx, gs = grad, None
        if ctx.needs[0] and not add:
            gx = grad.copy()
            gx[grid] = 0
        if ctx.needs[1]:
            gs = np.zeros(shape, grad.dtype, like=grad)
            part = grad[grid]
            gs[tuple([slice(n) for n in part.shape])] = part
        return gx, gs


def _scatter(name: str, input: Tensor, dim: int, index: Any, src: Any, add: bool) -> Tensor:
    x = input._data
    axis = normalize_dim(name, dim, x.ndim)
    if not x.ndim:
        index, src = as_tensor(index).reshape(-1), as_tensor(src).reshape(-1)
        return _scatter(name, input.reshape(1), 0, index, src, add).reshape(())
    i = _index_for(name, x.shape, axis, index)
    if not isinstance(src, TensorBase):
        src = wrap(np.broadcast_to(np.asarray(src, x.dtype, like=x), i.shape))
    if src._data.dtype != x.dtype:
        raise TypeError(f"{name}: expected src of dtype {x.dtype}, got {src._data.dtype}")
    if src._data.ndim != x.ndim or any(a > b for a, b in zip(i.shape, src._data.shape)):
        raise ValueError(f"{name}: index shape {i.shape} exceeds src shape {src._data.shape}")
    if not i.size:
        return input + 0
    return Scatter.apply(input, src, axis, i, add)


def scatter(
    input: Tensor, dim: int, index: Tensor, src: Any = None, *, value: Any = None, reduce: str | None = None
) -> Tensor:
    """``out[index[i][j]][j] = src[i][j]`` (for dim 0), elsewhere ``input``. ``src`` may be a number.
    ``reduce="add"`` adds instead. Which of several writes to one place wins is not defined."""
    src = value if src is None else src
    if reduce not in (None, "add"):
        raise ValueError(f'scatter: expected reduce None or "add", got {reduce!r}; see scatter_reduce')
    return _scatter("scatter", input, dim, index, src, reduce == "add")


def scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """``out[index[i][j]][j] += src[i][j]`` (for dim 0) onto a copy of ``input``."""
    return _scatter("scatter_add", input, dim, index, src, True)


_REDUCE = {"sum": np.add, "prod": np.multiply, "amax": np.maximum, "amin": np.minimum, "mean": np.add}


@widened
def scatter_reduce(
    input: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """As `scatter_add` with another reduction: "sum", "prod", "mean", "amax", "amin". Only "sum" with
    ``include_self`` is differentiable; the others raise RuntimeError for tensors that require gradients."""
    if reduce not in _REDUCE:
        raise ValueError(f"scatter_reduce: expected one of {', '.join(_REDUCE)}, got {reduce!r}")
    if reduce == "sum" and include_self:
        return scatter_add(input, dim, index, src)
    if _mode.enabled and (input._node is not None or src._node is not None):
        raise RuntimeError(f'scatter_reduce: reduce="{reduce}" has no gradient; detach() the tensors')
    x, s = input._data.copy(), src._data
    axis = normalize_dim("scatter_reduce", dim, x.ndim)
    i = _index_for("scatter_reduce", x.shape, axis, index)
    grid = _grid(i, axis)
    count = np.zeros(x.shape, np.int64, like=x)
    np.add.at(count, grid, 1)
    if not include_self:
        start: Any = {"sum": 0, "mean": 0, "prod": 1}.get(reduce)
        if start is None:
            if is_float(x.dtype):
                start = -np.inf if reduce == "amax" else np.inf
            else:
                start = np.iinfo(x.dtype).min if reduce == "amax" else np.iinfo(x.dtype).max
        x[count > 0] = start
    _REDUCE[reduce].at(x, grid, s[tuple([slice(n) for n in i.shape])])
    if reduce == "mean":
        n = np.maximum(count + include_self, 1)
        x = (x / n if is_float(x.dtype) else x // n).astype(x.dtype)
    return wrap(x)
