"""Matrix products. torch.matmul's shape rules: 1-d operands are a row or a column, batch axes broadcast."""

import math

import numpy as np

from .activation import apply_activation
from .common import f64, unbroadcast


def matmul(a, b, alpha=1.0, beta=0.0, c=None, bias=None, activation=None, residual=None):
    """activation(alpha * a @ b + beta * c + bias + residual).

    a: (..., M, K) or (K,);  b: (..., K, N) or (K,);  c, bias, residual broadcast to the result.
    `activation` as in apply_activation; c is not read when beta is 0 (BLAS's rule).
    """
    y = alpha * np.matmul(f64(a), f64(b))
    if c is not None and beta != 0:
        y = y + beta * f64(c)
    if bias is not None:
        y = y + f64(bias)
    if residual is not None:
        y = y + f64(residual)
    return apply_activation(activation, y)


def matmul_abs(a, b, alpha=1.0, beta=0.0, c=None, bias=None, residual=None):
    """|alpha| |a| @ |b| + |beta c| + |bias| + |residual|: the scale that rounding errors of `matmul` are
    measured in.
    """
    terms = [None if t is None else np.abs(f64(t)) for t in (a, b, c, bias, residual)]
    return matmul(terms[0], terms[1], abs(alpha), abs(beta), terms[2], terms[3], None, terms[4])


def matmul_backward(grad, a, b, alpha=1.0):
    """Gradients of y = alpha * a @ b:  da = alpha * g b^T,  db = alpha * a^T g, summed over broadcast batch
    axes.
    """
    grad, a, b = f64(grad), f64(a), f64(b)
    # Give 1-d operands their missing axis, so that one formula serves every case.
    a2 = a[None, :] if a.ndim == 1 else a
    b2 = b[:, None] if b.ndim == 1 else b
    g2 = grad
    if b.ndim == 1:
        g2 = g2[..., None]
    if a.ndim == 1:
        g2 = g2[..., None, :]
    da = alpha * np.matmul(g2, np.swapaxes(b2, -1, -2))
    db = alpha * np.matmul(np.swapaxes(a2, -1, -2), g2)
    return unbroadcast(da, a2.shape).reshape(a.shape), unbroadcast(db, b2.shape).reshape(b.shape)


def linear(x, weight, bias=None, activation=None):
    """activation(x @ weight^T + bias); x: (..., in), weight: (out, in) or (in,), bias: (out,) or ()."""
    return matmul(x, f64(weight).T, bias=bias, activation=activation)


def linear_backward(grad, x, weight):
    """Gradients of x @ weight^T + bias: dx = g W, dW = g^T x, db = g, each summed over the leading axes of
    x.
    """
    grad, x, weight = f64(grad), f64(x), f64(weight)
    if weight.ndim == 1:
        dx, dw = matmul_backward(grad, x, weight)
        return dx, dw, grad.sum()
    rows = math.prod(x.shape[:-1])
    rows_g, rows_x = grad.reshape(rows, weight.shape[0]), x.reshape(rows, weight.shape[1])
    return (rows_g @ weight).reshape(x.shape), rows_g.T @ rows_x, rows_g.sum(axis=0)
