"""Repeating and reordering elements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd import ArrayFunction
from ..backend import to_numpy, wide
from .core import add_at, as_tensor, normalize_dim
from .reduction import total
from .shape import expand, reshape, sizes, transpose

if TYPE_CHECKING:
    from ..tensor import Tensor


class Tile(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, x: Any, repeats: tuple) -> Any:
        ctx.how = x.shape, repeats
        return np.tile(x, repeats)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        shape, repeats = ctx.how
        padded = (1,) * (len(repeats) - len(shape)) + shape
        parts = [n for pair in zip(repeats, padded) for n in pair]
        return total(grad.reshape(parts), tuple(range(0, len(parts), 2)), False).reshape(shape)


def repeat(input: Tensor, *repeats: Any) -> Tensor:
    """The tensor copied ``repeats`` times along each dimension (new dimensions in front)."""
    counts = tuple([int(n) for n in sizes(repeats)])
    if len(counts) < input._data.ndim:
        raise ValueError(f"repeat: expected at least {input._data.ndim} counts, got {len(counts)}")
    if min(counts, default=0) < 0:
        raise ValueError(f"repeat: expected counts of at least 0, got {counts}")
    return Tile.apply(input, counts)


def tile(input: Tensor, *args: Any, dims: Any = None) -> Tensor:
    """As `repeat`, but fewer counts than dimensions are filled up with ones in front."""
    counts = tuple([int(n) for n in sizes(args if dims is None else (dims,))])
    return repeat(input, (1,) * (input._data.ndim - len(counts)) + counts)


class RepeatEach(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, x: Any, repeats: Any, axis: int) -> Any:
        ctx.how = x.shape, repeats, axis
        return np.repeat(x, repeats, axis)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        shape, repeats, axis = ctx.how
        n = shape[axis]
        out = np.zeros((n, *grad.shape[:axis], *grad.shape[axis + 1 :]), grad.dtype, like=grad)
        add_at(out, np.repeat(np.arange(n), repeats), np.moveaxis(grad, axis, 0))
        return np.moveaxis(out, 0, axis)


def repeat_interleave(input: Tensor, repeats: Any, dim: int | None = None) -> Tensor:
    """Each element (slice along ``dim``) repeated; ``repeats`` is a number or one per slice."""
    if dim is None:
        input, dim = reshape(input, -1), 0
    axis = normalize_dim("repeat_interleave", dim, input._data.ndim)
    if not isinstance(repeats, int):
        repeats = to_numpy(as_tensor(repeats)._data).reshape(-1).tolist()
        if len(repeats) not in (1, input._data.shape[axis]):
            raise ValueError(
                f"repeat_interleave: expected one count per slice ({input._data.shape[axis]}), got {len(repeats)}"
            )
    if np.min(repeats, initial=0) < 0:
        raise ValueError("repeat_interleave: expected counts of at least 0")
    return RepeatEach.apply(input, repeats, axis)


class Flip(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, x: Any, axes: tuple) -> Any:
        ctx.axes = axes
        return np.flip(x, axes).copy()

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return np.flip(grad, ctx.axes)


def flip(input: Tensor, *args: Any, dims: Any = None) -> Tensor:
    """The order reversed along ``dims`` (a copy): ``flip(x, 0, 1)`` or ``flip(x, (0, 1))``."""
    dims = sizes(args if dims is None else (dims,))
    axes = tuple([normalize_dim("flip", d, input._data.ndim) for d in dims])
    return Flip.apply(input, axes if input._data.ndim else ())


def fliplr(input: Tensor) -> Tensor:
    """`flip` of dimension 1."""
    return flip(input, 1)


def flipud(input: Tensor) -> Tensor:
    """`flip` of dimension 0."""
    return flip(input, 0)


class Roll(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, x: Any, shifts: Any, axes: Any) -> Any:
        ctx.how = shifts, axes
        return np.roll(x, shifts, axes)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        shifts, axes = ctx.how
        return np.roll(grad, tuple([-s for s in shifts]) if isinstance(shifts, tuple) else -shifts, axes)


def roll(input: Tensor, shifts: Any, dims: Any = None) -> Tensor:
    """Elements moved by ``shifts`` along ``dims`` (the flattened tensor if None), those that fall off come back."""
    if dims is None or dims == ():
        return Roll.apply(input, shifts if isinstance(shifts, int) else shifts[0], None)
    shifts, dims = ((v,) if isinstance(v, int) else tuple(v) for v in (shifts, dims))
    if len(shifts) != len(dims):
        raise ValueError(f"roll: expected as many shifts as dims, got {shifts} and {dims}")
    return Roll.apply(input, shifts, tuple([normalize_dim("roll", d, input._data.ndim) for d in dims]))


def rot90(input: Tensor, k: int = 1, dims: Any = (0, 1)) -> Tensor:
    """Rotated by ``k`` times 90 degrees in the plane of two dimensions."""
    a, b = dims
    k %= 4
    if k == 0:
        return input + 0
    if k == 2:
        return flip(input, a, b)
    return flip(transpose(input, a, b), a if k == 1 else b)


class Unfold(ArrayFunction):
    @staticmethod
    def forward(ctx: Any, x: Any, axis: int, size: int, step: int) -> Any:
        ctx.how = x.shape, axis, size, step
        windows = np.lib.stride_tricks.sliding_window_view(x, size, axis)
        return windows[(slice(None),) * axis + (slice(None, None, step),)]

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        shape, axis, size, step = ctx.how
        out = np.zeros(shape, wide(grad.dtype), like=grad)
        count = grad.shape[axis]
        for i in range(size):
            out[(slice(None),) * axis + (slice(i, i + step * count, step),)] += grad[..., i]
        return out.astype(grad.dtype, copy=False)


def unfold(input: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """Windows of ``size`` every ``step`` elements along a dimension, in a new last dimension."""
    axis = normalize_dim("unfold", dimension, input._data.ndim)
    n = input._data.shape[axis]
    if not 0 < size <= n or step < 1:
        raise ValueError(f"unfold: expected 0 < size <= {n} and step >= 1, got size {size}, step {step}")
    return Unfold.apply(input, axis, size, step)


def meshgrid(*tensors: Any, indexing: str = "ij") -> tuple[Tensor, ...]:
    """Coordinate grids from vectors: every grid varies along one dimension. ``indexing="xy"`` swaps the first two."""
    if len(tensors) == 1 and isinstance(tensors[0], list | tuple):
        tensors = tuple(tensors[0])
    if indexing not in ("ij", "xy"):
        raise ValueError(f'meshgrid: expected indexing "ij" or "xy", got {indexing!r}')
    shape = tuple([t._data.size for t in tensors])
    n = len(shape)
    out = [expand(reshape(t, [-1 if j == i else 1 for j in range(n)]), shape) for i, t in enumerate(tensors)]
    if indexing == "xy" and n > 1:
        out = [transpose(g, 0, 1) for g in out]
    return tuple(out)
