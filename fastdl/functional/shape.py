"""Changes of shape: views where NumPy can view, copies where it cannot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd import ArrayFunction, TensorBase, wrap
from .core import View, add_at, as_tensor, normalize_dim, numpy_names

if TYPE_CHECKING:
    from ..tensor import Tensor


def sizes(args: tuple) -> tuple:
    """Sizes given either as one sequence or one by one."""
    if len(args) == 1 and not isinstance(args[0], int | np.integer):
        first: Any = args[0]
        return (
            tuple(first) if not isinstance(first, TensorBase) or first._data.ndim else (first._data.item(),)
        )
    return args


class Reshape(View):
    @staticmethod
    def forward(ctx: Any, x: Any, shape: tuple) -> Any:
        ctx.shape = x.shape
        return x.reshape(shape)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return grad.reshape(ctx.shape)


class Permute(View):
    @staticmethod
    def forward(ctx: Any, x: Any, dims: tuple) -> Any:
        ctx.dims = dims
        return x.transpose(dims)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        inverse = [0] * len(ctx.dims)
        for i, d in enumerate(ctx.dims):
            inverse[d] = i
        return grad.transpose(inverse)


class SwapAxes(View):
    @staticmethod
    def forward(ctx: Any, x: Any, a: int, b: int) -> Any:
        ctx.axes = a, b
        return x.swapaxes(a, b)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return grad.swapaxes(*ctx.axes)


class Expand(View):
    @staticmethod
    def forward(ctx: Any, x: Any, shape: tuple) -> Any:
        ctx.shape = x.shape
        return np.broadcast_to(x, shape)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        from .core import unbroadcast

        return unbroadcast(grad, ctx.shape)


def _full_shape(name: str, size: int, shape: tuple) -> tuple:
    """A shape with its -1 filled in. Raises ValueError where it does not hold ``size`` elements."""
    known = 1
    free = None
    for i, n in enumerate(shape):
        if n == -1:
            if free is not None:
                raise ValueError(f"{name}: only one dimension can be inferred, got shape {shape}")
            free = i
        elif n < 0:
            raise ValueError(f"{name}: invalid shape dimension {n} in {shape}")
        else:
            known *= n
    if free is not None:
        if known == 0:
            raise ValueError(
                f"{name}: cannot infer dimension {free} of shape {shape} for a tensor of {size} elements"
            )
        if size % known == 0:
            return (*shape[:free], size // known, *shape[free + 1 :])
    elif known == size:
        return shape
    raise ValueError(f"{name}: shape {shape} is invalid for a tensor of {size} elements")


def reshape(input: Tensor, *shape: Any) -> Tensor:
    """The same elements in another shape: a view where possible, else a copy. One size may be -1."""
    x = input._data
    try:
        return Reshape.apply(input, shape if len(shape) != 1 else shape[0])
    except (ValueError, TypeError):
        target = tuple([int(n) for n in sizes(shape)])
        return Reshape.apply(input, _full_shape("reshape", x.size, target))


def view(input: Tensor, *shape: Any) -> Tensor:
    """The same memory in another shape (or, given a dtype, read as that dtype). Raises RuntimeError where the
    strides allow no view."""
    x = input._data
    if len(shape) == 1 and isinstance(shape[0], np.dtype | type):
        return wrap(x.view(shape[0]))
    target = _full_shape("view", x.size, tuple([int(n) for n in sizes(shape)]))
    out = Reshape.apply(input, target)
    if x.size and not np.may_share_memory(out._data, x):
        raise RuntimeError(
            f"view: size {target} is not compatible with the input's strides; use reshape() instead"
        )
    return out


def reshape_as(input: Tensor, other: Tensor) -> Tensor:
    """``input`` in the shape of ``other``."""
    return reshape(input, other._data.shape)


def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Dimensions ``start_dim`` to ``end_dim`` (inclusive) made one; a 0-d tensor becomes 1-d."""
    shape = input._data.shape
    if not shape:
        return reshape(input, (1,))
    start, end = (
        normalize_dim("flatten", start_dim, len(shape)),
        normalize_dim("flatten", end_dim, len(shape)),
    )
    if start > end:
        raise RuntimeError(f"flatten: start_dim {start_dim} cannot come after end_dim {end_dim}")
    if start == end:
        return input
    return Reshape.apply(input, (*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :]))


def unflatten(input: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """Dimension ``dim`` split into ``sizes`` (one may be -1)."""
    shape = input._data.shape
    dim = normalize_dim("unflatten", dim, len(shape))
    inner = _full_shape("unflatten", shape[dim], tuple(sizes))
    return Reshape.apply(input, (*shape[:dim], *inner, *shape[dim + 1 :]))


def squeeze(input: Tensor, dim: Any = None) -> Tensor:
    """Without dimensions of size 1: all, or those of ``dim`` (int or tuple) that have size 1."""
    shape = input._data.shape
    if dim is None:
        return Reshape.apply(input, tuple([n for n in shape if n != 1]))
    dims = [normalize_dim("squeeze", d, len(shape)) for d in ((dim,) if isinstance(dim, int) else dim)]
    return Reshape.apply(input, tuple([n for i, n in enumerate(shape) if n != 1 or i not in dims]))


def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """With a dimension of size 1 put in at ``dim``."""
    shape = input._data.shape
    dim = normalize_dim("unsqueeze", dim, len(shape) + 1)
    return Reshape.apply(input, (*shape[:dim], 1, *shape[dim:]))


def permute(input: Tensor, *dims: Any) -> Tensor:
    """The dimensions in another order."""
    n = input._data.ndim
    order = tuple([normalize_dim("permute", d, n) for d in sizes(dims)])
    if sorted(order) != list(range(n)):
        raise ValueError(f"permute: expected an order of the {n} dimensions, got {sizes(dims)}")
    return Permute.apply(input, order)


def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Two dimensions exchanged."""
    n = input._data.ndim
    a, b = normalize_dim("transpose", dim0, n), normalize_dim("transpose", dim1, n)
    return SwapAxes.apply(input, a, b) if n else input


swapaxes = swapdims = transpose


def t(input: Tensor) -> Tensor:
    """A matrix transposed; vectors and scalars as they are. Raises ValueError for more dimensions."""
    n = input._data.ndim
    if n > 2:
        raise ValueError(f"t: expected at most 2 dimensions, got {n}")
    return SwapAxes.apply(input, 0, 1) if n == 2 else input


def transpose_all(input: Tensor) -> Tensor:
    """``Tensor.T``: all dimensions in reverse order."""
    return Permute.apply(input, tuple(range(input._data.ndim))[::-1])


def matrix_transpose(input: Tensor) -> Tensor:
    """``Tensor.mT``: the last two dimensions exchanged."""
    if input._data.ndim < 2:
        raise RuntimeError(f"mT: expected at least 2 dimensions, got {input._data.ndim}")
    return SwapAxes.apply(input, -1, -2)


def movedim(input: Tensor, source: Any, destination: Any) -> Tensor:
    """Dimensions ``source`` moved to the places ``destination``, the others in their order."""
    n = input._data.ndim
    src = [normalize_dim("movedim", d, n) for d in ((source,) if isinstance(source, int) else source)]
    dst = [
        normalize_dim("movedim", d, n)
        for d in ((destination,) if isinstance(destination, int) else destination)
    ]
    if len(src) != len(dst) or len(set(src)) != len(src) or len(set(dst)) != len(dst):
        raise ValueError(
            f"movedim: expected as many distinct source as destination dims, got {source}, {destination}"
        )
    order = [d for d in range(n) if d not in src]
    for d, s in sorted(zip(dst, src)):
        order.insert(d, s)
    return Permute.apply(input, tuple(order))


moveaxis = movedim


def expand(input: Tensor, *shape: Any) -> Tensor:
    """A view with dimensions of size 1 repeated and new ones in front; -1 keeps a size."""
    old = input._data.shape
    new = [int(n) for n in sizes(shape)]
    lead = len(new) - len(old)
    if lead < 0:
        raise ValueError(f"expand: shape {tuple(new)} has fewer dimensions than the tensor's {old}")
    for i, n in enumerate(old):
        if new[lead + i] == -1:
            new[lead + i] = n
        elif n != 1 and new[lead + i] != n:
            raise ValueError(
                f"expand: size {new[lead + i]} at dim {lead + i} must match the existing size {n}"
            )
    return Expand.apply(input, tuple(new))


def expand_as(input: Tensor, other: Tensor) -> Tensor:
    """``input`` expanded to the shape of ``other``."""
    return expand(input, other._data.shape)


def broadcast_to(input: Tensor, shape: Any) -> Tensor:
    """A view in which ``input`` is repeated to ``shape``."""
    return expand(as_tensor(input), shape)


def broadcast_tensors(*tensors: Tensor) -> tuple[Tensor, ...]:
    """All tensors expanded to their common shape."""
    shape = np.broadcast_shapes(*[t._data.shape for t in tensors])
    return tuple([expand(t, shape) for t in tensors])


def broadcast_shapes(*shapes: Any) -> tuple[int, ...]:
    """The shape that several shapes broadcast to."""
    return np.broadcast_shapes(*shapes)


# ------------------------------------------------------------------------------------------ joining and splitting


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


def _at_least(name: str, ndim: int) -> Any:
    def call(*tensors: Any) -> Any:
        if len(tensors) == 1 and isinstance(tensors[0], list | tuple):
            tensors = tuple(tensors[0])
        out = []
        for t in tensors:
            t = as_tensor(t)
            if t._data.ndim == 2 and ndim == 3:
                t = unsqueeze(t, -1)
            while t._data.ndim < ndim:
                t = unsqueeze(t, 0) if t._data.ndim != 1 or ndim == 2 else reshape(t, (1, -1, 1))
            out.append(t)
        return out[0] if len(out) == 1 else tuple(out)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = f"Tensors with dimensions of size 1 added until they have at least {ndim}."
    return call


atleast_1d = _at_least("atleast_1d", 1)
atleast_2d = _at_least("atleast_2d", 2)
atleast_3d = _at_least("atleast_3d", 3)


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


# ------------------------------------------------------------------------------------------ repeating, reordering


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
        return grad.reshape(parts).sum(tuple(range(0, len(parts), 2))).reshape(shape)


def repeat(input: Tensor, *repeats: Any) -> Tensor:
    """The tensor copied ``repeats`` times along each dimension (new dimensions in front)."""
    counts = tuple([int(n) for n in sizes(repeats)])
    if len(counts) < input._data.ndim:
        raise ValueError(f"repeat: expected at least {input._data.ndim} counts, got {len(counts)}")
    if min(counts, default=0) < 0:
        raise ValueError(f"repeat: expected counts of at least 0, got {counts}")
    return Tile.apply(input, counts)


def tile(input: Tensor, *dims: Any) -> Tensor:
    """As `repeat`, but fewer counts than dimensions are filled up with ones in front."""
    counts = tuple([int(n) for n in sizes(dims)])
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
        out = np.zeros((n, *grad.shape[:axis], *grad.shape[axis + 1 :]), grad.dtype)
        add_at(out, np.repeat(np.arange(n), repeats), np.moveaxis(grad, axis, 0))
        return np.moveaxis(out, 0, axis)


def repeat_interleave(input: Tensor, repeats: Any, dim: int | None = None) -> Tensor:
    """Each element (slice along ``dim``) repeated; ``repeats`` is a number or one per slice."""
    if dim is None:
        input, dim = reshape(input, -1), 0
    axis = normalize_dim("repeat_interleave", dim, input._data.ndim)
    if not isinstance(repeats, int):
        repeats = as_tensor(repeats)._data
        if repeats.size not in (1, input._data.shape[axis]):
            raise ValueError(
                f"repeat_interleave: expected one count per slice ({input._data.shape[axis]}), got {repeats.size}"
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


def flip(input: Tensor, *dims: Any) -> Tensor:
    """The order reversed along ``dims`` (a copy)."""
    axes = tuple([normalize_dim("flip", d, input._data.ndim) for d in sizes(dims)])
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
        out = np.zeros(shape, grad.dtype)
        count = grad.shape[axis]
        for i in range(size):
            out[(slice(None),) * axis + (slice(i, i + step * count, step),)] += grad[..., i]
        return out


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
