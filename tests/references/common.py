"""The few helpers that several references share."""

import numpy as np


def f64(x):
    """x as a float64 array (None stays None)."""
    return None if x is None else np.asarray(x, np.float64)


def ntuple(value, n):
    """An int repeated n times, or the tuple of n ints it already is."""
    if isinstance(value, (int, np.integer)):
        return (int(value),) * n
    value = tuple(int(v) for v in value)
    if len(value) == 1:
        value = value * n
    if len(value) != n:
        raise ValueError(f"expected {n} values, got {value}")
    return value


def unbroadcast(grad, shape):
    """The adjoint of broadcasting: sum `grad` over every axis that broadcasting to its shape had
    stretched.
    """
    grad = grad.sum(axis=tuple(range(grad.ndim - len(shape))))
    stretched = tuple(i for i, n in enumerate(shape) if n == 1 and grad.shape[i] != 1)
    return grad.sum(axis=stretched, keepdims=True).reshape(shape)


def reduce(values, reduction):
    """torch's `reduction` argument: "none", "mean" or "sum"."""
    if reduction == "none":
        return values
    if reduction == "sum":
        return values.sum()
    if reduction == "mean":
        # The mean of nothing is NaN, as in torch.
        return values.sum() / values.size if values.size else np.float64(np.nan)
    raise ValueError(f"reduction must be none, mean or sum, got {reduction!r}")


def expand_grad(grad, values_shape, reduction):
    """The adjoint of `reduce`: the gradient of each element of the unreduced values."""
    count = int(np.prod(values_shape))
    grad = f64(grad) * np.ones(values_shape)
    return grad / count if reduction == "mean" and count else grad
