"""Losses with margins and distances on Tensors: by composition, or one kernel where a loss is elementwise."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd import ArrayFunction, is_float, wrap
from ..backend import as_array
from ..naming import names_itself
from ..ops.loss import HINGE_EMBEDDING, SOFT_MARGIN
from .core import as_tensor, float32_in_autocast, widened
from .loss import ElementLoss, _code, _operands, _reduced
from .probability_loss import binary_cross_entropy_with_logits

if TYPE_CHECKING:
    from ..tensor import Tensor

__all__ = [
    "cosine_embedding_loss",
    "hinge_embedding_loss",
    "margin_ranking_loss",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "soft_margin_loss",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
]


def hinge_embedding_loss(
    input: Tensor,
    target: Tensor,
    margin: float = 1.0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """x where target is 1, max(0, margin - x) where it is -1."""
    code = _code("hinge_embedding_loss", reduction, size_average, reduce)
    x, t = _operands("hinge_embedding_loss", input, target)
    return ElementLoss.apply(x, t.detach(), HINGE_EMBEDDING, code, margin, None, None)


def soft_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """log(1 + exp(-t x)), t = 1 or -1."""
    code = _code("soft_margin_loss", reduction, size_average, reduce)
    x, t = _operands("soft_margin_loss", input, target)
    return ElementLoss.apply(x, t.detach(), SOFT_MARGIN, code, 1.0, None, None)


@names_itself
@widened
def multilabel_soft_margin_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """The mean over the last dim of -(t log s(x) + (1 - t) log(1 - s(x))), each class times its weight."""
    code = _code("multilabel_soft_margin_loss", reduction, size_average, reduce)
    losses = binary_cross_entropy_with_logits(input, target, weight, reduction="none")
    return _reduced(losses.mean(-1), code)


@float32_in_autocast
def margin_ranking_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """max(0, -t (x1 - x2) + margin), t = 1 or -1."""
    code = _code("margin_ranking_loss", reduction, size_average, reduce)
    return _reduced(((input2 - input1) * target + margin).relu(), code)


@names_itself
@float32_in_autocast
def cosine_embedding_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """1 - cos(x1, x2) where target is 1, max(0, cos - margin) where it is -1; x (N, D) with target (N,), or (D,)
    with a scalar. Raises ValueError for other shapes."""
    code = _code("cosine_embedding_loss", reduction, size_average, reduce)
    a, b, t = input1, input2, as_tensor(target)
    if a._data.ndim != t._data.ndim + 1 or b._data.ndim != a._data.ndim or t._data.ndim > 1:
        raise ValueError(
            f"cosine_embedding_loss: expected inputs (N, D) and target (N,), or (D,) and (), got "
            f"{a._data.shape}, {b._data.shape} and {t._data.shape}"
        )
    eps = 1e-12
    norms = (((a * a).sum(-1) + eps) * ((b * b).sum(-1) + eps)).sqrt()
    cos = (a * b).sum(-1) / norms
    same = (t._data == 1).astype(cos._data.dtype)
    losses = (1 - cos) * wrap(as_array(same)) + (cos - margin).relu() * wrap(as_array(1 - same))
    return _reduced(losses, code)


def _distance(a: Tensor, b: Tensor, p: float, eps: float) -> Tensor:
    d = (a - b + eps).abs()
    if p == 2:
        return (d * d).sum(-1).sqrt()
    if p == 1:
        return d.sum(-1)
    if p == math.inf:
        return d.amax(-1)
    return (d**p).sum(-1) ** (1 / p)


@float32_in_autocast
def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """max(0, |a - p| - |a - n| + margin); with ``swap`` the smaller of |a - n| and |p - n|. Balntas et al. (2016),
    section 3."""
    if margin <= 0:
        raise ValueError(f"triplet_margin_loss: expected margin > 0, got {margin}")
    code = _code("triplet_margin_loss", reduction, size_average, reduce)
    near, far = _distance(anchor, positive, p, eps), _distance(anchor, negative, p, eps)
    if swap:
        far = far.minimum(_distance(positive, negative, p, eps))
    return _reduced((near - far + margin).relu(), code)


@widened
def triplet_margin_with_distance_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    distance_function: Any = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """`triplet_margin_loss` with any distance (default: Euclidean)."""
    if margin <= 0:
        raise ValueError(f"triplet_margin_with_distance_loss: expected margin > 0, got {margin}")
    code = _code("triplet_margin_with_distance_loss", reduction)
    distance = distance_function or (lambda a, b: _distance(a, b, 2, 1e-6))
    near, far = distance(anchor, positive), distance(anchor, negative)
    if swap:
        far = far.minimum(distance(positive, negative))
    return _reduced((near - far + margin).relu(), code)


@names_itself
@float32_in_autocast
def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """sum over j != y of max(0, margin - x[y] + x[j])^p / C, times weight[y]; input (N, C) or (C,), p 1 or 2.

    Raises ValueError for another p or other shapes, IndexError for a label that is no class.
    """
    op = "multi_margin_loss"
    code = _code(op, reduction, size_average, reduce)
    if p not in (1, 2):
        raise ValueError(f"{op}: expected p to be 1 or 2, got {p}")
    x, y = input, as_tensor(target)._data
    if x._data.ndim not in (1, 2) or y.shape != x._data.shape[:-1]:
        raise ValueError(f"{op}: expected (N, C) and (N,), or (C,) and (), got {x._data.shape} and {y.shape}")
    n = x._data.shape[-1]
    bad = np.flatnonzero((y < 0) | (y >= n))
    if bad.size:
        raise IndexError(
            f"{op}: expected labels in [0, {n}), got {y.reshape(-1)[bad[0]]} at position {bad[0]}"
        )
    one_hot = (np.arange(n, like=y) == y[..., None]).astype(x._data.dtype)
    own = (x * wrap(one_hot)).sum(-1, keepdim=True)
    terms = (x - own + margin).relu()
    factor = (1 - one_hot) / n
    if weight is not None:
        factor = factor * as_tensor(weight)._data[y][..., None]
    terms = terms if p == 1 else terms * terms
    return _reduced((terms * wrap(factor.astype(x._data.dtype))).sum(-1), code)


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


@float32_in_autocast
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
    is_target = np.zeros(label.shape, np.bool_, like=label)
    rows = np.broadcast_to(np.arange(len(label), like=label)[:, None], label.shape)
    is_target[rows[listed], label[listed]] = True
    loss = MultilabelMargin.apply(input.reshape(-1, shape[-1]), is_target)
    if reduction == "none":
        return loss if len(shape) == 2 else loss.squeeze(0)
    return loss.mean() if reduction == "mean" else loss.sum()
