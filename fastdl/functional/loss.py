"""Losses on Tensors, with torch's names, argument order and defaults.

``reduction`` is "none", "mean" or "sum" everywhere; the older ``size_average`` and ``reduce`` are understood.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd import ArrayFunction, TensorBase, wrap
from ..backend import empty, empty_like, kernels
from ..naming import names_itself
from ..ops.loss import (
    BCE,
    BCE_LOGITS,
    HUBER,
    KL,
    KL_LOG_TARGET,
    L1,
    MSE,
    POISSON,
    POISSON_LOG,
    REDUCTIONS,
    SMOOTH_L1,
    reduction_code,
)
from .core import as_tensor, float32_in_autocast, promote, widened
from .softmax import log_softmax

if TYPE_CHECKING:
    from ..tensor import Tensor

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "gaussian_nll_loss",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "mse_loss",
    "nll_loss",
    "poisson_nll_loss",
    "smooth_l1_loss",
]

_REDUCTIONS = REDUCTIONS


class CrossEntropy(ArrayFunction):
    """The loss and, where one is wanted, the gradient for a unit gradient of the loss, in one kernel."""

    autocast = "float32"

    @staticmethod
    def forward(
        ctx: Any, x: Any, target: Any, weight: Any, code: int, ignore_index: int, smoothing: float
    ) -> Any:
        shape: tuple = () if code else x.shape[:1] + x.shape[2:] if x.ndim > 1 else ()
        loss = empty(shape, x.dtype)
        grad = None
        if ctx.needs[0] is not None:
            grad = empty_like(x)
            ctx.save(grad)
        kernels(x).cross_entropy(x, target, weight, loss, grad, code, ignore_index, smoothing)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return _scaled(grad, ctx.saved[0])


class NllLoss(ArrayFunction):
    """-weight[y] x[y], and its gradient."""

    autocast = "float32"

    @staticmethod
    def forward(ctx: Any, x: Any, target: Any, weight: Any, code: int, ignore_index: int) -> Any:
        shape: tuple = () if code else x.shape[:1] + x.shape[2:] if x.ndim > 1 else ()
        loss = empty(shape, x.dtype)
        grad = None
        if ctx.needs[0] is not None:
            grad = empty_like(x)
            ctx.save(grad)
        kernels(x).nll_loss(x, target, weight, loss, grad, code, ignore_index)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return _scaled(grad, ctx.saved[0])


def _scaled(grad: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """unit (N, C, d1, ...) times the gradient of the loss: a scalar, most often 1, or one per row (N, d1, ...)."""
    if grad.ndim == 0:
        return unit if grad.item() == 1.0 else unit * grad
    return unit * np.expand_dims(grad, 1)


class ElementLoss(ArrayFunction):
    """A loss of one element and its target. Those that depend on x - target alone have minus the gradient of x as
    the target's."""

    autocast = "float32"

    @staticmethod
    def forward(
        ctx: Any, x: Any, target: Any, kind: int, code: int, parameter: float, weight: Any, pos_weight: Any
    ) -> Any:
        needs = ctx.needs
        loss = empty_like(x) if code == 0 else empty((), x.dtype)
        grad = None
        if needs[0] is not None or needs[1] is not None:
            grad = empty_like(x)
            ctx.save(grad)
        kernels(x).loss(x, target, weight, pos_weight, loss, grad, kind, code, parameter)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        unit = ctx.saved[0]
        if grad.ndim or grad.item() != 1.0:
            unit = unit * grad
        if ctx.needs[1] is None:
            return unit
        return unit, -unit


def _code(op: str, reduction: str, size_average: Any = None, reduce: Any = None) -> int:
    if size_average is not None or reduce is not None:
        if reduce is not None and not reduce:
            return 0
        return 1 if size_average is None or size_average else 2
    code = _REDUCTIONS.get(reduction)
    return reduction_code(op, reduction) if code is None else code


def _reduced(losses: Tensor, code: int) -> Tensor:
    return losses if code == 0 else losses.mean() if code == 1 else losses.sum()


def _same_shape(op: str, input: Tensor, target: Tensor) -> None:
    if input._data.shape != target._data.shape:
        raise ValueError(
            f"{op}: expected target to have the shape of the input, {input._data.shape}, got "
            f"{target._data.shape}"
        )


def _operands(op: str, input: Any, target: Any) -> tuple[Any, Any]:
    """Input and target as float Tensors of one dtype and shape, broadcast where they differ."""
    if (
        isinstance(input, TensorBase)
        and isinstance(target, TensorBase)
        and input._data.dtype == target._data.dtype
        and input._data.shape == target._data.shape
    ):
        return input, target
    input, target = promote(op, as_tensor(input), as_tensor(target))
    if input._data.shape != target._data.shape:
        try:
            shape = np.broadcast_shapes(input._data.shape, target._data.shape)
        except ValueError:
            raise ValueError(
                f"{op}: shapes {input._data.shape} and {target._data.shape} do not fit together"
            ) from None
        input, target = input.expand(shape), target.expand(shape)
    return input, target


# ------------------------------------------------------------------------------------------- classification


@names_itself
def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """-log softmax(input)[target]: the loss of a classifier, from its logits.

    input: (C,), (N, C) or (N, C, d1, ...), float32 or float64. target: int64 or int32 labels, the input's shape
    without C, or probabilities of the input's shape. weight: (C,). Rows labelled ``ignore_index`` count for
    nothing; the mean is weighted. Label smoothing: Szegedy et al. (2016), section 7. Raises IndexError for a label
    that is no class, ValueError for shapes and options, TypeError for dtypes.

    >>> import fastdl
    >>> import fastdl.nn.functional as F
    >>> F.cross_entropy(fastdl.tensor([[0.0, 0.0], [0.0, 0.0]]), fastdl.tensor([0, 1]))
    tensor(0.6931)
    """
    code = _code("cross_entropy", reduction, size_average, reduce)
    if isinstance(target, TensorBase) and target._node is not None:
        return _soft_cross_entropy(input, target, weight, code, label_smoothing)
    return CrossEntropy.apply(input, target, weight, code, ignore_index, label_smoothing)


@float32_in_autocast
def _soft_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None, code: int, smoothing: float
) -> Tensor:
    """Probabilities that want a gradient themselves: by composition."""
    _same_shape("cross_entropy", input, target)
    dim = 1 if input._data.ndim > 1 else 0
    q = target * (1 - smoothing) + smoothing / input._data.shape[dim]
    if weight is not None:
        q = q * as_tensor(weight).reshape((-1,) + (1,) * (input._data.ndim - 1 - dim))
    losses = -(q * log_softmax(input, dim)).sum(dim)
    return _reduced(losses, code)


@names_itself
def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """-weight[y] input[y] of log-probabilities and labels; shapes and errors as in `cross_entropy`."""
    code = _code("nll_loss", reduction, size_average, reduce)
    return NllLoss.apply(input, target, weight, code, ignore_index)


# ------------------------------------------------------------------------------------------------ regression


def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """(input - target)^2; shapes broadcast. With ``weight`` each is multiplied by it, and the mean divides by its
    sum.

    >>> import fastdl
    >>> import fastdl.nn.functional as F
    >>> F.mse_loss(fastdl.tensor([1.0, 2.0]), fastdl.tensor([1.0, 4.0]))
    tensor(2.)
    """
    return _difference("mse_loss", MSE, input, target, _code("mse_loss", reduction, size_average, reduce),
                       1.0, weight)  # fmt: skip


def l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """|input - target|; shapes broadcast; ``weight`` as in `mse_loss`."""
    return _difference("l1_loss", L1, input, target, _code("l1_loss", reduction, size_average, reduce),
                       1.0, weight)  # fmt: skip


def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> Tensor:
    """d^2 / (2 beta) where |d| < beta, else |d| - beta / 2, d = input - target. Girshick (2015), eq. 3.

    Raises ValueError for a negative beta.
    """
    if beta < 0:
        raise ValueError(f"smooth_l1_loss: expected beta >= 0, got {beta}")
    code = _code("smooth_l1_loss", reduction, size_average, reduce)
    kind = SMOOTH_L1 if beta > 0 else L1
    return _difference("smooth_l1_loss", kind, input, target, code, beta)


def huber_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0, weight: Tensor | None = None
) -> Tensor:
    """d^2 / 2 where |d| < delta, else delta (|d| - delta / 2), d = input - target. Huber (1964).

    Raises ValueError unless delta > 0.
    """
    if delta <= 0:
        raise ValueError(f"huber_loss: expected delta > 0, got {delta}")
    return _difference("huber_loss", HUBER, input, target, _code("huber_loss", reduction), delta, weight)


def _difference(
    op: str,
    kind: int,
    input: Tensor,
    target: Tensor,
    code: int,
    parameter: float,
    weight: Tensor | None = None,
) -> Tensor:
    input, target = _operands(op, input, target)
    if weight is None:
        return ElementLoss.apply(input, target, kind, code, parameter, None, None)
    losses = ElementLoss.apply(input, target, kind, 0, parameter, None, None)
    weight = as_tensor(weight)
    losses = losses * weight
    if code == 1:
        return losses.sum() / weight.expand(losses._data.shape).sum()
    return _reduced(losses, code)


# --------------------------------------------------------------------------------------------- probabilities


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
        return _reduced(losses if weight is None else losses * weight, code)
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
        return _reduced(losses if weight is None else losses * weight, code)
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
        var = wrap(np.asarray(var, x._data.dtype))
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
