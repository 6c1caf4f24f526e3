"""Normalisation on Tensors, with torch's names and arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import ops
from ..autograd import ArrayFunction
from ..naming import names_itself
from ..tensor import Tensor

__all__ = ["batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm"]


class LayerNorm(ArrayFunction):
    """Normalise over the last dimensions."""

    @staticmethod
    def forward(
        ctx: Any, x: np.ndarray, weight: Any, bias: Any, shape: Sequence[int], eps: float
    ) -> np.ndarray:
        out, mean, rstd = ops.layer_norm(x, shape, weight, bias, eps)
        ctx.ndim = len(shape)
        ctx.save(x, weight, mean, rstd)
        return out

    @staticmethod
    def backward(ctx: Any, grad: np.ndarray) -> Any:
        x, weight, mean, rstd = ctx.saved
        return ops.layer_norm_backward(grad, x, weight, mean, rstd, ctx.ndim, ctx.needs)


class RMSNorm(ArrayFunction):
    """Divide by the root mean square over the last dimensions."""

    @staticmethod
    def forward(ctx: Any, x: np.ndarray, weight: Any, shape: Sequence[int], eps: float | None) -> np.ndarray:
        out, rstd = ops.rms_norm(x, shape, weight, eps)
        ctx.ndim = len(shape)
        ctx.save(x, weight, rstd)
        return out

    @staticmethod
    def backward(ctx: Any, grad: np.ndarray) -> Any:
        x, weight, rstd = ctx.saved
        return ops.rms_norm_backward(grad, x, weight, rstd, ctx.ndim, ctx.needs)


class GroupNorm(ArrayFunction):
    """Normalise groups of channels of each sample."""

    @staticmethod
    def forward(ctx: Any, x: np.ndarray, weight: Any, bias: Any, groups: int, eps: float) -> np.ndarray:
        out, mean, rstd = ops.group_norm(x, groups, weight, bias, eps)
        ctx.groups = groups
        ctx.save(x, weight, mean, rstd)
        return out

    @staticmethod
    def backward(ctx: Any, grad: np.ndarray) -> Any:
        x, weight, mean, rstd = ctx.saved
        return ops.group_norm_backward(grad, x, weight, mean, rstd, ctx.groups, ctx.needs)


class BatchNorm(ArrayFunction):
    """Normalise each channel over samples and positions."""

    @staticmethod
    def forward(ctx: Any, x: np.ndarray, weight: Any, bias: Any, *options: Any) -> np.ndarray:
        running_mean, running_var, training, momentum, eps = options
        out, mean, rstd = ops.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
        ctx.training = training
        ctx.save(x, weight, mean, rstd)
        return out

    @staticmethod
    def backward(ctx: Any, grad: np.ndarray) -> Any:
        x, weight, mean, rstd = ctx.saved
        return ops.batch_norm_backward(grad, x, weight, mean, rstd, ctx.training, ctx.needs)


@names_itself
def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Layer normalisation over the last dimensions ``normalized_shape`` (Ba, Kiros, Hinton 2016, section 3).

    input: (..., *normalized_shape), floating-point; weight, bias: normalized_shape. Raises ValueError for shapes
    that do not fit and TypeError for dtypes.

    >>> import fastdl
    >>> layer_norm(fastdl.tensor([[1.0, 3.0]]), (2,), eps=0.0).tolist()
    [[-1.0, 1.0]]
    """
    return LayerNorm.apply(input, weight, bias, tuple(normalized_shape), eps)


@names_itself
def rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """RMS normalisation over the last dimensions (Zhang, Sennrich 2019, section 4); ``eps`` defaults to the dtype's
    machine epsilon.

    >>> import fastdl
    >>> rms_norm(fastdl.tensor([[3.0, 3.0]]), (2,)).tolist()
    [[1.0, 1.0]]
    """
    return RMSNorm.apply(input, weight, tuple(normalized_shape), eps)


@names_itself
def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Group normalisation of (N, C, *positions) (Wu, He 2018, section 3). Raises ValueError if num_groups does not
    divide C.

    >>> import fastdl
    >>> group_norm(fastdl.tensor([[[1.0, 3.0], [2.0, 6.0]]]), 2, eps=0.0).tolist()
    [[[-1.0, 1.0], [-1.0, 1.0]]]
    """
    return GroupNorm.apply(input, weight, bias, num_groups, eps)


@names_itself
def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Batch normalisation of (N, C, *positions) (Ioffe, Szegedy 2015, algorithm 1). In training the running
    statistics, when given, are updated in place.

    >>> import fastdl
    >>> batch_norm(fastdl.tensor([[1.0], [3.0]]), None, None, training=True, eps=0.0).tolist()
    [[-1.0], [1.0]]
    """
    mean = None if running_mean is None else running_mean._data
    var = None if running_var is None else running_var._data
    return BatchNorm.apply(input, weight, bias, mean, var, training, momentum, eps)


@names_itself
def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Instance normalisation of (N, C, *positions): each channel of each sample on its own (Ulyanov, Vedaldi,
    Lempitsky 2016, equation 2). Running statistics, when given, move by the mean over the batch, in place; they are
    used instead of the input's when ``use_input_stats`` is false.

    >>> import fastdl
    >>> instance_norm(fastdl.tensor([[[1.0, 3.0], [2.0, 6.0]]]), eps=0.0).tolist()
    [[[-1.0, 1.0], [-1.0, 1.0]]]
    """
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    shape = tuple(input.shape)
    if len(shape) < 3:
        raise ValueError(f"instance_norm: expected an input of shape (N, C, *positions), got {shape}")
    if input._data[0, 0].size == 1:
        raise ValueError(
            f"instance_norm: expected more than 1 position per channel when training, got shape {shape}"
        )
    if running_mean is not None and running_var is not None:
        axes = tuple(range(2, len(shape)))
        for running, batch in (
            (running_mean, input._data.mean(axes)),
            (running_var, input._data.var(axes, ddof=1)),
        ):
            running._data *= 1 - momentum
            running._data += momentum * batch.mean(0)
    return group_norm(input, shape[1], weight, bias, eps)
