"""Joining tensors and taking them apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd import ArrayFunction
from .core import as_tensor, normalize_dim, numpy_names
from .shape import atleast_1d, atleast_2d, atleast_3d

if TYPE_CHECKING:
    from ..tensor import Tensor


class Cat(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, axis: int, *arrays: Any) -> Any:
        ctx.axis = axis
        ctx.sizes = [a.shape[axis] for a in arrays]
        return np.concatenate(arrays, axis)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        before = (slice(None),) * ctx.axis
        grads = [None]
        start = 0
        for n, need in zip(ctx.sizes, ctx.needs[1:]):
            grads.append(grad[(*before, slice(start, start + n))] if need else None)
            start += n
        return tuple(grads)


class Stack(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, axis: int, *arrays: Any) -> Any:
        ctx.axis = axis
        return np.stack(arrays, axis)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return (None, *np.moveaxis(grad, ctx.axis, 0))


def _same_type(name: str, tensors: Any) -> list:
    tensors = [as_tensor(t) for t in tensors]
    if not tensors:
        raise ValueError(f"{name}: expected a non-empty list of tensors")
    dtype = tensors[0]._data.dtype
    if any(t._data.dtype != dtype for t in tensors):
        from ..dtypes import promote_types
        from .core import cast

        for t in tensors:
            dtype = promote_types(dtype, t._data.dtype)
        tensors = [cast(t, dtype) for t in tensors]
    return tensors


@numpy_names
def cat(tensors: Any, dim: int = 0) -> Tensor:
    """Tensors joined along an existing dimension. Empty 1-d tensors fit between any others, as in torch."""
    tensors = _same_type("cat", tensors)
    kept = [t for t in tensors if t._data.shape != (0,)]
    if not kept or kept[0]._data.ndim == 1:
        kept = tensors
    shape = kept[0]._data.shape
    if not shape:
        raise ValueError("cat: zero-dimensional tensors cannot be joined; use stack")
    axis = normalize_dim("cat", dim, len(shape))
    for t in kept:
        s = t._data.shape
        if len(s) != len(shape) or s[:axis] != shape[:axis] or s[axis + 1 :] != shape[axis + 1 :]:
            raise ValueError(f"cat: expected shapes equal except in dimension {axis}, got {shape} and {s}")
    return Cat.apply(axis, *kept)


concat = concatenate = cat


@numpy_names
def stack(tensors: Any, dim: int = 0) -> Tensor:
    """Tensors of one shape joined along a new dimension."""
    tensors = _same_type("stack", tensors)
    shape = tensors[0]._data.shape
    for t in tensors:
        if t._data.shape != shape:
            raise ValueError(f"stack: expected tensors of one shape, got {shape} and {t._data.shape}")
    return Stack.apply(normalize_dim("stack", dim, len(shape) + 1), *tensors)


def hstack(tensors: Any) -> Tensor:
    """Tensors joined along dimension 1 (vectors along 0)."""
    tensors = atleast_1d(*tensors)
    return cat(tensors, 0 if tensors[0]._data.ndim == 1 else 1)


def vstack(tensors: Any) -> Tensor:
    """Tensors (vectors as rows) joined along dimension 0."""
    return cat(atleast_2d(*tensors), 0)


def dstack(tensors: Any) -> Tensor:
    """Tensors joined along dimension 2."""
    return cat([atleast_3d(t) for t in tensors], 2)


def narrow(input: Tensor, dim: int, start: int, length: int) -> Tensor:
    """``length`` elements of dimension ``dim`` from ``start``: a view."""
    from .indexing import Slice

    shape = input._data.shape
    if not shape:
        raise ValueError("narrow: expected at least one dimension")
    dim = normalize_dim("narrow", dim, len(shape))
    start = int(start) + (shape[dim] if start < 0 else 0)
    if length < 0 or not 0 <= start <= shape[dim] - length:
        raise IndexError(f"narrow: start {start} with length {length} exceeds dimension size {shape[dim]}")
    return Slice.apply(input, (slice(None),) * dim + (slice(start, start + length),))


def select(input: Tensor, dim: int, index: int) -> Tensor:
    """The slice of dimension ``dim`` at ``index``: a view."""
    from .indexing import Slice

    shape = input._data.shape
    if not shape:
        raise IndexError("select: expected at least one dimension")
    dim = normalize_dim("select", dim, len(shape))
    if not -shape[dim] <= index < shape[dim]:
        raise IndexError(f"select: index {index} out of range for dimension {dim} of size {shape[dim]}")
    return Slice.apply(input, (slice(None),) * dim + (int(index),))


def split(tensor: Tensor, split_size_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Pieces along ``dim``: of one size (the last may be smaller), or of the listed sizes. Views."""
    shape = tensor._data.shape
    dim = normalize_dim("split", dim, len(shape))
    n = shape[dim] if shape else 1
    if isinstance(split_size_or_sections, int):
        size = split_size_or_sections
        if size < 0 or (size == 0 and n):
            raise ValueError(f"split: expected a positive split size, got {size}")
        sections = [min(size, n - i) for i in range(0, n, size)] if n else [0]
    else:
        sections = [int(s) for s in split_size_or_sections]
        if sum(sections) != n or min(sections, default=0) < 0:
            raise ValueError(
                f"split: expected sizes that sum to {n}, the size of dimension {dim}, got {sections}"
            )
    out = []
    start = 0
    for size in sections:
        out.append(narrow(tensor, dim, start, size))
        start += size
    return tuple(out)


def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most ``chunks`` pieces of equal size along ``dim`` (the last may be smaller). Views."""
    if chunks < 1:
        raise ValueError(f"chunk: expected chunks of at least 1, got {chunks}")
    axis = normalize_dim("chunk", dim, input._data.ndim)
    n = input._data.shape[axis]
    if n == 0:
        return tuple([narrow(input, axis, 0, 0) for _ in range(chunks)])
    return split(input, -(-n // chunks), axis)


def tensor_split(input: Tensor, indices_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Pieces along ``dim``: a number of nearly equal ones, or cut before the listed indices. Views."""
    axis = normalize_dim("tensor_split", dim, input._data.ndim)
    n = input._data.shape[axis]
    if isinstance(indices_or_sections, int):
        k = indices_or_sections
        if k < 1:
            raise ValueError(f"tensor_split: expected at least 1 section, got {k}")
        sections = [n // k + (i < n % k) for i in range(k)]
        return split(input, sections, axis)
    cuts = [min(max(c + n if c < 0 else c, 0), n) for c in map(int, indices_or_sections)]
    starts, ends = [0, *cuts], [*cuts, n]
    return tuple([narrow(input, axis, s, max(e - s, 0)) for s, e in zip(starts, ends)])


class Unbind(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, x: Any, axis: int) -> Any:
        ctx.axis = axis
        return tuple(np.moveaxis(x, axis, 0)[i, ...] for i in range(x.shape[axis]))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return np.stack(grads, ctx.axis)


def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """The slices along ``dim``, without it."""
    if not input._data.ndim:
        raise ValueError("unbind: expected at least one dimension")
    axis = normalize_dim("unbind", dim, input._data.ndim)
    return Unbind.apply(input, axis) if input._data.shape[axis] else ()
