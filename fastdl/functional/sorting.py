"""Sorting, and what is found by it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd import wrap
from .core import (
    as_tensor,
    normalize_dim,
    numpy_names_widened,
    widened,
)
from .reduction import Pick, ValuesIndices

if TYPE_CHECKING:
    from ..tensor import Tensor


def _order(x: np.ndarray, axis: int, descending: bool) -> np.ndarray:
    """Indices that sort, stable either way; NaN counts as the largest."""
    if x.dtype.kind == "V":  # NumPy's sort does not know where bfloat16's NaN belongs
        x = x.astype(np.float32)
    if not descending:
        return np.argsort(x, axis, kind="stable")
    reverse = np.argsort(np.flip(x, axis), axis, kind="stable")
    return x.shape[axis] - 1 - np.flip(reverse, axis)


@numpy_names_widened
def sort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    """(values, indices) sorted along ``dim``; NaN counts as the largest. The order of equal elements is kept."""
    x = input._data
    axis = normalize_dim("sort", dim, x.ndim)
    if not x.ndim:
        return ValuesIndices(input + 0, wrap(np.zeros((), np.int64, like=x)))
    return ValuesIndices(*Pick.apply(input, _order(x, axis, descending), axis, True))


@numpy_names_widened
def argsort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> Tensor:
    """The indices that `sort` gives."""
    x = input._data
    axis = normalize_dim("argsort", dim, x.ndim)
    return wrap(_order(x, axis, descending) if x.ndim else np.zeros((), np.int64, like=x))


def msort(input: Tensor) -> Tensor:
    """Sorted along dimension 0."""
    return sort(input, 0).values


@widened
def topk(input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    """(values, indices) of the ``k`` largest (or smallest) elements along ``dim``, in order.
    Raises ValueError unless 0 <= k <= the size of ``dim``."""
    x = input._data
    axis = normalize_dim("topk", dim, x.ndim)
    n = x.shape[axis] if x.ndim else 1
    if not 0 <= k <= n:
        raise ValueError(f"topk: expected k in 0..{n}, got {k}")
    if not x.ndim:
        return ValuesIndices(input + 0, wrap(np.zeros((), np.int64, like=x)))
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


@widened
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


@widened
def unique_consecutive(input: Tensor, return_inverse: bool = False, return_counts: bool = False) -> Any:
    """Runs of equal elements of the flattened tensor made one."""
    x = input._data.reshape(-1)
    first = np.ones(x.size, bool, like=x)
    first[1:] = x[1:] != x[:-1]
    out = [wrap(x[first])]
    if return_inverse:
        out.append(wrap((np.cumsum(first) - 1).reshape(input._data.shape)))
    if return_counts:
        out.append(wrap(np.diff(np.flatnonzero(first), append=x.size)))
    return out[0] if len(out) == 1 else tuple(out)


@widened
def searchsorted(
    sorted_sequence: Tensor, input: Any, *, right: bool = False, side: str | None = None
) -> Tensor:
    """Where each element would go into a sorted vector (the last dimension, for batches) to keep it sorted, int64."""
    side = side or ("right" if right else "left")
    s, v = sorted_sequence._data, as_tensor(input)._data
    if s.ndim == 1:
        return wrap(np.asarray(_searchsorted(s, v, side), np.int64, like=s))
    rows = [_searchsorted(a, b, side) for a, b in zip(s.reshape(-1, s.shape[-1]), v.reshape(-1, v.shape[-1]))]
    return wrap(np.stack(rows).reshape(v.shape).astype(np.int64))


@widened
def bucketize(input: Any, boundaries: Tensor, *, right: bool = False) -> Tensor:
    """The bucket of each element between sorted ``boundaries``."""
    return searchsorted(boundaries, input, right=right)


@widened
def isin(elements: Any, test_elements: Any) -> Tensor:
    """Whether each element is among ``test_elements``."""
    return wrap(np.isin(as_tensor(elements)._data, as_tensor(test_elements)._data))
