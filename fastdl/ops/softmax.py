"""Softmax, log-softmax and softmin of arrays along one dimension."""

from __future__ import annotations

import numpy as np

from .. import backend
from ..backend import empty_like, is_array

SOFTMAX, LOG_SOFTMAX, SOFTMIN = range(3)  # fastdl_softmax_kind


def _forward(x: np.ndarray, dim: int, kind: int) -> np.ndarray:
    if not is_array(x):
        raise TypeError(f"softmax: expected a numpy.ndarray, got {type(x).__name__}")
    return forward(x, dim, kind)


def forward(x: np.ndarray, dim: int, kind: int) -> np.ndarray:
    """softmax, log-softmax or softmin by the kernels' number."""
    out = empty_like(x)
    backend.kernels(x).softmax_forward(x, out, dim, kind)
    return out


def backward(grad: np.ndarray, out: np.ndarray, dim: int, kind: int) -> np.ndarray:
    """The gradient of `forward`, from its output."""
    grad_x = empty_like(out)
    backend.kernels(out).softmax_backward(grad, out, grad_x, dim, kind)
    return grad_x


def softmax(x: np.ndarray, dim: int = -1) -> np.ndarray:
    """exp(x) / sum(exp(x)) along ``dim``; floating-point, any shape and strides.

    Raises IndexError for a ``dim`` out of range and TypeError for other dtypes.

    >>> import numpy as np
    >>> softmax(np.log(np.array([1.0, 2.0, 5.0])))
    array([0.125, 0.25 , 0.625])
    """
    return _forward(x, dim, SOFTMAX)


def softmax_backward(grad: np.ndarray, out: np.ndarray, dim: int = -1) -> np.ndarray:
    """The gradient with respect to x, from the gradient of the output and the output itself."""
    return backward(grad, out, dim, SOFTMAX)


def log_softmax(x: np.ndarray, dim: int = -1) -> np.ndarray:
    """x - log(sum(exp(x))) along ``dim``.

    >>> import numpy as np
    >>> np.exp(log_softmax(np.zeros(4)))
    array([0.25, 0.25, 0.25, 0.25])
    """
    return _forward(x, dim, LOG_SOFTMAX)


def log_softmax_backward(grad: np.ndarray, out: np.ndarray, dim: int = -1) -> np.ndarray:
    """The gradient with respect to x, from the gradient of the output and the output itself."""
    return backward(grad, out, dim, LOG_SOFTMAX)


def softmin(x: np.ndarray, dim: int = -1) -> np.ndarray:
    """softmax(-x).

    >>> import numpy as np
    >>> softmin(np.zeros(2))
    array([0.5, 0.5])
    """
    return _forward(x, dim, SOFTMIN)


def softmin_backward(grad: np.ndarray, out: np.ndarray, dim: int = -1) -> np.ndarray:
    """The gradient with respect to x, from the gradient of the output and the output itself."""
    return backward(grad, out, dim, SOFTMIN)
