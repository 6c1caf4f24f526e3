"""The multi-label hinge loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd import ArrayFunction, is_float
from .core import as_tensor

if TYPE_CHECKING:
    from ..tensor import Tensor


class MultilabelMargin(ArrayFunction):
    """sum over target classes j and other classes i of max(0, 1 - (x_j - x_i)) / C, per row of x (N, C)."""

    @staticmethod
    def forward(ctx: Any, x: np.ndarray, is_target: np.ndarray) -> np.ndarray:
        pairs = is_target[:, :, None] & ~is_target[:, None, :]
        margin = 1 - (x[:, :, None] - x[:, None, :])
        active = pairs & (margin > 0)
        ctx.save(active)
        return np.where(active, margin, 0).sum((1, 2)).astype(x.dtype) / x.dtype.type(x.shape[1])

    @staticmethod
    def backward(ctx: Any, grad: np.ndarray) -> np.ndarray:
        (active,) = ctx.saved
        balance = active.sum(1) - active.sum(2)  # how often a class was to be smaller, less how often larger
        return (balance * (grad / active.shape[1])[:, None]).astype(grad.dtype)


def multilabel_margin_loss(
    input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None, reduction: str = "mean"
) -> Tensor:
    """Hinge loss between the classes a row of ``target`` lists, up to its first -1, and all others: (N, C) or (C).

    Raises ValueError for shapes that differ and options, IndexError for labels that are no class, TypeError for
    dtypes.

    >>> import fastdl
    >>> import fastdl.nn.functional as F
    >>> F.multilabel_margin_loss(fastdl.tensor([0.0, 1.0]), fastdl.tensor([0, -1])).item()
    1.0
    """
    if size_average is not None or reduce is not None:
        averaged = "mean" if size_average is None or size_average else "sum"
        reduction = averaged if reduce is None or reduce else "none"
    input, target = as_tensor(input), as_tensor(target)
    shape, label = input._data.shape, target._data
    if len(shape) not in (1, 2) or label.shape != shape:
        raise ValueError(
            f"multilabel_margin_loss: expected input and target of one shape (N, C) or (C,), "
            f"got {shape} and {label.shape}"
        )
    if not is_float(input._data.dtype) or label.dtype.kind not in "iu":
        raise TypeError(
            f"multilabel_margin_loss: expected floats and integers, got {input._data.dtype} and {label.dtype}"
        )
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(
            f"multilabel_margin_loss: expected reduction 'none', 'mean' or 'sum', got {reduction!r}"
        )
    label = label.reshape(-1, shape[-1])
    if label.size and (label.min() < -1 or label.max() >= shape[-1]):
        raise IndexError(
            f"multilabel_margin_loss: expected labels from -1 to {shape[-1] - 1}, got {label.tolist()}"
        )
    listed = np.cumprod(label >= 0, axis=1).astype(np.bool_)
    is_target = np.zeros(label.shape, np.bool_)
    rows = np.broadcast_to(np.arange(len(label))[:, None], label.shape)
    is_target[rows[listed], label[listed]] = True
    loss = MultilabelMargin.apply(input.reshape(-1, shape[-1]), is_target)
    if reduction == "none":
        return loss if len(shape) == 2 else loss.squeeze(0)
    return loss.mean() if reduction == "mean" else loss.sum()
