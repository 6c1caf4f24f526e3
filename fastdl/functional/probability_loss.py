"""Losses of probabilities and distributions on Tensors; see `fastdl.functional.loss`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd import TensorBase, wrap
from ..naming import names_itself
from ..ops.loss import BCE, BCE_LOGITS, KL, KL_LOG_TARGET, POISSON, POISSON_LOG
from .core import as_tensor, float32_in_autocast, widened
from .loss import ElementLoss, _code, _operands, _reduced, _same_shape

if TYPE_CHECKING:
    from ..tensor import Tensor

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "gaussian_nll_loss",
    "kl_div",
    "poisson_nll_loss",
]


def _full(op: str, name: str, weight: Any, like: Tensor) -> Any:
    """A weight array broadcast to the input's shape."""
    if weight is None:
        return None
    w = as_tensor(weight)._data
    if w.dtype != like._data.dtype:
        w = w.astype(like._data.dtype)
    try:
        return np.broadcast_to(w, like._data.shape)
    except ValueError:
        raise ValueError(
            f"{op}: {name} of shape {w.shape} does not broadcast to the input's shape {like._data.shape}"
        ) from None


def _wants_gradient(*tensors: Any) -> bool:
    return any(isinstance(t, TensorBase) and t._node is not None for t in tensors)


def _weighted(losses: Tensor, weight: Any, code: int) -> Tensor:
    return _reduced(losses if weight is None else losses * weight, code)


@names_itself
def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """-(t log x + (1 - t) log(1 - x)) of probabilities, the logarithms held at or above -100.

    Raises ValueError for inputs outside [0, 1] or a target of another shape.
    """
    op = "binary_cross_entropy"
    code = _code(op, reduction, size_average, reduce)
    _same_shape(op, input, target)
    if _wants_gradient(target, weight):
        x = input
        losses = -(target * x.log().clamp(min=-100) + (1 - target) * (1 - x).log().clamp(min=-100))
        return _weighted(losses, weight, code)
    return ElementLoss.apply(input, target, BCE, code, 1.0, _full(op, "weight", weight, input), None)


@names_itself
def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """`binary_cross_entropy` of sigmoid(input), without overflow; ``pos_weight`` multiplies the term of t = 1.

    Raises ValueError for a target of another shape.

    >>> import fastdl
    >>> import fastdl.nn.functional as F
    >>> F.binary_cross_entropy_with_logits(fastdl.tensor([0.0]), fastdl.tensor([1.0]))
    tensor(0.6931)
    """
    op = "binary_cross_entropy_with_logits"
    code = _code(op, reduction, size_average, reduce)
    _same_shape(op, input, target)
    if _wants_gradient(target, weight, pos_weight):
        from .activation import softplus

        p = 1.0 if pos_weight is None else pos_weight
        losses = target * p * softplus(-input, 1.0, math.inf) + (1 - target) * softplus(input, 1.0, math.inf)
        return _weighted(losses, weight, code)
    return ElementLoss.apply(
        input, target, BCE_LOGITS, code, 1.0,
        _full(op, "weight", weight, input), _full(op, "pos_weight", pos_weight, input),
    )  # fmt: skip


@float32_in_autocast
def kl_div(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Tensor:
    """t (log t - x) of log-probabilities x, or exp(t) (t - x) with ``log_target``; Kullback & Leibler (1951).
    "batchmean" divides the sum by the first extent."""
    batchmean = reduction == "batchmean"
    code = _code("kl_div", "sum" if batchmean else reduction, size_average, reduce)
    x, t = _operands("kl_div", input, target)
    if _wants_gradient(t):
        losses = t.exp() * (t - x) if log_target else t * (t.log() - x)
        total = _reduced(losses, code)
    else:
        kind = KL_LOG_TARGET if log_target else KL
        total = ElementLoss.apply(x, t, kind, code, 1.0, None, None)
    return total / x._data.shape[0] if batchmean else total


@float32_in_autocast
def poisson_nll_loss(
    input: Tensor,
    target: Tensor,
    log_input: bool = True,
    full: bool = False,
    size_average: bool | None = None,
    eps: float = 1e-8,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """exp(x) - t x, or x - t log(x + eps) without ``log_input``; ``full`` adds Stirling's approximation of log t!
    where t > 1."""
    code = _code("poisson_nll_loss", reduction, size_average, reduce)
    x, t = _operands("poisson_nll_loss", input, target)
    kind = POISSON_LOG if log_input else POISSON
    if not (full or _wants_gradient(t)):
        return ElementLoss.apply(x, t, kind, code, eps, None, None)
    losses = x.exp() - t * x if log_input else x - t * (x + eps).log()
    if full:
        a = t._data
        s = np.maximum(a, 1)
        rest = np.where(a > 1, s * np.log(s) - s + 0.5 * np.log(2 * math.pi * s), 0).astype(a.dtype)
        losses = losses + wrap(rest)
    return _reduced(losses, code)


@widened
def gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:
    """(log v + (x - t)^2 / v) / 2, v = max(var, eps) with a gradient as if there were no maximum; ``full`` adds
    log(2 pi) / 2. Nix & Weigend (1994). var: a number, x's shape, the same with a last extent of 1, or without it.

    Raises ValueError for negative variances.
    """
    op = "gaussian_nll_loss"
    code = _code(op, reduction)
    x, t = _operands(op, input, target)
    if not isinstance(var, TensorBase):
        var = wrap(np.asarray(var, x._data.dtype, like=x._data))
    v: Any = var
    if v._data.ndim and v._data.shape != x._data.shape:
        if v._data.shape == x._data.shape[:-1]:
            v = v.unsqueeze(-1)
        elif v._data.shape != (*x._data.shape[:-1], 1):
            raise ValueError(f"{op}: var of shape {v._data.shape} does not fit input {x._data.shape}")
    if (v._data < 0).any():
        raise ValueError(f"{op}: expected var >= 0 everywhere, got {v._data.min()}")
    v = v + wrap(np.maximum(v._data, eps).astype(v._data.dtype) - v._data)
    d = x - t
    losses = (v.log() + d * d / v) * 0.5
    return _reduced(losses + 0.5 * math.log(2 * math.pi) if full else losses, code)
