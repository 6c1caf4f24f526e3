"""Convolutions and their transposes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..tensor import Tensor
from . import functional as F
from .arguments import check_count, new_parameter, ntuple
from .matmul import Activated, uniform_by_fan_in

_MODES = ("zeros", "reflect", "replicate", "circular")


class _Conv(Activated):
    """What all convolutions share; subclasses say for how many dimensions, and how."""

    dims = 0
    transposed = False
    _function: Callable
    weight: Tensor
    bias: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
        output_padding: Any,
        groups: int,
        bias: bool,
        padding_mode: str,
        device: Any,
        dtype: Any,
        activation: Any,
    ) -> None:
        super().__init__()
        name, n = type(self).__name__, self.dims
        self.in_channels = check_count(name, "in_channels", in_channels, 1)
        self.out_channels = check_count(name, "out_channels", out_channels, 1)
        self.groups = check_count(name, "groups", groups, 1)
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ValueError(
                f"{name}: {groups} groups do not divide {in_channels} input and {out_channels} output channels"
            )
        self.kernel_size = ntuple(name, "kernel_size", kernel_size, n, 1)
        self.stride = ntuple(name, "stride", stride, n, 1)
        self.dilation = ntuple(name, "dilation", dilation, n, 1)
        self.output_padding = ntuple(name, "output_padding", output_padding, n)
        if isinstance(padding, str):
            if padding not in ("same", "valid") or self.transposed:
                raise ValueError(f"{name}: expected ints, 'same' or 'valid' for padding, got {padding!r}")
            if padding == "same" and max(self.stride) > 1:
                raise ValueError(f"{name}: padding='same' needs stride 1, got {stride}")
            self.padding: Any = padding
        else:
            self.padding = ntuple(name, "padding", padding, n)
        if padding_mode not in (_MODES[:1] if self.transposed else _MODES):
            raise ValueError(f"{name}: padding_mode {padding_mode!r} is none of {', '.join(_MODES)}")
        self.padding_mode = padding_mode
        self._set_activation(activation)
        first, second = self.out_channels, self.in_channels // self.groups
        if self.transposed:
            first, second = self.in_channels, self.out_channels // self.groups
        self.weight = new_parameter((first, second, *self.kernel_size), device, dtype)
        self.register_parameter("bias", new_parameter((self.out_channels,), device, dtype) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias anew: uniform on +- 1 / sqrt(fan_in)."""
        uniform_by_fan_in(self)

    def _edges(self) -> list[int]:
        """The padding as `F.pad` takes it: from the last dimension to the first."""
        widths: list[int] = []
        for k in reversed(range(self.dims)):
            if self.padding == "same":
                total = self.dilation[k] * (self.kernel_size[k] - 1)
                widths += [total // 2, total - total // 2]
            elif self.padding == "valid":
                widths += [0, 0]
            else:
                widths += [self.padding[k]] * 2
        return widths

    def extra_repr(self) -> str:
        s = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if self.padding != (0,) * self.dims:
            s += f", padding={self.padding}"
        if self.dilation != (1,) * self.dims:
            s += f", dilation={self.dilation}"
        if self.output_padding != (0,) * self.dims:
            s += f", output_padding={self.output_padding}"
        if self.groups != 1:
            s += f", groups={self.groups}"
        if self.bias is None:
            s += ", bias=False"
        if self.padding_mode != "zeros":
            s += f", padding_mode={self.padding_mode}"
        return s + self._activation_repr()


class _ConvNd(_Conv):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        activation: Any = None,
    ) -> None:
        args = (
            kernel_size,
            stride,
            padding,
            dilation,
            0,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
            activation,
        )
        super().__init__(in_channels, out_channels, *args)

    def forward(self, input: Tensor) -> Tensor:
        padding = self.padding
        if self.padding_mode != "zeros":
            input, padding = F.pad(input, self._edges(), self.padding_mode), 0
        y = self._function(
            *(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups),
            activation=self._fused,
        )
        return y if self._after is None else self._after(y)


class Conv1d(_ConvNd):
    """Convolution of (N, C_in, L) or (C_in, L) to C_out channels; see `Conv2d`."""

    dims = 1
    _function = staticmethod(F.conv1d)


class Conv2d(_ConvNd):
    """Convolution of (N, C_in, H, W) or (C_in, H, W) to C_out channels.

    kernel_size, stride, padding, dilation are an int or one per dimension; padding also "same" or "valid";
    padding_mode is "zeros", "reflect", "replicate" or "circular". weight is (C_out, C_in / groups, kh, kw); weight
    and bias start uniform on +- 1 / sqrt(C_in / groups kh kw). ``activation`` is a name such as "relu", applied
    inside the kernel, or any callable.

    Raises TypeError or ValueError for sizes out of range, groups that do not divide the channels, or an unknown name.

    >>> import fastdl
    >>> from fastdl import nn
    >>> layer = nn.Conv2d(3, 8, 3, padding=1, activation="relu")
    >>> layer(fastdl.randn(2, 3, 5, 5)).shape
    (2, 8, 5, 5)
    """

    dims = 2
    _function = staticmethod(F.conv2d)


class Conv3d(_ConvNd):
    """Convolution of (N, C_in, D, H, W) or (C_in, D, H, W) to C_out channels; see `Conv2d`."""

    dims = 3
    _function = staticmethod(F.conv3d)


class _ConvTransposeNd(_Conv):
    transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        activation: Any = None,
    ) -> None:
        args = (
            kernel_size,
            stride,
            padding,
            dilation,
            output_padding,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )
        super().__init__(in_channels, out_channels, *args, activation)

    def forward(self, input: Tensor, output_size: Any = None) -> Tensor:
        extra = self.output_padding if output_size is None else self._output_padding(input, output_size)
        y = self._function(
            *(input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation),
            activation=self._fused,
        )
        return y if self._after is None else self._after(y)

    def _output_padding(self, input: Tensor, output_size: Any) -> tuple[int, ...]:
        """The output_padding that gives an output of ``output_size``."""
        n = self.dims
        wanted = tuple(output_size)[-n:]
        if len(wanted) != n:
            raise ValueError(
                f"{type(self).__name__}: expected {n} sizes for output_size, got {output_size!r}"
            )
        geometry = zip(
            *(input.shape[-n:], self.stride, self.padding, self.dilation, self.kernel_size), strict=True
        )
        least = [(size - 1) * s - 2 * p + d * (k - 1) + 1 for size, s, p, d, k in geometry]
        extra = tuple(w - m for w, m in zip(wanted, least, strict=True))
        if not all(0 <= e < s for e, s in zip(extra, self.stride, strict=True)):
            most = [m + s - 1 for m, s in zip(least, self.stride, strict=True)]
            raise ValueError(
                f"{type(self).__name__}: expected an output_size from {least} to {most}, got {list(wanted)}"
            )
        return extra


class ConvTranspose1d(_ConvTransposeNd):
    """Transposed convolution of (N, C_in, L) or (C_in, L); see `ConvTranspose2d`."""

    dims = 1
    _function = staticmethod(F.conv_transpose1d)


class ConvTranspose2d(_ConvTransposeNd):
    """Transposed convolution of (N, C_in, H, W) or (C_in, H, W): the gradient of `Conv2d` with respect to its input.

    weight is (C_in, C_out / groups, kh, kw). ``forward(input, output_size)`` chooses among the sizes that a stride
    leaves open, as ``output_padding`` does.

    >>> import fastdl
    >>> from fastdl import nn
    >>> layer = nn.ConvTranspose2d(3, 8, 3, stride=2)
    >>> layer(fastdl.randn(2, 3, 5, 5)).shape
    (2, 8, 11, 11)
    """

    dims = 2
    _function = staticmethod(F.conv_transpose2d)


class ConvTranspose3d(_ConvTransposeNd):
    """Transposed convolution of (N, C_in, D, H, W) or (C_in, D, H, W); see `ConvTranspose2d`."""

    dims = 3
    _function = staticmethod(F.conv_transpose3d)
