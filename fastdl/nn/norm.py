"""Normalisation layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..autograd import wrap
from ..device import like
from ..tensor import Tensor
from . import functional as F
from .arguments import check_count, float_dtype, new_parameter
from .init import ones_, zeros_
from .module import Module


def _normalized_shape(layer: str, shape: Any) -> tuple[int, ...]:
    sizes = tuple(shape) if isinstance(shape, tuple | list) else (shape,)
    if not sizes:
        raise ValueError(f"{layer}: expected at least one dimension for normalized_shape, got {shape!r}")
    return tuple([check_count(layer, "normalized_shape", n) for n in sizes])


class LayerNorm(Module):
    """Zero mean and unit variance over the last dimensions, then scale and shift (Ba et al. 2016, "Layer
    normalization", section 3).

    normalized_shape: an int or the sizes of the last dimensions; weight (ones) and bias (zeros) have that shape.

    >>> import fastdl
    >>> from fastdl import nn
    >>> nn.LayerNorm(2)(fastdl.tensor([[1.0, 3.0]])).round(decimals=3).tolist()
    [[-1.0, 1.0]]
    """

    def __init__(
        self,
        normalized_shape: Any,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = _normalized_shape("LayerNorm", normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        _register_affine(self, self.normalized_shape, elementwise_affine, bias, device, dtype)

    def reset_parameters(self) -> None:
        """Set weight to ones and bias to zeros."""
        _reset_affine(self)

    def forward(self, input: Tensor) -> Tensor:
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, "
            f"bias={self.bias is not None}"
        )


def _register_affine(layer: Any, shape: Any, affine: bool, bias: bool, device: Any, dtype: Any) -> None:
    layer.register_parameter("weight", new_parameter(shape, device, dtype) if affine else None)
    layer.register_parameter("bias", new_parameter(shape, device, dtype) if affine and bias else None)
    _reset_affine(layer)


def _reset_affine(layer: Any) -> None:
    if layer.weight is not None:
        ones_(layer.weight)
    if layer.bias is not None:
        zeros_(layer.bias)


class RMSNorm(Module):
    """Division by the root of the mean square over the last dimensions, then scale (Zhang & Sennrich 2019, "Root mean
    square layer normalization", section 3). ``eps`` None means the dtype's machine epsilon.

    >>> import fastdl
    >>> from fastdl import nn
    >>> nn.RMSNorm(2)(fastdl.tensor([[3.0, 3.0]])).tolist()
    [[1.0, 1.0]]
    """

    def __init__(
        self,
        normalized_shape: Any,
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = _normalized_shape("RMSNorm", normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        shape = self.normalized_shape
        self.register_parameter("weight", new_parameter(shape, device, dtype) if elementwise_affine else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set weight to ones."""
        if self.weight is not None:
            ones_(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        return F.rms_norm(input, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class GroupNorm(Module):
    """Zero mean and unit variance over groups of channels of (N, C, *) (Wu & He 2018, "Group normalization", section
    3). Raises ValueError unless ``num_groups`` divides ``num_channels``.

    >>> import fastdl
    >>> from fastdl import nn
    >>> nn.GroupNorm(2, 4)(fastdl.randn(3, 4, 5)).shape
    (3, 4, 5)
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.num_groups = check_count("GroupNorm", "num_groups", num_groups, 1)
        self.num_channels = check_count("GroupNorm", "num_channels", num_channels)
        if num_channels % num_groups:
            raise ValueError(f"GroupNorm: {num_groups} groups do not divide {num_channels} channels")
        self.eps = eps
        self.affine = affine
        _register_affine(self, (self.num_channels,), affine, bias, device, dtype)

    def reset_parameters(self) -> None:
        """Set weight to ones and bias to zeros."""
        _reset_affine(self)

    def forward(self, input: Tensor) -> Tensor:
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, "
            f"bias={self.bias is not None}"
        )


class _ChannelNorm(Module):
    """Batch and instance norm: statistics per channel, running ones kept where wanted."""

    dims: tuple[int, ...] = ()  # how many dimensions the input may have

    def __init__(
        self,
        num_features: int,
        eps: float,
        momentum: float | None,
        affine: bool,
        track_running_stats: bool,
        device: Any,
        dtype: Any,
        bias: bool,
    ) -> None:
        super().__init__()
        self.num_features = n = check_count(type(self).__name__, "num_features", num_features)
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        _register_affine(self, (n,), affine, bias, device, dtype)
        dt, there = float_dtype(dtype), like(device)
        statistics = {"running_mean": np.zeros(n, dt, like=there), "running_var": np.ones(n, dt, like=there)}
        statistics["num_batches_tracked"] = np.zeros((), np.int64, like=there)
        for name, array in statistics.items():
            self.register_buffer(name, wrap(array) if track_running_stats else None)

    def reset_running_stats(self) -> None:
        """Forget the running statistics."""
        if self.track_running_stats:
            zeros_(self.running_mean)
            ones_(self.running_var)
            zeros_(self.num_batches_tracked)

    def reset_parameters(self) -> None:
        """Set weight to ones, bias to zeros, and forget the running statistics."""
        self.reset_running_stats()
        _reset_affine(self)

    def _check_dims(self, input: Tensor) -> None:
        if input.ndim not in self.dims:
            wanted = " or ".join(map(str, self.dims))
            raise ValueError(f"{type(self).__name__}: expected {wanted} dimensions, got shape {input.shape}")

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )


class _BatchNorm(_ChannelNorm):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias)

    def forward(self, input: Tensor) -> Tensor:
        self._check_dims(input)
        mean, var, momentum = self.running_mean, self.running_var, self.momentum
        training = self.training
        if training and self.track_running_stats:
            count = self.num_batches_tracked._data
            if momentum is None:  # the plain mean of all batches so far
                momentum = 1.0 / (int(count) + 1)
        elif training:
            mean = var = None
        use_batch = training or (mean is None and var is None)
        weight, bias = self.weight, self.bias
        y = F.batch_norm(input, mean, var, weight, bias, use_batch, momentum or 0.0, self.eps)
        if training and self.track_running_stats:
            count += 1
        return y


class BatchNorm1d(_BatchNorm):
    """Batch norm of (N, C) or (N, C, L); see `BatchNorm2d`."""

    dims = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Zero mean and unit variance per channel of (N, C, H, W) over the batch, then scale and shift (Ioffe & Szegedy
    2015, "Batch normalization", section 3).

    In training the batch's own statistics are used, and running ones follow them by ``momentum`` (None: the mean over
    all batches); in evaluation the running ones are used, unless ``track_running_stats`` is false.

    >>> import fastdl
    >>> from fastdl import nn
    >>> layer = nn.BatchNorm2d(3)
    >>> layer(fastdl.randn(2, 3, 4, 4)).shape, int(layer.num_batches_tracked)
    ((2, 3, 4, 4), 1)
    """

    dims = (4,)


class BatchNorm3d(_BatchNorm):
    """Batch norm of (N, C, D, H, W); see `BatchNorm2d`."""

    dims = (5,)


class _InstanceNorm(_ChannelNorm):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias)

    def forward(self, input: Tensor) -> Tensor:
        self._check_dims(input)
        batched = input.ndim == max(self.dims)
        channels = input.shape[1 if batched else 0]
        if channels != self.num_features and (self.affine or self.track_running_stats):
            raise ValueError(
                f"{type(self).__name__}: expected {self.num_features} channels, got shape {input.shape}"
            )
        x = input if batched else input.unsqueeze(0)
        y = F.instance_norm(
            *(x, self.running_mean, self.running_var, self.weight, self.bias),
            self.training or not self.track_running_stats,
            self.momentum or 0.0,
            self.eps,
        )
        return y if batched else y.squeeze(0)


class InstanceNorm1d(_InstanceNorm):
    """Instance norm of (N, C, L) or (C, L); see `InstanceNorm2d`."""

    dims = (2, 3)


class InstanceNorm2d(_InstanceNorm):
    """Zero mean and unit variance per sample and channel of (N, C, H, W) or (C, H, W) (Ulyanov et al. 2016, "Instance
    normalization", equation 2).

    >>> import fastdl
    >>> from fastdl import nn
    >>> nn.InstanceNorm2d(3)(fastdl.randn(2, 3, 4, 4)).shape
    (2, 3, 4, 4)
    """

    dims = (3, 4)


class InstanceNorm3d(_InstanceNorm):
    """Instance norm of (N, C, D, H, W) or (C, D, H, W); see `InstanceNorm2d`."""

    dims = (4, 5)


class LocalResponseNorm(Module):
    """Normalisation by neighbouring channels (Krizhevsky et al. 2012, section 3.3)."""

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        self.size = size
        self.alpha = alpha
        self.beta = beta
        self.k = k

    def forward(self, input: Tensor) -> Tensor:
        return F.local_response_norm(input, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
