"""Losses on Tensors, with torch's names, argument order and defaults.

``reduction`` is "none", "mean" or "sum" everywhere; the older ``size_average`` and ``reduce`` are understood.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd import ArrayFunction, TensorBase
from ..naming import names_itself
from ..ops.loss import (
    HUBER,
    L1,
    MSE,
    REDUCTIONS,
    SMOOTH_L1,
    elementwise,
    likelihood_loss,
    reduction_code,
    softmax_loss,
)
from .core import as_tensor, float32_in_autocast, promote
from .softmax import log_softmax

if TYPE_CHECKING:
    from ..tensor import Tensor

__all__ = [
    "cross_entropy",
    "huber_loss",
    "l1_loss",
    "mse_loss",
    "nll_loss",
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
        wanted = ctx.needs[0] is not None
        loss, unit = softmax_loss(x, target, weight, code, ignore_index, smoothing, wanted)
        ctx.save(unit)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return _scaled(grad, ctx.saved[0])


class NllLoss(ArrayFunction):
    """-weight[y] x[y], and its gradient."""

    autocast = "float32"

    @staticmethod
    def forward(ctx: Any, x: Any, target: Any, weight: Any, code: int, ignore_index: int) -> Any:
        wanted = ctx.needs[0] is not None
        loss, unit = likelihood_loss(x, target, weight, code, ignore_index, wanted)
        ctx.save(unit)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return _scaled(grad, ctx.saved[0])


def _is_one(grad: Any) -> bool:
    """Whether nothing has to be multiplied by a gradient. No question for a GPU, which would have to be waited for."""
    return grad.__class__ is np.ndarray and grad.ndim == 0 and grad.item() == 1.0


def _scaled(grad: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """unit (N, C, d1, ...) times the gradient of the loss: a scalar, most often 1, or one per row (N, d1, ...)."""
    if grad.ndim == 0:
        return unit if _is_one(grad) else unit * grad
    return unit * np.expand_dims(grad, 1)


class ElementLoss(ArrayFunction):
    """A loss of one element and its target. Those that depend on x - target alone have minus the gradient of x as
    the target's."""

    autocast = "float32"

    @staticmethod
    def forward(
        ctx: Any, x: Any, target: Any, kind: int, code: int, parameter: float, weight: Any, pos_weight: Any
    ) -> Any:
        wanted = ctx.needs[0] is not None or ctx.needs[1] is not None
        loss, unit = elementwise(kind, x, target, code, parameter, weight, pos_weight, wanted)
        ctx.save(unit)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        unit = ctx.saved[0]
        if not _is_one(grad):
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


def _check_tensors(op: str, input: Any, target: Any) -> None:
    """TypeError for an input or target that is no Tensor and nothing to make one from."""
    for name, value in (("input", input), ("target", target)):
        if value is None or isinstance(value, str | bytes):
            raise TypeError(f"{op}: expected {name} to be a Tensor, got {type(value).__name__}")


def _operands(op: str, input: Any, target: Any) -> tuple[Any, Any]:
    """Input and target as float Tensors of one dtype and shape, broadcast where they differ."""
    if (
        isinstance(input, TensorBase)
        and isinstance(target, TensorBase)
        and input._data.dtype == target._data.dtype
        and input._data.shape == target._data.shape
    ):
        return input, target
    _check_tensors(op, input, target)
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

    input: (C,), (N, C) or (N, C, d1, ...), floating-point. target: int64 or int32 labels, the input's shape
    without C, or probabilities of the input's shape. weight: (C,). Rows labelled ``ignore_index`` count for
    nothing; the mean is weighted. Label smoothing: Szegedy et al. (2016), section 7. Raises IndexError for a label
    that is no class, ValueError for shapes and options, TypeError for dtypes.

    >>> import fastdl
    >>> import fastdl.nn.functional as F
    >>> F.cross_entropy(fastdl.tensor([[0.0, 0.0], [0.0, 0.0]]), fastdl.tensor([0, 1]))
    tensor(0.6931)
    """
    code = _code("cross_entropy", reduction, size_average, reduce)
    if not isinstance(target, TensorBase) or not isinstance(input, TensorBase):
        _check_tensors("cross_entropy", input, target)
    elif target._node is not None:
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
    if not isinstance(target, TensorBase) or not isinstance(input, TensorBase):
        _check_tensors("nll_loss", input, target)
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
