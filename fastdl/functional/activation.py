"""Activations on Tensors, with torch's names, arguments and defaults; any shape, floating-point.

``inplace=True`` writes the result into the input Tensor, as in torch, and follows its rules for gradients.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import ops
from ..autograd import ArrayFunction, Deferred, TensorBase, _mode, wrap
from ..backend import empty_like, kernels
from ..naming import names_itself
from ..ops.activation import (
    CELU,
    ELU,
    HARDSHRINK,
    HARDTANH,
    LEAKY_RELU,
    RELU,
    SOFTPLUS,
    SOFTSHRINK,
    THRESHOLD,
    Activation,
)
from .core import as_tensor, check_inplace, float_input, normalize_dim, overwrite
from .softmax import softmax

if TYPE_CHECKING:
    from ..tensor import Tensor

__all__ = [
    "celu", "celu_", "elu", "elu_", "gelu", "glu", "gumbel_softmax", "hardshrink", "hardsigmoid", "hardswish",
    "hardtanh", "hardtanh_", "leaky_relu", "leaky_relu_", "logsigmoid", "mish", "prelu", "relu", "relu6", "relu_",
    "rrelu", "rrelu_", "selu", "selu_", "sigmoid", "silu", "softplus", "softshrink", "softsign", "tanh", "tanhshrink",
    "threshold", "threshold_",
]  # fmt: skip


class Activate(ArrayFunction):
    """f(x) for any kind of activation; keeps y where the derivative can be had from it, else x."""

    @staticmethod
    def forward(ctx: Any, x: np.ndarray, f: Activation) -> np.ndarray:
        y = empty_like(x)
        kernels(x).activation_forward(x, y, f[0], f[1], f[2])
        ctx.f = f
        ctx.save(y if f[3] else x)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        if isinstance(grad, Deferred):  # of a max pooling: it knows where its maxima are positive
            grad.relu()
            return grad
        (saved,) = ctx.saved
        out = empty_like(saved)
        kernels(saved).activation_backward(grad, saved, out, *ctx.f)
        return out

    def takes_pooled(ctx: Any, grad: np.ndarray) -> bool:
        """Whether a max pooling's gradient can go through to the convolution before."""
        takes_pooled = getattr(ctx.inputs[0], "takes_pooled", None)
        return ctx.f[0] == RELU and takes_pooled is not None and takes_pooled(grad)


class Glu(ArrayFunction):
    """a * sigmoid(b), a and b the halves of x along dim."""

    @staticmethod
    def forward(ctx: Any, x: np.ndarray, dim: int) -> np.ndarray:
        ctx.dim = dim
        ctx.save(x)
        return ops.glu(x, dim)

    @staticmethod
    def backward(ctx: Any, grad: np.ndarray) -> np.ndarray:
        return ops.glu_backward(grad, ctx.saved[0], ctx.dim)


class Prelu(ArrayFunction):
    """x where x > 0, else weight * x."""

    autocast = "lower"

    @staticmethod
    def forward(ctx: Any, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        ctx.save(x, weight)
        return ops.prelu(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: np.ndarray) -> Any:
        need_x, need_weight = ctx.needs[0] is not None, ctx.needs[1] is not None
        x, weight = ctx.saved
        return ops.prelu_backward(grad, x, weight, need_x, need_weight)


class RRelu(ArrayFunction):
    """Training mode: each negative element gets its own slope from U(lower, upper)."""

    @staticmethod
    def forward(ctx: Any, x: np.ndarray, lower: float, upper: float) -> np.ndarray:
        from ..random import generator

        slope = generator().uniform(lower, upper, x.shape).astype(x.dtype)
        slope[x > 0] = 1
        ctx.save(slope)
        return x * slope

    @staticmethod
    def backward(ctx: Any, grad: np.ndarray) -> np.ndarray:
        return grad * ctx.saved[0]


_RELU = ops.resolve_activation("relu")
_RELU6 = ops.resolve_activation("relu6")
_SELU = ops.resolve_activation("selu")
_SILU = ops.resolve_activation("silu")
_MISH = ops.resolve_activation("mish")
_GELU = {"none": ops.resolve_activation("gelu"), "tanh": ops.resolve_activation("gelu_tanh")}
_HARDSWISH = ops.resolve_activation("hardswish")
_HARDSIGMOID = ops.resolve_activation("hardsigmoid")
_SIGMOID = ops.resolve_activation("sigmoid")
_TANH = ops.resolve_activation("tanh")
_LOGSIGMOID = ops.resolve_activation("logsigmoid")
_SOFTSIGN = ops.resolve_activation("softsign")
_TANHSHRINK = ops.resolve_activation("tanhshrink")


def _apply(x: Any, f: Activation) -> Tensor:
    """`Activate`, without its bookkeeping where no gradient is wanted."""
    if isinstance(x, TensorBase) and (x._node is None or not _mode.enabled):
        data = x._data
        y = empty_like(data)
        kernels(data).activation_forward(data, y, f[0], f[1], f[2])
        return wrap(y)
    return Activate.apply(x, f)


def _activate(name: str, x: Tensor, f: Activation, inplace: bool) -> Tensor:
    if not inplace:
        return _apply(x, f)
    check_inplace(name, x)
    y = Activate.apply(x, f)
    if y._node is not None and not f.from_output:  # backward wants x, which is about to be overwritten
        y._node.saved = tuple([a.copy() for a in y._node.saved])
    return overwrite(name, x, y)


def _clamp(name: str, x: Tensor, f: Activation, inplace: bool, low: float, high: float) -> Tensor:
    """relu, relu6 and hardtanh, which integers have too."""
    x = as_tensor(x)
    if x._data.dtype.kind not in "iu":
        if x._data.itemsize == 2 and f.kind == HARDTANH:  # the output tells where it was clipped
            f = f._replace(alpha=float(x._data.dtype.type(low)), beta=float(x._data.dtype.type(high)))
        return _activate(name, x, f, inplace)
    limits = np.iinfo(x._data.dtype)
    y = wrap(x._data.clip(max(int(low), limits.min), int(min(high, limits.max))))
    return overwrite(name, x, y) if inplace else y


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(x, 0).

    >>> import fastdl
    >>> import fastdl.nn.functional as F
    >>> F.relu(fastdl.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """
    if not inplace and isinstance(input, TensorBase) and input._data.dtype.kind == "f":
        return _apply(input, _RELU)
    return _clamp("relu", input, _RELU, inplace, 0, math.inf)


def relu_(input: Tensor) -> Tensor:
    """In-place `relu`."""
    return relu(input, True)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """min(max(x, 0), 6)."""
    return _clamp("relu6", input, _RELU6, inplace, 0, 6)


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """x clipped to [min_val, max_val]. Raises ValueError where min_val > max_val."""
    if min_val > max_val:
        raise ValueError(f"hardtanh: expected min_val <= max_val, got {min_val} and {max_val}")
    return _clamp("hardtanh", input, Activation(HARDTANH, min_val, max_val, True), inplace, min_val, max_val)


def hardtanh_(input: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """In-place `hardtanh`."""
    return hardtanh(input, min_val, max_val, True)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """x where x > 0, else negative_slope * x.

    >>> import fastdl
    >>> import fastdl.nn.functional as F
    >>> F.leaky_relu(fastdl.tensor([-1.0, 2.0]), 0.5)
    tensor([-0.5000,  2.0000])
    """
    f = Activation(LEAKY_RELU, negative_slope, 0.0, negative_slope > 0)
    return _activate("leaky_relu", input, f, inplace)


@names_itself
def leaky_relu_(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    """In-place `leaky_relu`."""
    return leaky_relu(input, negative_slope, True)


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """x where x > 0, else weight * x; weight has 1 element or one per channel (dim 1). He et al. (2015), eq. 1.

    Raises ValueError for another number of weights.
    """
    return Prelu.apply(input, weight)


def rrelu(
    input: Tensor,
    lower: float = 1.0 / 8,
    upper: float = 1.0 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Tensor:
    """`leaky_relu` with slopes drawn from U(lower, upper) in training, their mean otherwise. Xu et al. (2015)."""
    if lower > upper:
        raise ValueError(f"rrelu: expected lower <= upper, got {lower} and {upper}")
    if not training:
        return leaky_relu(input, (lower + upper) / 2, inplace)
    if not inplace:
        return RRelu.apply(input, lower, upper)
    check_inplace("rrelu_", input)
    return overwrite("rrelu_", input, RRelu.apply(input, lower, upper))


@names_itself
def rrelu_(input: Tensor, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False) -> Tensor:
    """In-place `rrelu`."""
    return rrelu(input, lower, upper, training, True)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where x > 0, else alpha * (exp(x) - 1). Clevert et al. (2016), eq. 16."""
    return _activate("elu", input, Activation(ELU, alpha, 0.0, alpha > 0), inplace)


@names_itself
def elu_(input: Tensor, alpha: float = 1.0) -> Tensor:
    """In-place `elu`."""
    return elu(input, alpha, True)


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """scale * elu(x, alpha) with the constants of Klambauer et al. (2017), eq. 2."""
    return _activate("selu", input, _SELU, inplace)


@names_itself
def selu_(input: Tensor) -> Tensor:
    """In-place `selu`."""
    return selu(input, True)


def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """max(0, x) + min(0, alpha * (exp(x / alpha) - 1)). Barron (2017). Raises ValueError for alpha = 0."""
    if alpha == 0:
        raise ValueError("celu: expected alpha other than 0")
    return _activate("celu", input, Activation(CELU, alpha, 0.0, alpha > 0), inplace)


@names_itself
def celu_(input: Tensor, alpha: float = 1.0) -> Tensor:
    """In-place `celu`."""
    return celu(input, alpha, True)


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """x * Phi(x), Phi the normal distribution function, or with approximate="tanh" Hendrycks & Gimpel's (2016)
    x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))). Raises ValueError for another ``approximate``."""
    if approximate not in _GELU:
        raise ValueError(f"gelu: expected approximate to be 'none' or 'tanh', got {approximate!r}")
    return _apply(input, _GELU[approximate])


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """x * sigmoid(x). Elfwing et al. (2018), eq. 6."""
    return _activate("silu", input, _SILU, inplace)


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """x * tanh(log(1 + exp(x))). Misra (2019), eq. 1."""
    return _activate("mish", input, _MISH, inplace)


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta x)) / beta; x itself where beta x > threshold."""
    return _apply(input, Activation(SOFTPLUS, beta, threshold))


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """x * relu6(x + 3) / 6. Howard et al. (2019), section 5.2."""
    return _activate("hardswish", input, _HARDSWISH, inplace)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """relu6(x + 3) / 6."""
    return _activate("hardsigmoid", input, _HARDSIGMOID, inplace)


def sigmoid(input: Tensor) -> Tensor:
    """1 / (1 + exp(-x)); integers become floats.

    >>> import fastdl
    >>> import fastdl.nn.functional as F
    >>> F.sigmoid(fastdl.tensor([0.0]))
    tensor([0.5000])
    """
    return _apply(float_input(input), _SIGMOID)


def tanh(input: Tensor) -> Tensor:
    """The hyperbolic tangent; integers become floats."""
    return _apply(float_input(input), _TANH)


def logsigmoid(input: Tensor) -> Tensor:
    """-log(1 + exp(-x)), accurate on both sides."""
    return _apply(input, _LOGSIGMOID)


def softsign(input: Tensor) -> Tensor:
    """x / (1 + |x|)."""
    return _apply(float_input(input), _SOFTSIGN)


def hardshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """0 on [-lambd, lambd], x elsewhere."""
    return _apply(input, Activation(HARDSHRINK, lambd))


def softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """x - lambd above lambd, x + lambd below -lambd, 0 between. Raises ValueError for lambd < 0."""
    if lambd < 0:
        raise ValueError(f"softshrink: expected lambd >= 0, got {lambd}")
    return _apply(input, Activation(SOFTSHRINK, lambd))


def tanhshrink(input: Tensor) -> Tensor:
    """x - tanh(x)."""
    return _apply(float_input(input), _TANHSHRINK)


def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """x where x > threshold, else value."""
    return _activate("threshold", input, Activation(THRESHOLD, threshold, value), inplace)


@names_itself
def threshold_(input: Tensor, threshold: float, value: float) -> Tensor:
    """In-place `threshold`."""
    return _activate("threshold_", input, Activation(THRESHOLD, threshold, value), True)


@names_itself
def glu(input: Tensor, dim: int = -1) -> Tensor:
    """a * sigmoid(b), a and b the halves of x along ``dim`` (Dauphin et al. 2017, section 2).

    Raises ValueError where the extent is odd, IndexError for a ``dim`` out of range.

    >>> import fastdl
    >>> import fastdl.nn.functional as F
    >>> F.glu(fastdl.tensor([3.0, 0.0]))
    tensor([1.5000])
    """
    return Glu.apply(input, dim)


def gumbel_softmax(
    logits: Tensor, tau: float = 1.0, hard: bool = False, eps: float = 1e-10, dim: int = -1
) -> Tensor:
    """A sample of softmax((logits + g) / tau), g from Gumbel(0, 1) (Jang et al. 2017, eq. 2); with ``hard`` the
    one-hot of its largest element forward, and the gradient of the soft sample backward. ``eps`` has no effect."""
    x = as_tensor(logits)
    from ..random import generator

    noise = generator().gumbel(size=x._data.shape).astype(x._data.dtype)
    soft = softmax((x + wrap(np.asarray(noise, like=x._data))) / tau, dim)
    if not hard:
        return soft
    y = soft._data
    axis = normalize_dim("gumbel_softmax", dim, y.ndim)
    one_hot = np.zeros_like(y)
    np.put_along_axis(one_hot, y.argmax(axis, keepdims=True), 1, axis)
    return wrap(one_hot - y) + soft
