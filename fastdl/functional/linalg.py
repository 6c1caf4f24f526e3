"""Products of vectors, matrices and tensors, all on the matmul kernels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import autograd, casting, ops
from ..autograd import ArrayFunction, is_float
from .core import as_tensor, float32_in_autocast, normalize_dim, unbroadcast, widened
from .reduction import sum as sum_

if TYPE_CHECKING:
    from ..tensor import Tensor


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The matrix product of arrays with at least 2 dimensions: floats on our kernels, integers on NumPy."""
    return ops.matmul(a, b) if is_float(a.dtype) else np.matmul(a, b)


class MatMul(ArrayFunction):
    """Batches of matrices. A batch times one matrix is one tall product."""

    autocast = "lower"

    @staticmethod
    def forward(ctx: Any, a: Any, b: Any) -> Any:
        na, nb = ctx.needs[:2]
        ctx.save(a if nb else None, b if na else None)
        ctx.shapes = a.shape, b.shape
        if b.ndim == 2 and a.ndim > 2:
            return product(a.reshape(-1, a.shape[-1]), b).reshape(*a.shape[:-1], b.shape[-1])
        return product(a, b)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        a, b = ctx.saved
        sa, sb = ctx.shapes
        if len(sb) == 2 and len(sa) > 2:
            flat = grad.reshape(-1, sb[-1])
            ga = None if b is None else product(flat, b.T).reshape(sa)
            gb = None if a is None else product(a.reshape(-1, sa[-1]).T, flat)
            return ga, gb
        ga = None if b is None else unbroadcast(product(grad, b.swapaxes(-1, -2)), sa)
        gb = None if a is None else unbroadcast(product(a.swapaxes(-1, -2), grad), sb)
        return ga, gb


def _pair(name: str, a: Any, b: Any) -> tuple[Any, Any]:
    a, b = as_tensor(a), as_tensor(b)
    if a._data.dtype != b._data.dtype:
        if autograd.autocasting:
            a, b = casting.lowered(a, b)
            if a._data.dtype == b._data.dtype:
                return a, b
        raise TypeError(
            f"{name}: expected both operands of one dtype, got {a._data.dtype} and {b._data.dtype}"
        )
    return a, b


def matmul(input: Tensor, other: Tensor) -> Tensor:
    """Matrix product as torch and NumPy have it: vectors, matrices, and batches of matrices that broadcast.

    Raises ValueError where the inner sizes differ or an operand is 0-d, TypeError where the dtypes differ.
    """
    a, b = _pair("matmul", input, other)
    na, nb = a._data.ndim, b._data.ndim
    if not na or not nb:
        raise ValueError("matmul: expected at least 1 dimension each, got a 0-d tensor")
    if a._data.shape[-1] != b._data.shape[-2 if nb > 1 else 0]:
        raise ValueError(
            f"matmul: expected the last size of the first to equal the {'last but one' if nb > 1 else 'first'} of the "
            f"second, got shapes {a._data.shape} and {b._data.shape}"
        )
    if na > 1 and nb > 1:
        return MatMul.apply(a, b)
    if na == 1:
        a = a.unsqueeze(0)
    if nb == 1:
        b = b.unsqueeze(1)
    out = MatMul.apply(a, b)
    shape = out._data.shape
    if na == 1:
        shape = (*shape[:-2], shape[-1])
    if nb == 1:
        shape = shape[:-1]
    return out.reshape(shape)


def rmatmul(input: Tensor, other: Any) -> Tensor:
    """``other @ input``."""
    return matmul(other, input)


def _dims(name: str, a: Any, b: Any, da: int, db: int) -> None:
    if a._data.ndim != da or b._data.ndim != db:
        raise ValueError(
            f"{name}: expected tensors of {da} and {db} dimensions, got shapes {a._data.shape} and {b._data.shape}"
        )


def mm(input: Tensor, mat2: Tensor) -> Tensor:
    """Product of two matrices."""
    _dims("mm", input, mat2, 2, 2)
    return matmul(input, mat2)


def bmm(input: Tensor, mat2: Tensor) -> Tensor:
    """Products of two batches of matrices: (B, N, M) x (B, M, P)."""
    _dims("bmm", input, mat2, 3, 3)
    if input._data.shape[0] != mat2._data.shape[0]:
        raise ValueError(f"bmm: expected equal batch sizes, got {input._data.shape} and {mat2._data.shape}")
    return matmul(input, mat2)


def mv(input: Tensor, vec: Tensor) -> Tensor:
    """Product of a matrix and a vector."""
    _dims("mv", input, vec, 2, 1)
    return matmul(input, vec)


def dot(input: Tensor, tensor: Tensor) -> Tensor:
    """Inner product of two vectors of one length."""
    _dims("dot", input, tensor, 1, 1)
    return matmul(input, tensor)


vdot = dot


def inner(input: Tensor, other: Tensor) -> Tensor:
    """Sums of products over the last dimensions (a plain product where either is 0-d)."""
    if not input._data.ndim or not other._data.ndim:
        return input * other
    return tensordot(input, other, ([-1], [-1]))


def outer(input: Tensor, vec2: Tensor) -> Tensor:
    """All products of the elements of two vectors: a matrix."""
    _dims("outer", input, vec2, 1, 1)
    return input.unsqueeze(1) * vec2


ger = outer


def _scaled(x: Any, factor: Any) -> Any:
    return x if factor == 1 else x * factor


def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """``beta * input + alpha * mat1 @ mat2``; with ``beta=0`` the input is not read."""
    y = _scaled(mm(mat1, mat2), alpha)
    return y if beta == 0 else _scaled(input, beta) + y


def addmv(input: Tensor, mat: Tensor, vec: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """``beta * input + alpha * mat @ vec``."""
    y = _scaled(mv(mat, vec), alpha)
    return y if beta == 0 else _scaled(input, beta) + y


def baddbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """``beta * input + alpha * batch1 @ batch2`` for batches of matrices."""
    y = _scaled(bmm(batch1, batch2), alpha)
    return y if beta == 0 else _scaled(input, beta) + y


def addr(input: Tensor, vec1: Tensor, vec2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """``beta * input + alpha * outer(vec1, vec2)``."""
    y = _scaled(outer(vec1, vec2), alpha)
    return y if beta == 0 else _scaled(input, beta) + y


@float32_in_autocast
def trace(input: Tensor) -> Tensor:
    """Sum of a matrix's diagonal."""
    if input._data.ndim != 2:
        raise ValueError(f"trace: expected a matrix, got shape {input._data.shape}")
    return input.diagonal().sum()


def tensordot(a: Tensor, b: Tensor, dims: Any = 2) -> Tensor:
    """Sums of products over several dimensions: the last ``dims`` of a with the first of b, or two lists of them."""
    a, b = _pair("tensordot", a, b)
    na, nb = a._data.ndim, b._data.ndim
    if isinstance(dims, int):
        da, db = list(range(na - dims, na)), list(range(dims))
    else:
        da = [normalize_dim("tensordot", d, na) for d in dims[0]]
        db = [normalize_dim("tensordot", d, nb) for d in dims[1]]
    if [a._data.shape[d] for d in da] != [b._data.shape[d] for d in db]:
        raise ValueError(
            f"tensordot: contracted sizes differ: {a._data.shape} over {da}, {b._data.shape} over {db}"
        )
    ka, kb = [d for d in range(na) if d not in da], [d for d in range(nb) if d not in db]
    k = math.prod([a._data.shape[d] for d in da])
    sa, sb = [a._data.shape[d] for d in ka], [b._data.shape[d] for d in kb]
    left = a.permute(*ka, *da).reshape(math.prod(sa), k)
    right = b.permute(*db, *kb).reshape(k, math.prod(sb))
    return MatMul.apply(left, right).reshape(*sa, *sb)


# ------------------------------------------------------------------------------------------------------- einsum


def einsum(equation: str, *operands: Any) -> Tensor:
    """Sums of products by Einstein's convention, for example ``einsum("bij,bjk->bik", a, b)``.

    Subscripts are letters; ``...`` stands for broadcast dimensions; without ``->`` the result has the letters that
    occur once, in alphabetical order. Operands are contracted from left to right, two at a time, each a batched
    matrix product. Raises ValueError where equation and shapes do not fit.
    """
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = tuple(operands[0])
    tensors = [as_tensor(t) for t in operands]
    inputs, output, sizes = _parse(equation, tensors)
    done, subs = _single(tensors[0], inputs[0], _later(output, inputs[1:]))
    for i in range(1, len(tensors)):
        later = _later(output, inputs[i + 1 :])
        right, subs_right = _single(tensors[i], inputs[i], later | set(subs))
        done, subs = _contract(done, subs, right, subs_right, later, sizes)
    done, subs = _single(done, subs, set(output))
    return done.permute(*[subs.index(c) for c in output]) if subs != output else done


def _later(output: list, inputs: list) -> set:
    return set(output).union(*inputs)


def _parse(equation: str, tensors: list) -> tuple[list, list, dict]:
    """Subscripts per operand and of the output as lists of labels (letters, or integers for ``...`` dimensions
    counted from the back), and the size of every label."""
    equation = equation.replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(tensors):
        raise ValueError(f"einsum: {equation!r} names {len(terms)} operands, got {len(tensors)}")
    sizes: dict[Any, int] = {}
    inputs = []
    widest = 0
    for term, t in zip(terms, tensors):
        head, dots, tail = term.partition("...")
        if not all(c.isalpha() for c in head + tail):
            raise ValueError(f"einsum: expected letters and at most one '...' per operand, got {term!r}")
        shape = t._data.shape
        free = len(shape) - len(head) - len(tail)
        if free < 0 or (free and not dots):
            raise ValueError(f"einsum: subscripts {term!r} do not fit shape {shape}")
        labels = [*head, *range(-free, 0), *tail]
        widest = max(widest, free)
        for c, n in zip(labels, shape):
            if sizes.setdefault(c, n) != n:
                if 1 not in (n, sizes[c]):
                    raise ValueError(f"einsum: label {c!r} of {equation!r} has sizes {sizes[c]} and {n}")
                sizes[c] = max(n, sizes[c])
        inputs.append(labels)
    if arrow:
        head, dots, tail = right.partition("...")
        output = [*head, *(range(-widest, 0) if dots else ()), *tail]
    else:
        letters = "".join(terms).replace(".", "")
        output = [*range(-widest, 0), *sorted(c for c in set(letters) if letters.count(c) == 1)]
    if len(set(output)) != len(output) or any(c not in sizes for c in output):
        raise ValueError(f"einsum: the output of {equation!r} repeats a label or has one that no operand has")
    return inputs, output, sizes


def _single(t: Any, labels: list, wanted: set) -> tuple[Any, list]:
    """One operand with repeated labels made diagonals and labels that nothing else uses summed away."""
    labels = list(labels)
    for c in [c for i, c in enumerate(labels) if c in labels[:i]]:
        i = labels.index(c)
        j = labels.index(c, i + 1)
        t = t.diagonal(0, i, j)
        labels = [x for k, x in enumerate(labels) if k not in (i, j)] + [c]
    gone = tuple([i for i, c in enumerate(labels) if c not in wanted])
    if gone:
        t = sum_(t, gone)
        labels = [c for c in labels if c in wanted]
    return t, labels


def _contract(a: Any, la: list, b: Any, lb: list, later: set, sizes: dict) -> tuple[Any, list]:
    """Two operands as one batched matrix product."""
    batch = [c for c in la if c in lb and c in later]
    inner_ = [c for c in la if c in lb and c not in later]
    rows = [c for c in la if c not in lb]
    cols = [c for c in lb if c not in la]

    def arrange(t: Any, labels: list, *groups: list) -> Any:
        t = t.permute(*[labels.index(c) for g in groups for c in g]) if labels else t
        shape = t._data.shape
        full = [sizes[c] for g in groups for c in g]
        shared = [c in inner_ or c in batch for g in groups for c in g]
        wide = [m if both else n for both, n, m in zip(shared, shape, full)]
        if list(shape) != wide:
            t = t.expand(wide)
            shape = tuple(wide)
        sizes_, start = [], 0
        for g in groups:
            sizes_.append(math.prod(shape[start : start + len(g)]))
            start += len(g)
        return t.reshape(sizes_)

    left = arrange(a, la, batch, rows, inner_)
    right = arrange(b, lb, batch, inner_, cols)
    left, right = _pair("einsum", left, right)
    out = MatMul.apply(left, right)
    labels = batch + rows + cols
    sa, sb = dict(zip(la, a._data.shape)), dict(zip(lb, b._data.shape))
    shape = [sizes[c] for c in batch] + [sa[c] for c in rows] + [sb[c] for c in cols]
    return out.reshape(shape), labels


@float32_in_autocast
def cdist(x1: Tensor, x2: Tensor, p: float = 2.0) -> Tensor:
    """p-norm distances between all pairs of rows: (..., P, M) and (..., R, M) give (..., P, R)."""
    from .statistics import norm

    return norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, -1)


def kron(input: Tensor, other: Tensor) -> Tensor:
    """The Kronecker product."""
    n = max(input._data.ndim, other._data.ndim)
    sa = (1,) * (n - input._data.ndim) + input._data.shape
    sb = (1,) * (n - other._data.ndim) + other._data.shape
    a = input.reshape([x for s in sa for x in (s, 1)])
    b = other.reshape([x for s in sb for x in (1, s)])
    return (a * b).reshape([x * y for x, y in zip(sa, sb)])


@widened
def cross(input: Tensor, other: Tensor, dim: int = -1) -> Tensor:
    """Cross products of 3-vectors along ``dim``."""
    if input._data.shape[dim] != 3 or other._data.shape[dim] != 3:
        raise ValueError(
            f"cross: expected size 3 in dim {dim}, got {input._data.shape} and {other._data.shape}"
        )
    return input.roll(-1, dim) * other.roll(-2, dim) - input.roll(-2, dim) * other.roll(-1, dim)
