"""Elementwise activations on arrays, and the names by which other ops fuse them (``activation="relu"``)."""

from __future__ import annotations

from typing import NamedTuple

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
