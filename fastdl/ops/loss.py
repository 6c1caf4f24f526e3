"""Losses of arrays, each computed together with its gradient in one pass.

``with_grad=True`` returns (loss, grad): grad is the gradient of the sum of ``loss`` with respect to the first
argument, to be multiplied by the gradient of the loss itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import empty, empty_like, kernels
from ..naming import names_itself_on_arrays

REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}  # fastdl_reduction
# fastdl_loss_kind
MSE, L1, SMOOTH_L1, HUBER, BCE, BCE_LOGITS, KL, KL_LOG_TARGET, POISSON_LOG, POISSON = range(10)
SOFT_MARGIN, HINGE_EMBEDDING = 10, 11


def reduction_code(op: str, reduction: str) -> int:
    """The kernels' number for ``reduction``; ValueError unless it is "none", "mean" or "sum"."""
    code = REDUCTIONS.get(reduction)
    if code is None:
        raise ValueError(f"{op}: expected reduction to be 'none', 'mean' or 'sum', got {reduction!r}")
    return code


def _rows_shape(x: np.ndarray) -> tuple[int, ...]:
    return x.shape[:1] + x.shape[2:] if x.ndim > 1 else ()


def softmax_loss(
    x: np.ndarray, target: Any, weight: Any, code: int, ignore_index: int, smoothing: float, with_grad: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """(loss, grad or None) of `cross_entropy`, the reduction as a number."""
    loss = empty(() if code else _rows_shape(x), x.dtype, x)
    grad = empty_like(x) if with_grad else None
    kernels(x).cross_entropy(x, target, weight, loss, grad, code, ignore_index, smoothing)
    return loss, grad


def likelihood_loss(
    x: np.ndarray, target: Any, weight: Any, code: int, ignore_index: int, with_grad: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """(loss, grad or None) of `nll_loss`, the reduction as a number."""
    loss = empty(() if code else _rows_shape(x), x.dtype, x)
    grad = empty_like(x) if with_grad else None
    kernels(x).nll_loss(x, target, weight, loss, grad, code, ignore_index)
    return loss, grad


@names_itself_on_arrays
def cross_entropy(
    x: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    with_grad: bool = False,
) -> Any:
    """-log softmax(x)[target] of logits x, (C,), (N, C) or (N, C, d1, ...), floating-point.

    target: int64 or int32 labels in [0, C), x's shape without C; or probabilities of x's shape and dtype. Label
    smoothing: Szegedy et al. (2016), section 7. Raises IndexError for a label out of range, ValueError for shapes
    and options that do not fit, TypeError for dtypes; nothing is written then.

    >>> import numpy as np
    >>> round(float(cross_entropy(np.zeros((2, 4)), np.array([0, 3]))), 4)
    1.3863
    """
    code = reduction_code("cross_entropy", reduction)
    loss, grad = softmax_loss(x, target, weight, code, ignore_index, label_smoothing, with_grad)
    return (loss, grad) if with_grad else loss


@names_itself_on_arrays
def nll_loss(
    x: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    with_grad: bool = False,
) -> Any:
    """-weight[y] x[y] of log-probabilities x and labels y; shapes and errors as in `cross_entropy`."""
    code = reduction_code("nll_loss", reduction)
    loss, grad = likelihood_loss(x, target, weight, code, ignore_index, with_grad)
    return (loss, grad) if with_grad else loss


def elementwise(
    kind: int,
    x: np.ndarray,
    target: np.ndarray,
    code: int,
    parameter: float = 1.0,
    weight: np.ndarray | None = None,
    pos_weight: np.ndarray | None = None,
    with_grad: bool = False,
) -> tuple[np.ndarray, np.ndarray | None]:
    """(loss, grad or None) of one of the kinds above; all arrays of x's shape and dtype."""
    loss = empty_like(x) if code == 0 else empty((), x.dtype, x)
    grad = empty_like(x) if with_grad else None
    kernels(x).loss(x, target, weight, pos_weight, loss, grad, kind, code, parameter)
    return loss, grad


def _public(name: str, kind: int, doc: str, parameter: float = 1.0) -> Any:
    def function(x: np.ndarray, target: np.ndarray, reduction: str = "mean", with_grad: bool = False) -> Any:
        loss, grad = elementwise(
            kind, x, target, reduction_code(name, reduction), parameter, with_grad=with_grad
        )
        return (loss, grad) if with_grad else loss

    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc + " Arrays of one shape and dtype, floating-point."
    return function


mse_loss = _public("mse_loss", MSE, "(x - target)^2.")
l1_loss = _public("l1_loss", L1, "|x - target|.")
binary_cross_entropy_with_logits = _public(
    "binary_cross_entropy_with_logits", BCE_LOGITS, "-(t log s + (1 - t) log(1 - s)), s = sigmoid(x)."
)
