"""Linear layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..ops.activation import resolve_activation
from ..tensor import Tensor
from . import functional as F
from . import init
from .arguments import check_count, new_parameter
from .module import Module


class Activated(Module):
    """A layer with ``activation=``: a name (or a tuple of a name and its parameters) that the layer's kernel applies
    itself, or a callable for afterwards."""

    activation: Any
    _fused: Any
    _after: Callable | None

    def _set_activation(self, activation: Any) -> None:
        after = activation if callable(activation) else None
        fused = None if after is not None or activation in (None, "none", "linear") else activation
        resolve_activation(fused)
        self.activation = activation
        self.__dict__.update(_fused=fused, _after=after)

    def _activation_repr(self) -> str:
        return "" if self._fused is None else f", activation={self._fused!r}"


class Linear(Activated):
    """y = activation(x W^T + b): x (*, in_features) -> (*, out_features).

    weight is (out_features, in_features); weight and bias start uniform on +- 1 / sqrt(in_features). ``activation``
    is a name such as "relu" or "gelu", applied inside the kernel, or any callable.

    Raises TypeError or ValueError for sizes that are no non-negative integers or an unknown activation.

    >>> import fastdl
    >>> from fastdl import nn
    >>> layer = nn.Linear(4, 8, activation="relu")
    >>> layer(fastdl.randn(3, 4)).shape
    (3, 8)
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        activation: Any = None,
    ) -> None:
        super().__init__()
        self.in_features = check_count("Linear", "in_features", in_features)
        self.out_features = check_count("Linear", "out_features", out_features)
        self._set_activation(activation)
        self.weight = new_parameter((self.out_features, self.in_features), device, dtype)
        self.register_parameter("bias", new_parameter((self.out_features,), device, dtype) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias anew."""
        uniform_by_fan_in(self)

    def forward(self, input: Tensor) -> Tensor:
        y = F.linear(input, self.weight, self.bias, activation=self._fused)
        return y if self._after is None else self._after(y)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
            + self._activation_repr()
        )


def uniform_by_fan_in(layer: Any) -> None:
    """torch's initial values of linear and convolution layers: uniform on +- 1 / sqrt(fan_in), weight and bias."""
    fan_in = math.prod(layer.weight.shape[1:])
    bound = 1 / math.sqrt(fan_in) if fan_in > 0 else 0.0
    init.uniform_(layer.weight, -bound, bound)
    if layer.bias is not None:
        init.uniform_(layer.bias, -bound, bound)


class Bilinear(Module):
    """y_o = x1^T W_o x2 + b_o: (*, in1_features) and (*, in2_features) -> (*, out_features).

    weight is (out_features, in1_features, in2_features); weight and bias start uniform on +- 1 / sqrt(in1_features).
    """

    def __init__(
        self,
        in1_features: int,
        in2_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.in1_features = check_count("Bilinear", "in1_features", in1_features, 1)
        self.in2_features = check_count("Bilinear", "in2_features", in2_features)
        self.out_features = check_count("Bilinear", "out_features", out_features)
        self.weight = new_parameter((self.out_features, self.in1_features, self.in2_features), device, dtype)
        self.register_parameter("bias", new_parameter((self.out_features,), device, dtype) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias anew."""
        bound = 1 / math.sqrt(self.in1_features)
        init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        return F.bilinear(input1, input2, self.weight, self.bias)

    def extra_repr(self) -> str:
        return (
            f"in1_features={self.in1_features}, in2_features={self.in2_features}, "
            f"out_features={self.out_features}, bias={self.bias is not None}"
        )


class Identity(Module):
    """Gives its input back, whatever it was constructed with."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, input: Any) -> Any:
        return input
