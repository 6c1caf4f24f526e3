"""Indexing, gathering, scattering, sorting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd import ArrayFunction, TensorBase, _mode, is_float, mark_inplace, wrap
from .core import (
    View,
    add_at,
    as_tensor,
    cast,
    check_inplace,
    normalize_dim,
    numpy_names,
    overwrite,
    unbroadcast,
)
from .reduction import Pick, ValuesIndices

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
        y = x[index]
        return (
            y if y.__class__ is np.ndarray else x[(*index, ...)]
        )  # an element as a 0-d view, not as a number

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
    used = sum([i.ndim if i.dtype.kind == "b" else 1 for i in index if isinstance(i, np.ndarray)])
    used += len([i for i in index if i.__class__ is int or i.__class__ is slice])
    first: list = []
    rest: list = []
    for i in index:
        if i.__class__ is int:
            first.append(i)
        elif i is Ellipsis:
            first += [slice(None)] * (ndim - used)
            rest.append(i)
        elif isinstance(i, np.ndarray):
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
    mark_inplace(data)


# ------------------------------------------------------------------------------------- along one dimension


def _indices(name: str, index: Any, limit: int) -> np.ndarray:
    """An integer index array, checked against the size of the dimension it picks from."""
    i = as_tensor(index)._data
    if i.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected an integer index, got {i.dtype}")
    if i.size and not (i.min() >= 0 and i.max() < limit):
        bad = int(i.min() if i.min() < 0 else i.max())
        raise IndexError(f"{name}: index {bad} is out of bounds for a dimension of size {limit}")
    return i


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
        out = np.zeros(shape, grad.dtype)
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
            gs = np.zeros(shape, grad.dtype)
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
        src = wrap(np.broadcast_to(np.asarray(src, x.dtype), i.shape))
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
    count = np.zeros(x.shape, np.int64)
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


# --------------------------------------------------------------------------------------------------- masks


class MaskedFill(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, x: Any, mask: Any, value: Any) -> Any:
        ctx.save(mask)
        ctx.shape = x.shape
        return np.where(mask, value, x)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        (mask,) = ctx.saved
        gv = np.where(mask, grad, grad.dtype.type(0)).sum() if ctx.needs[2] else None
        return unbroadcast(np.where(mask, grad.dtype.type(0), grad), ctx.shape), None, gv


def _mask(name: str, mask: Any) -> np.ndarray:
    m = as_tensor(mask)._data
    if m.dtype.kind != "b":
        raise TypeError(f"{name}: expected a bool mask, got {m.dtype}")
    return m


def masked_fill(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """``value`` (a number or 0-d tensor) where ``mask`` holds, else ``input``."""
    m = _mask("masked_fill", mask)
    if isinstance(value, TensorBase):
        if value._data.ndim:
            raise ValueError(f"masked_fill: expected a number or a 0-d tensor, got shape {value._data.shape}")
        value = cast(value, input._data.dtype)
    else:
        value = np.asarray(value).astype(input._data.dtype)
    return MaskedFill.apply(input, m, value)


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
        return wrap(np.zeros((len(found[0]), 0), np.int64))
    return wrap(np.stack(found, 1).astype(np.int64, copy=False))


argwhere = nonzero


# -------------------------------------------------------------------------------------------------- triangles


class Triangle(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, x: Any, function: Any, k: int) -> Any:
        ctx.how = function, k
        return function(x, k)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        function, k = ctx.how
        return function(grad, k)


def _matrix(name: str, input: Tensor) -> Tensor:
    if input._data.ndim < 2:
        raise ValueError(f"{name}: expected at least 2 dimensions, got shape {input._data.shape}")
    return input


def tril(input: Tensor, diagonal: int = 0) -> Tensor:
    """The lower triangle of matrices, zero above ``diagonal``."""
    return Triangle.apply(_matrix("tril", input), np.tril, diagonal)


def triu(input: Tensor, diagonal: int = 0) -> Tensor:
    """The upper triangle of matrices, zero below ``diagonal``."""
    return Triangle.apply(_matrix("triu", input), np.triu, diagonal)


def tril_indices(row: int, col: int, offset: int = 0) -> Tensor:
    """Row and column indices of a lower triangle: (2, count)."""
    return wrap(np.stack(np.tril_indices(row, offset, col)).astype(np.int64))


def triu_indices(row: int, col: int, offset: int = 0) -> Tensor:
    """Row and column indices of an upper triangle: (2, count)."""
    return wrap(np.stack(np.triu_indices(row, offset, col)).astype(np.int64))


class Diagonal(View):
    @staticmethod
    def forward(ctx: Any, x: Any, offset: int, a: int, b: int) -> Any:
        ctx.how = x.shape, offset, a, b
        y = np.diagonal(x, offset, a, b)
        if x.flags.writeable:
            y.flags.writeable = True  # NumPy hands out a read-only view of writable memory
        return y

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        shape, offset, a, b = ctx.how
        out = np.zeros(shape, grad.dtype)
        d = np.diagonal(out, offset, a, b)
        d.flags.writeable = True
        d[...] = grad
        return out


def diagonal(input: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """The diagonal over two dimensions, as a last dimension: a view."""
    n = input._data.ndim
    a, b = normalize_dim("diagonal", dim1, n), normalize_dim("diagonal", dim2, n)
    if a == b:
        raise ValueError(f"diagonal: expected two different dimensions, got {dim1} and {dim2}")
    return Diagonal.apply(input, offset, a, b)


def diag(input: Tensor, diagonal: int = 0) -> Tensor:
    """A matrix's diagonal, or the matrix with a vector as its diagonal."""
    n = input._data.ndim
    if n == 1:
        return diag_embed(input, diagonal)
    if n != 2:
        raise ValueError(f"diag: expected 1 or 2 dimensions, got {n}")
    return Diagonal.apply(input, diagonal, 0, 1)


class DiagEmbed(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, x: Any, offset: int, a: int, b: int) -> Any:
        ctx.how = offset, a, b
        n = x.shape[-1] + abs(offset)
        out = np.zeros((*x.shape[:-1], n, n), x.dtype)
        i = np.arange(x.shape[-1])
        out[..., i + max(-offset, 0), i + max(offset, 0)] = x
        return np.moveaxis(out, (-2, -1), (a, b))

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return np.diagonal(grad, *ctx.how)


def diag_embed(input: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """Matrices with the last dimension of ``input`` as their diagonals."""
    n = input._data.ndim + 1
    a, b = normalize_dim("diag_embed", dim1, n), normalize_dim("diag_embed", dim2, n)
    if a == b:
        raise ValueError(f"diag_embed: expected two different dimensions, got {dim1} and {dim2}")
    return DiagEmbed.apply(input, offset, a, b)


# ----------------------------------------------------------------------------------------------------- sorting


def _order(x: np.ndarray, axis: int, descending: bool) -> np.ndarray:
    """Indices that sort, stable either way; NaN counts as the largest."""
    if x.dtype.kind == "V":  # NumPy's sort does not know where bfloat16's NaN belongs
        x = x.astype(np.float32)
    if not descending:
        return np.argsort(x, axis, kind="stable")
    reverse = np.argsort(np.flip(x, axis), axis, kind="stable")
    return x.shape[axis] - 1 - np.flip(reverse, axis)


@numpy_names
def sort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    """(values, indices) sorted along ``dim``; NaN counts as the largest. The order of equal elements is kept."""
    x = input._data
    axis = normalize_dim("sort", dim, x.ndim)
    if not x.ndim:
        return ValuesIndices(input + 0, wrap(np.zeros((), np.int64)))
    return ValuesIndices(*Pick.apply(input, _order(x, axis, descending), axis, True))


@numpy_names
def argsort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> Tensor:
    """The indices that `sort` gives."""
    x = input._data
    axis = normalize_dim("argsort", dim, x.ndim)
    return wrap(_order(x, axis, descending) if x.ndim else np.zeros((), np.int64))


def msort(input: Tensor) -> Tensor:
    """Sorted along dimension 0."""
    return sort(input, 0).values


def topk(input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    """(values, indices) of the ``k`` largest (or smallest) elements along ``dim``, in order.
    Raises ValueError unless 0 <= k <= the size of ``dim``."""
    x = input._data
    axis = normalize_dim("topk", dim, x.ndim)
    n = x.shape[axis] if x.ndim else 1
    if not 0 <= k <= n:
        raise ValueError(f"topk: expected k in 0..{n}, got {k}")
    if not x.ndim:
        return ValuesIndices(input + 0, wrap(np.zeros((), np.int64)))
    cut = (slice(None),) * axis
    if 0 < 8 * k < n:  # find them first, then sort only those
        part = np.argpartition(x, n - k if largest else k, axis)
        part = part[(*cut, slice(n - k, n) if largest else slice(k))]
        part = np.sort(part, axis)
        order = _order(np.take_along_axis(x, part, axis), axis, largest)
        indices = np.take_along_axis(part, order, axis)
    else:
        indices = _order(x, axis, largest)[(*cut, slice(k))]
    return ValuesIndices(*Pick.apply(input, indices, axis, True))


_unique: Any = np.unique
_searchsorted: Any = np.searchsorted


def unique(
    input: Tensor,
    sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: Any = None,
) -> Any:
    """The different elements (slices along ``dim``) in order; with flags also the place of each input element among
    them, and how often each occurs."""
    out: Any = _unique(input._data, False, return_inverse, return_counts, dim, equal_nan=False)
    if not isinstance(out, tuple):
        return wrap(out)
    parts = list(out)
    if return_inverse:
        parts[1] = parts[1].reshape(-1 if dim is not None else input._data.shape)
    return tuple([wrap(p) for p in parts])


def unique_consecutive(input: Tensor, return_inverse: bool = False, return_counts: bool = False) -> Any:
    """Runs of equal elements of the flattened tensor made one."""
    x = input._data.reshape(-1)
    first = np.concatenate([[True], x[1:] != x[:-1]]) if x.size else np.zeros(0, bool)
    out = [wrap(x[first])]
    if return_inverse:
        out.append(wrap((np.cumsum(first) - 1).reshape(input._data.shape)))
    if return_counts:
        out.append(wrap(np.diff(np.append(np.flatnonzero(first), x.size))))
    return out[0] if len(out) == 1 else tuple(out)


def searchsorted(
    sorted_sequence: Tensor, input: Any, *, right: bool = False, side: str | None = None
) -> Tensor:
    """Where each element would go into a sorted vector (the last dimension, for batches) to keep it sorted, int64."""
    side = side or ("right" if right else "left")
    s, v = sorted_sequence._data, as_tensor(input)._data
    if s.ndim == 1:
        return wrap(np.asarray(_searchsorted(s, v, side), np.int64))
    rows = [_searchsorted(a, b, side) for a, b in zip(s.reshape(-1, s.shape[-1]), v.reshape(-1, v.shape[-1]))]
    return wrap(np.stack(rows).reshape(v.shape).astype(np.int64))


def bucketize(input: Any, boundaries: Tensor, *, right: bool = False) -> Tensor:
    """The bucket of each element between sorted ``boundaries``."""
    return searchsorted(boundaries, input, right=right)


def isin(elements: Any, test_elements: Any) -> Tensor:
    """Whether each element is among ``test_elements``."""
    return wrap(np.isin(as_tensor(elements)._data, as_tensor(test_elements)._data))


def iterate(input: Tensor) -> Any:
    """The slices along dimension 0, one after another."""
    if not input._data.ndim:
        raise TypeError("iteration over a 0-d tensor")
    from .shape import unbind

    return iter(unbind(input, 0))
