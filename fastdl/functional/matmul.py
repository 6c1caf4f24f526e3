"""Linear layers on Tensors: the product, its bias and its activation in one kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import autograd, ops
from ..autograd import ArrayFunction, TensorBase, _mode, wrap
from ..backend import empty, kernels
from ..ops.activation import resolve_activation
from .core import as_tensor

if TYPE_CHECKING:
    from ..tensor import Tensor

__all__ = ["linear"]


class Linear(ArrayFunction):
    """activation(x W^T + b).

    Where the derivative can be had from the activation's output (relu, tanh, ...) that is kept; otherwise, in training,
    the value before the activation, which is then applied in a pass of its own.
    """

    autocast = "lower"

    @staticmethod
    def forward(ctx: Any, x: np.ndarray, weight: np.ndarray, bias: Any, f: Any) -> np.ndarray:
        ctx.f = f
        needs_x, needs_w, needs_b = ctx.needs[:3]
        if f[3] or (needs_x is None and needs_w is None and needs_b is None):
            y = ops.linear(x, weight, bias, f)
            saved = y if f[0] else None
        else:
            saved = ops.linear(x, weight, bias)
            y = empty(saved.shape, x.dtype, x)
            kernels(x).activation_forward(saved, y, f[0], f[1], f[2])
        ctx.save(x if needs_w is not None else None, weight, saved)
        return y

    @staticmethod
    def backward(ctx: Any, grad: np.ndarray) -> tuple:
        x, weight, saved = ctx.saved
        need_x, need_w, need_b = ctx.needs[:3]
        dtype, sw = weight.dtype, weight.shape
        if len(sw) == 1:
            x = empty((*grad.shape, sw[0]), dtype, grad) if x is None else x
            needs = (need_x is not None, need_w is not None, need_b is not None)
            return ops.linear_backward(grad, x, weight, needs, ctx.f, saved)
        dx = None if need_x is None else empty(grad.shape[:-1] + sw[1:], dtype, grad)
        dw = None if need_w is None else empty(sw, dtype, grad)
        db = None if need_b is None else empty(sw[:1], dtype, grad)
        f = ctx.f
        kernels(grad).linear_backward(grad, saved, x, weight, dx, dw, db, f[0], f[1], f[2])
        return dx, dw, db


_NONE = resolve_activation(None)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None, *, activation: Any = None) -> Tensor:
    """activation(input @ weight^T + bias): input (*, in), weight (out, in) or (in,), bias (out,) -> (*, out).

    ``activation`` names the function to apply in the same pass over the result ("relu", "gelu", ...; see
    `fastdl.ops.activation.resolve_activation`).

    Raises ValueError for shapes that do not fit or an unknown activation, TypeError for integers and
    mixed dtypes.

    >>> import fastdl
    >>> import fastdl.nn.functional as F
    >>> F.linear(fastdl.tensor([1.0, 2.0]), fastdl.tensor([[3.0, 4.0]]), fastdl.tensor([-20.0]), activation="relu")
    tensor([0.])
    """
    f = _NONE if activation is None else resolve_activation(activation)
    if not isinstance(input, TensorBase):
        input = as_tensor(input)
    if not isinstance(weight, TensorBase):
        weight = as_tensor(weight)
    if bias is not None and not isinstance(bias, TensorBase):
        bias = as_tensor(bias)
    if autograd.autocasting or (
        _mode.enabled
        and (
            weight._node is not None
            or input._node is not None
            or (bias is not None and bias._node is not None)
        )
    ):
        return Linear.apply(input, weight, bias, f)
    return wrap(ops.linear(input._data, weight._data, None if bias is None else bias._data, f))
