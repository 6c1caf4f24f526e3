"""Softmax and its relatives along any one axis. A row of -inf, or with a NaN or +inf in it, is NaN, as IEEE
arithmetic says.
"""

import numpy as np

from .common import f64


def softmax(x, dim=-1):
    """exp(x - max x) / sum exp(x - max x)."""
    x = f64(x)
    if x.size == 0:
        return x.copy()
    with np.errstate(invalid="ignore", under="ignore"):
        e = np.exp(x - x.max(axis=dim, keepdims=True))
        return e / e.sum(axis=dim, keepdims=True)


def softmax_backward(grad, x, dim=-1):
    """y * (g - sum(g y)), y = softmax(x)."""
    y = softmax(x, dim)
    return y * (f64(grad) - (f64(grad) * y).sum(axis=dim, keepdims=True))


def log_softmax(x, dim=-1):
    """x - max x - log sum exp(x - max x)."""
    x = f64(x)
    if x.size == 0:
        return x.copy()
    with np.errstate(invalid="ignore", under="ignore"):
        shifted = x - x.max(axis=dim, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=dim, keepdims=True))


def log_softmax_backward(grad, x, dim=-1):
    """g - softmax(x) * sum(g)."""
    return f64(grad) - softmax(x, dim) * f64(grad).sum(axis=dim, keepdims=True)


def softmin(x, dim=-1):
    """softmax(-x)."""
    return softmax(-f64(x), dim)


def softmin_backward(grad, x, dim=-1):
    return -softmax_backward(grad, -f64(x), dim)


def logsumexp(x, dim=-1, keepdim=False):
    """max x + log sum exp(x - max x); -inf for a row of -inf."""
    x = f64(x)
    with np.errstate(invalid="ignore", under="ignore", divide="ignore"):
        top = x.max(axis=dim, keepdims=True)
        safe = np.where(np.isinf(top), 0.0, top)
        out = np.log(np.exp(x - safe).sum(axis=dim, keepdims=True)) + safe
    return out if keepdim else out.squeeze(dim)


def logsumexp_backward(grad, x, dim=-1, keepdim=False):
    """softmax(x) * g."""
    grad = f64(grad)
    return softmax(x, dim) * (grad if keepdim else np.expand_dims(grad, dim))
