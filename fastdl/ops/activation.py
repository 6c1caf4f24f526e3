"""Elementwise activations on arrays, and the names by which other ops fuse them (``activation="relu"``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..backend import empty, empty_like, is_array, kernels
from ..naming import names_itself_on_arrays

# The kinds of fastdl_activation_kind (csrc/include/fastdl/activation.h).
NONE, RELU, RELU6, LEAKY_RELU, ELU, SELU, CELU, GELU, GELU_TANH, SILU, MISH, SOFTPLUS = range(12)
HARDSWISH, HARDSIGMOID, HARDTANH, SIGMOID, TANH, LOGSIGMOID, SOFTSIGN = range(12, 19)
HARDSHRINK, SOFTSHRINK, TANHSHRINK, THRESHOLD = range(19, 23)


class Activation(NamedTuple):
    """An activation as the kernels take it; from_output says that backward wants f(x) instead of x."""

    kind: int
    alpha: float = 0.0
    beta: float = 0.0
    from_output: bool = False


_BY_NAME: dict[str | None, Activation] = {
    None: Activation(NONE, from_output=True),
    "none": Activation(NONE, from_output=True),
    "linear": Activation(NONE, from_output=True),
    "relu": Activation(RELU, from_output=True),
    "relu6": Activation(RELU6, from_output=True),
    "leaky_relu": Activation(LEAKY_RELU, 0.01, from_output=True),
    "elu": Activation(ELU, 1.0, from_output=True),
    "selu": Activation(SELU, from_output=True),
    "celu": Activation(CELU, 1.0, from_output=True),
    "gelu": Activation(GELU),
    "gelu_tanh": Activation(GELU_TANH),
    "silu": Activation(SILU),
    "swish": Activation(SILU),
    "mish": Activation(MISH),
    "softplus": Activation(SOFTPLUS, 1.0, 20.0),
    "hardswish": Activation(HARDSWISH),
    "hardsigmoid": Activation(HARDSIGMOID),
    "hardtanh": Activation(HARDTANH, -1.0, 1.0, True),
    "sigmoid": Activation(SIGMOID, from_output=True),
    "tanh": Activation(TANH, from_output=True),
    "logsigmoid": Activation(LOGSIGMOID),
    "softsign": Activation(SOFTSIGN),
    "hardshrink": Activation(HARDSHRINK, 0.5),
    "softshrink": Activation(SOFTSHRINK, 0.5),
    "tanhshrink": Activation(TANHSHRINK),
}


def resolve_activation(activation: str | tuple | None) -> Activation:
    """The (kind, alpha, beta, from_output) of ``activation=``: None, a name, or (name, alpha[, beta]).

    Raises ValueError for an unknown name.

    >>> resolve_activation("relu").kind
    1
    >>> resolve_activation(("leaky_relu", 0.2)).alpha
    0.2
    """
    try:
        return _BY_NAME[activation]  # type: ignore[index]
    except (KeyError, TypeError):
        return _resolve_with_parameters(activation)


def _resolve_with_parameters(activation: object) -> Activation:
    if isinstance(activation, Activation):
        return activation
    if isinstance(activation, tuple) and activation and activation[0] in _BY_NAME and len(activation) <= 3:
        a = _BY_NAME[activation[0]]
        alpha, beta = (*map(float, activation[1:]), *(a.alpha, a.beta)[len(activation) - 1 :])
        from_output = a.from_output and (alpha > 0 or a.kind not in (LEAKY_RELU, ELU, CELU))
        return Activation(a.kind, alpha, beta, from_output)
    names = ", ".join(sorted(n for n in _BY_NAME if n))
    raise ValueError(
        f"activation: expected None, a name or (name, parameters...), got {activation!r}; names: {names}"
    )


def activation(x: np.ndarray, activation: str | tuple | None) -> np.ndarray:
    """f(x) element by element; floating-point, any shape and strides; the layout of x is kept.

    ``activation``: as in `resolve_activation`, which says what it raises; TypeError for other dtypes.

    >>> import numpy as np
    >>> from fastdl.ops.activation import activation
    >>> activation(np.array([-1.0, 2.0]), "relu")
    array([0., 2.])
    """
    if not is_array(x):
        raise TypeError(f"activation: expected a numpy.ndarray, got {type(x).__name__}")
    f = resolve_activation(activation)
    out = empty_like(x)
    kernels(x).activation_forward(x, out, f.kind, f.alpha, f.beta)
    return out


def activation_backward(grad: np.ndarray, saved: np.ndarray, activation: str | tuple | None) -> np.ndarray:
    """grad * f'(x); ``saved`` is f(x) where ``resolve_activation(activation).from_output``, else x."""
    f = resolve_activation(activation)
    out = empty_like(saved)
    kernels(saved).activation_backward(grad, saved, out, *f)
    return out


@names_itself_on_arrays
def glu(x: np.ndarray, dim: int = -1) -> np.ndarray:
    """a * sigmoid(b), a and b the halves of x along ``dim`` (Dauphin et al. 2017, section 2).

    Raises IndexError for a ``dim`` out of range and ValueError for an odd extent.

    >>> import numpy as np
    >>> glu(np.array([3.0, 0.0]))
    array([1.5])
    """
    shape = list(x.shape)
    if not -len(shape) <= dim < len(shape):
        raise IndexError(f"glu: dim {dim} is out of range for shape {x.shape}")
    shape[dim] //= 2
    out = empty(shape, x.dtype, x)
    kernels(x).glu_forward(x, out, dim)
    return out


@names_itself_on_arrays
def glu_backward(grad: np.ndarray, x: np.ndarray, dim: int = -1) -> np.ndarray:
    """The gradient of `glu` with respect to x."""
    out = empty(x.shape, x.dtype, x)
    kernels(x).glu_backward(grad, x, out, dim)
    return out


def prelu(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """x where x > 0, else weight * x; one weight, or one per channel (dim 1). He et al. (2015), eq. 1.

    >>> import numpy as np
    >>> prelu(np.array([-2.0, 2.0]), np.array([0.25]))
    array([-0.5,  2. ])
    """
    out = empty_like(x)
    kernels(x).prelu_forward(x, weight, out)
    return out


def prelu_backward(
    grad: np.ndarray, x: np.ndarray, weight: np.ndarray, need_x: bool = True, need_weight: bool = True
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The gradients with respect to x and weight; None for one that is not needed."""
    grad_x = empty_like(x) if need_x else None
    grad_weight = empty_like(weight) if need_weight else None
    kernels(x).prelu_backward(grad, x, weight, grad_x, grad_weight)
    return grad_x, grad_weight


def _elementary(name: str, kind: int) -> Callable[[np.ndarray], np.ndarray]:
    def function(x: np.ndarray) -> np.ndarray:
        out = empty_like(x)
        kernels(x).elementary(x, out, kind)
        return out

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"{name}(x) element by element; floating-point, any shape and strides."
    return function


exp, expm1, log, log1p, erf, erfc = (
    _elementary(name, kind) for kind, name in enumerate(["exp", "expm1", "log", "log1p", "erf", "erfc"])
)
