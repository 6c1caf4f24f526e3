"""Changes of shape: views where NumPy can view, copies where it cannot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd import TensorBase, wrap
from .core import View, as_tensor, normalize_dim

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


def _integers(name: str, shape: tuple) -> tuple:
    try:
        return tuple([index(n) for n in sizes(shape)])
    except TypeError:
        raise TypeError(f"{name}: expected sizes as integers or one tuple of them, got {shape}") from None


def reshape(input: Tensor, *args: Any, shape: Any = None) -> Tensor:
    """The same elements in another shape: a view where possible, else a copy. One size may be -1."""
    x = input._data
    shape = args if shape is None else (shape,)
    try:
        return Reshape.apply(input, shape if len(shape) != 1 else shape[0])
    except (ValueError, TypeError):
        return Reshape.apply(input, _full_shape("reshape", x.size, _integers("reshape", shape)))


def view(input: Tensor, *shape: Any) -> Tensor:
    """The same memory in another shape (or, given a dtype, read as that dtype). Raises RuntimeError where the
    strides allow no view."""
    x = input._data
    if len(shape) == 1 and isinstance(shape[0], np.dtype | type):
        return wrap(x.view(shape[0]))
    target = _full_shape("view", x.size, _integers("view", shape))
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


def ravel(input: Tensor) -> Tensor:
    """All elements in one dimension."""
    return flatten(input)


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


def permute(input: Tensor, *args: Any, dims: Any = None) -> Tensor:
    """The dimensions in another order."""
    n = input._data.ndim
    dims = sizes(args if dims is None else (dims,))
    order = tuple([normalize_dim("permute", d, n) for d in dims])
    if sorted(order) != list(range(n)):
        raise ValueError(f"permute: expected an order of the {n} dimensions, got {dims}")
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
