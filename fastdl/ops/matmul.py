"""Matrix products on arrays, floating-point, any strides: a transposed or sliced operand costs no copy.

Every product can end with ``activation(alpha * a @ b + beta * out + bias + residual)`` in the same pass over the
result.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import backend
from ..backend import empty, kernels
from ..naming import names_itself_on_arrays
from .activation import Activation, resolve_activation

__all__ = [
    "PackedB", "addmm", "bmm", "dot", "linear", "linear_backward", "matmul", "matmul_backward", "mm", "mv", "pack_b",
]  # fmt: skip


_ndarray = np.ndarray
_NONE = resolve_activation(None)


class PackedB:
    """The right-hand operand of many products, laid out once as the kernels read it (see `pack_b`)."""

    __slots__ = ("data", "dtype", "isa", "ndim", "shape")

    def __init__(self, data: np.ndarray, shape: tuple[int, int], isa: str):
        self.data = data
        self.shape = shape
        self.dtype = data.dtype
        self.ndim = 2
        self.isa = isa

    def __repr__(self) -> str:
        return f"PackedB(shape={self.shape}, dtype={self.dtype}, isa={self.isa!r})"


def _no_arrays(op: str, a: Any, b: Any) -> TypeError:
    return TypeError(f"{op}: expected numpy.ndarrays, got {type(a).__name__} and {type(b).__name__}")


def _out_shape(a: Any, b: Any, op: str) -> tuple[int, ...]:
    try:
        sa, sb = a.shape, b.shape
    except AttributeError:
        raise _no_arrays(op, a, b) from None
    if not sa or not sb:
        raise ValueError(f"{op}: expected operands of at least 1 dimension, got shapes {sa} and {sb}")
    if sa[-1] != sb[-2 if len(sb) > 1 else 0]:
        raise ValueError(
            f"{op}: expected the last size of a to equal the {'last but one' if len(sb) > 1 else 'only one'} of b, "
            f"got shapes {sa} and {sb}"
        )
    if len(sa) == 2 == len(sb):
        return sa[0], sb[1]
    batch = sa[:-2]
    if sb[:-2] and batch != sb[:-2]:
        try:
            batch = np.broadcast_shapes(batch, sb[:-2])
        except ValueError:
            raise ValueError(f"{op}: the leading sizes do not broadcast: shapes {sa} and {sb}") from None
    return batch + sa[-2:-1] + (sb[-1:] if len(sb) > 1 else ())


def matmul(
    a: np.ndarray,
    b: np.ndarray | PackedB,
    *,
    bias: np.ndarray | None = None,
    residual: np.ndarray | None = None,
    activation: Any = None,
    alpha: float = 1.0,
    beta: float = 0.0,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """activation(alpha * a @ b + beta * out + bias + residual).

    a (..., m, k) or (k,), b (..., k, n) or (k,) or a `PackedB`; leading sizes broadcast. bias (n,), residual the
    shape of the result, out likewise (not read if beta is 0). Goto and van de Geijn, "Anatomy of High-Performance
    Matrix Multiplication" (ACM TOMS 34(3), 2008), section 4.

    Raises ValueError for shapes that do not fit or an unknown activation, TypeError for integers and
    mixed dtypes.

    >>> a = np.array([[1.0, -2.0]])
    >>> matmul(a, a.T, bias=np.array([-9.0]), activation="relu").tolist()
    [[0.0]]
    """
    if (
        out is None or a.__class__ is not _ndarray or b.__class__ is not _ndarray
    ):  # else the kernel looks at the shapes itself
        shape = _out_shape(a, b, "matmul")
        if out is None:
            if beta:
                raise ValueError("matmul: beta != 0 needs out=")
            out = empty(shape, a.dtype, a)
    f = _NONE if activation is None else resolve_activation(activation)
    if b.__class__ is PackedB:
        kernels(a).matmul_packed(a, b.data, bias, residual, out, alpha, beta, f[0], f[1], f[2])
    else:
        kernels(a).matmul(a, b, bias, residual, out, alpha, beta, f[0], f[1], f[2])
    return out


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a @ b of two matrices: `matmul` without its options, for inner loops."""
    out = empty((a.shape[0], b.shape[1]), a.dtype, a)
    kernels(a).matmul(a, b, None, None, out, 1.0, 0.0, 0, 0.0, 0.0)
    return out


def _swap(a: np.ndarray) -> np.ndarray:
    return a.T if a.ndim == 2 else a.swapaxes(-1, -2)


def _sum_to(grad: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Sums over the leading axes along which an operand of `shape` was repeated."""
    if grad.shape == shape:
        return grad
    lead = grad.ndim - len(shape)
    axes = [*range(lead), *(lead + i for i, n in enumerate(shape) if n == 1 and grad.shape[lead + i] != 1)]
    return grad.sum(tuple(axes)).reshape(shape)


def matmul_backward(
    grad: np.ndarray, a: np.ndarray, b: np.ndarray, needs: tuple[Any, Any] = (True, True)
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Gradients of a @ b: grad @ b^T and a^T @ grad, summed over the axes along which an operand was repeated.

    Shapes as in `matmul`; ``needs`` says which gradients are wanted (the others are None).

    >>> matmul_backward(np.ones((1, 1)), np.array([[2.0]]), np.array([[3.0]]))
    (array([[3.]]), array([[2.]]))
    """
    need_a, need_b = needs
    sa, sb = a.shape, b.shape
    if len(sa) == 2 and len(sb) == 2:
        return (product(grad, b.T) if need_a else None), (product(a.T, grad) if need_b else None)
    # 1-d operands get their missing axis; one formula then serves every case.
    if len(sb) == 1:
        b, grad = b[:, None], grad[..., None]
    if len(sa) == 1:
        a, grad = a[None, :], grad[..., None, :]
    ga = gb = None
    if b.ndim == 2:  # one tall product instead of a batch whose gradients are added up
        k, n = b.shape
        rows = grad.reshape(-1, n)
        if need_a:
            ga = product(rows, b.T).reshape(*grad.shape[:-1], k)
        if need_b:
            gb = product(np.broadcast_to(a, (*grad.shape[:-1], k)).reshape(-1, k).T, rows)
    else:
        if need_a:
            ga = matmul(grad, _swap(b))
        if need_b:
            gb = matmul(_swap(a), grad)
    return (
        None if ga is None else _sum_to(ga, a.shape).reshape(sa),
        None if gb is None else _sum_to(gb, b.shape).reshape(sb),
    )


def linear(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None, activation: Any = None
) -> np.ndarray:
    """activation(x @ weight.T + bias): x (..., k), weight (n, k) or (k,), bias (n,) -> (..., n).

    Raises ValueError for shapes that do not fit or an unknown activation, TypeError for integers and
    mixed dtypes.

    >>> linear(np.array([1.0, 2.0]), np.array([[3.0, 4.0]]), np.array([-1.0])).tolist()
    [10.0]
    """
    f = (
        _NONE
        if activation is None
        else activation
        if activation.__class__ is Activation
        else resolve_activation(activation)
    )
    if x.__class__ is _ndarray and weight.__class__ is _ndarray:
        new = kernels(x).linear_to_new(x, weight, bias, f[0], f[1], f[2], backend.POISON)
        if new is not None:
            return new
    try:
        sx, sw = x.shape, weight.shape
    except AttributeError:
        raise _no_arrays("linear", x, weight) from None
    if not sx or not 1 <= len(sw) <= 2 or sx[-1] != sw[-1]:
        raise ValueError(f"linear: expected x (..., k) and weight (n, k) or (k,), got shapes {sx} and {sw}")
    out = empty(sx[:-1] + sw[:-1], x.dtype, x)
    kernels(x).linear(x, weight, bias, out, f[0], f[1], f[2])
    return out


def linear_backward(
    grad: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray,
    needs: tuple[Any, Any, Any] = (True, True, True),
    activation: Any = None,
    saved: np.ndarray | None = None,
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Gradients of ``linear`` for x, weight and bias: z @ weight, z^T @ x and the sum of z, all over the leading axes,
    with z = grad * activation'.

    ``saved``: with an activation, what its derivative needs: its output for those with ``from_output`` (relu, tanh,
    sigmoid...), else the value before it. ``needs``: which gradients are wanted (the others are None).

    >>> dx, dw, db = linear_backward(np.array([[1.0]]), np.array([[2.0, 3.0]]), np.array([[4.0, 5.0]]))
    >>> dx.tolist(), dw.tolist(), db.tolist()
    ([[4.0, 5.0]], [[2.0, 3.0]], [1.0])
    """
    one = weight.ndim == 1  # a single output, whose axis is missing
    w = weight[None] if one else weight
    if one:
        grad = grad[..., None]
        saved = None if saved is None else saved[..., None]
    dx = empty(x.shape, x.dtype, x) if needs[0] else None
    dw = empty(w.shape, w.dtype, w) if needs[1] else None
    db = empty(w.shape[:1], w.dtype, w) if needs[2] else None
    f = resolve_activation(activation)
    kernels(grad).linear_backward(grad, saved, x, w, dx, dw, db, f[0], f[1], f[2])
    if one:
        return dx, None if dw is None else dw[0], None if db is None else db.reshape(())
    return dx, dw, db


@names_itself_on_arrays
def pack_b(b: np.ndarray) -> PackedB:
    """Lay out a matrix (k, n) for use as the right-hand operand of many calls of `matmul`.

    It belongs to the instruction set in force; `matmul` refuses it under another one (ValueError). It takes about the
    memory of b, for float32 on a processor with a matrix unit (AMX) 2.5 times that.

    >>> b = np.array([[1.0, 2.0], [3.0, 4.0]])
    >>> matmul(np.eye(2), pack_b(b)).tolist()
    [[1.0, 2.0], [3.0, 4.0]]
    """
    if b.ndim != 2:
        raise ValueError(f"pack_b: expected a matrix, got shape {b.shape}")
    core = kernels(b)
    if not hasattr(core, "matmul_pack_b"):
        raise RuntimeError(
            "pack_b: the kernels of this device take matrices as they are: there is nothing to pack"
        )
    packed = empty((core.matmul_packed_b_size(b),), b.dtype, b)
    core.matmul_pack_b(b, packed)
    return PackedB(packed, b.shape, core.get_cpu_isa())


def _check_dims(op: str, a: Any, b: Any, da: int, db: int) -> None:
    if a.ndim != da or b.ndim != db:
        raise ValueError(
            f"{op}: expected operands of {da} and {db} dimensions, got shapes {a.shape} and {b.shape}"
        )


@names_itself_on_arrays
def mm(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Product of two matrices: (m, k) x (k, n)."""
    _check_dims("mm", a, b, 2, 2)
    return matmul(a, b)


@names_itself_on_arrays
def bmm(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Products of two batches of as many matrices: (batch, m, k) x (batch, k, n)."""
    _check_dims("bmm", a, b, 3, 3)
    if a.shape[0] != b.shape[0]:
        raise ValueError(f"bmm: expected equal batch sizes, got shapes {a.shape} and {b.shape}")
    return matmul(a, b)


@names_itself_on_arrays
def mv(a: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Product of a matrix (m, k) and a vector (k,)."""
    _check_dims("mv", a, x, 2, 1)
    return matmul(a, x)


@names_itself_on_arrays
def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Inner product of two vectors of one length, as a 0-d array."""
    _check_dims("dot", a, b, 1, 1)
    return matmul(a, b)


@names_itself_on_arrays
def addmm(
    c: np.ndarray, a: np.ndarray, b: np.ndarray, *, beta: float = 1.0, alpha: float = 1.0
) -> np.ndarray:
    """beta * c + alpha * a @ b; c broadcasts to the result's shape and is not read if beta is 0.

    >>> addmm(np.array([1.0]), np.array([[2.0]]), np.array([[3.0]])).tolist()
    [[7.0]]
    """
    _check_dims("addmm", a, b, 2, 2)
    if beta == 1 and c.ndim == 1 and c.shape == b.shape[1:]:
        return matmul(a, b, bias=c, alpha=alpha)
    shape = _out_shape(a, b, "addmm")
    if beta == 0:
        return matmul(a, b, alpha=alpha)
    out = empty(shape, a.dtype, a)
    try:
        out[...] = c
    except ValueError:
        raise ValueError(f"addmm: expected c to broadcast to {shape}, got shape {c.shape}") from None
    return matmul(a, b, alpha=alpha, beta=beta, out=out)
