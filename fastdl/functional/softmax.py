"""Softmax, log-softmax and softmin of Tensors, with torch's names and arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd import ArrayFunction, TensorBase
from ..dtypes import as_dtype
from ..ops.softmax import LOG_SOFTMAX, SOFTMAX, SOFTMIN, backward, forward
from .core import as_tensor, cast

if TYPE_CHECKING:
    from ..tensor import Tensor

__all__ = ["log_softmax", "softmax", "softmin"]


class Softmax(ArrayFunction):
    """softmax, log-softmax or softmin along a dimension."""

    @staticmethod
    def forward(ctx: Any, x: np.ndarray, dim: int, kind: int) -> np.ndarray:
        y = forward(x, dim, kind)
        ctx.how = dim, kind
        ctx.save(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: np.ndarray) -> np.ndarray:
        (y,) = ctx.saved
        return backward(grad, y, *ctx.how)


def _call(input: Tensor, dim: int | None, dtype: Any, kind: int) -> Tensor:
    if dtype is not None or not isinstance(input, TensorBase):
        input = as_tensor(input)
        if dtype is not None:
            input = cast(input, as_dtype(dtype))
    if dim is None:  # torch's rule of old: the batch of matrices
        dim = 0 if input._data.ndim in (0, 1, 3) else 1
    return Softmax.apply(input, dim, kind)


def softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """exp(x) / sum(exp(x)) along ``dim``, in ``dtype`` where given.

    Raises IndexError for a ``dim`` out of range.

    >>> import fastdl
    >>> import fastdl.nn.functional as F
    >>> F.softmax(fastdl.tensor([0.0, 0.0]), dim=0)
    tensor([0.5000, 0.5000])
    """
    return _call(input, dim, dtype, SOFTMAX)


def log_softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """log(softmax(x)) along ``dim``, without overflow and without the logarithm of zero."""
    return _call(input, dim, dtype, LOG_SOFTMAX)


def softmin(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """softmax(-x) along ``dim``."""
    return _call(input, dim, dtype, SOFTMIN)
