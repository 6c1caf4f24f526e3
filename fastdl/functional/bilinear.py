"""The bilinear map of two inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import autograd, casting
from ..autograd import ArrayFunction
from ..dtypes import float32
from .core import as_tensor, cast, unbroadcast

if TYPE_CHECKING:
    from ..tensor import Tensor


class Bilinear(ArrayFunction):
    """y[b, o] = sum over i, j of x1[b, i] weight[o, i, j] x2[b, j] + bias[o]."""

    @staticmethod
    def forward(ctx: Any, x1: np.ndarray, x2: np.ndarray, weight: np.ndarray, bias: Any) -> np.ndarray:
        ctx.save(x1, x2, weight)
        half = np.tensordot(x1, weight, (1, 1))  # (batch, out, in2)
        y = (half @ x2[:, :, None])[:, :, 0]
        return y if bias is None else y + bias

    @staticmethod
    def backward(ctx: Any, grad: np.ndarray) -> tuple:
        x1, x2, weight = ctx.saved
        mixed = np.tensordot(grad, weight, (1, 0))  # (batch, in1, in2)
        g1 = (mixed @ x2[:, :, None])[:, :, 0]
        g2 = (x1[:, None, :] @ mixed)[:, 0]
        outer = (grad[:, :, None] * x1[:, None, :]).reshape(len(x1), -1)
        gw = (outer.T @ x2).reshape(weight.shape)
        return g1, g2, gw, unbroadcast(grad, grad.shape[1:])


def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x1^T W_o x2 + b_o for every output o: (*, in1), (*, in2), weight (out, in1, in2), bias (out) -> (*, out).

    Raises ValueError for shapes that do not fit, TypeError for dtypes that differ.

    >>> import fastdl
    >>> import fastdl.nn.functional as F
    >>> F.bilinear(fastdl.tensor([[2.0]]), fastdl.tensor([[3.0]]), fastdl.tensor([[[5.0]]])).tolist()
    [[30.0]]
    """
    input1, input2, weight = as_tensor(input1), as_tensor(input2), as_tensor(weight)
    if autograd.autocasting:
        input1, input2, weight, bias = casting.in_float32(input1, input2, weight, bias)
    a, b, w = input1._data, input2._data, weight._data
    if w.ndim != 3 or a.shape[:-1] != b.shape[:-1] or not a.ndim or (a.shape[-1], b.shape[-1]) != w.shape[1:]:
        raise ValueError(f"bilinear: shapes do not fit: {a.shape}, {b.shape}, weight {w.shape}")
    if bias is not None and bias._data.shape != w.shape[:1]:
        raise ValueError(f"bilinear: expected a bias of shape {w.shape[:1]}, got {bias._data.shape}")
    dtypes = {str(x.dtype) for x in (a, b, w)}
    if len(dtypes) > 1:
        raise TypeError(f"bilinear: expected one dtype, got {' and '.join(sorted(dtypes))}")
    if a.itemsize == 2:  # NumPy has no products of these
        arguments: Any = [t if t is None else cast(t, float32) for t in (input1, input2, weight, bias)]
        return cast(bilinear(*arguments), a.dtype)
    y = Bilinear.apply(input1.reshape(-1, a.shape[-1]), input2.reshape(-1, b.shape[-1]), weight, bias)
    return y.reshape(*a.shape[:-1], w.shape[0])
