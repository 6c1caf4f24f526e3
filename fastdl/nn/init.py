"""Initial values of parameters, drawn through `fastdl.random` (``fastdl.manual_seed`` reproduces them).

Every function fills its tensor in place, records nothing for autograd, and returns the tensor. ``generator`` is a
NumPy generator to draw from instead.

>>> import fastdl
>>> from fastdl import nn
>>> layer = nn.Linear(4, 2)
>>> nn.init.zeros_(layer.bias).tolist()
[0.0, 0.0]
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import random
from ..autograd import mark_inplace
from ..backend import beside
from ..tensor import Tensor


def _fill(tensor: Tensor, values: Any) -> Tensor:
    tensor._data[...] = beside(values, tensor._data) if isinstance(values, np.ndarray) else values
    mark_inplace(tensor._data)
    return tensor


def _draw_uniform(shape: Any, dtype: Any, a: float, b: float, generator: Any = None) -> np.ndarray:
    rng = random.generator() if generator is None else generator
    kind = np.float64 if np.dtype(dtype) == np.float64 else np.float32
    x: np.ndarray = np.asarray(rng.random(shape, dtype=kind))
    x *= kind(b - a)
    x += kind(a)
    return x


def _draw_normal(shape: Any, dtype: Any, mean: float, std: float, generator: Any = None) -> np.ndarray:
    rng = random.generator() if generator is None else generator
    kind = np.float64 if np.dtype(dtype) == np.float64 else np.float32
    x: np.ndarray = np.asarray(rng.standard_normal(shape, dtype=kind))
    x *= kind(std)
    x += kind(mean)
    return x


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Any = None) -> Tensor:
    """Uniform on [a, b). Raises ValueError for a > b."""
    if not a <= b:
        raise ValueError(f"uniform_: expected a <= b, got {a} and {b}")
    return _fill(tensor, _draw_uniform(tensor.shape, tensor.dtype, a, b, generator))


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Any = None) -> Tensor:
    """Normal with a mean and a standard deviation. Raises ValueError for a negative deviation."""
    if not std >= 0:
        raise ValueError(f"normal_: expected std >= 0, got {std}")
    return _fill(tensor, _draw_normal(tensor.shape, tensor.dtype, mean, std, generator))


def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Any = None,
) -> Tensor:
    """Normal, with what falls outside [a, b] drawn again. Raises ValueError for a > b or std <= 0."""
    if not a <= b:
        raise ValueError(f"trunc_normal_: expected a <= b, got {a} and {b}")
    if not std > 0:
        raise ValueError(f"trunc_normal_: expected std > 0, got {std}")
    low, high = (a - mean) / std, (b - mean) / std
    inside = (math.erf(high / math.sqrt(2)) - math.erf(low / math.sqrt(2))) / 2
    # Far out or between narrow bounds few normal numbers would be kept; uniform ones, kept with the density's
    # odds
    # relative to its largest value there, always do (Robert 1995, "Simulation of truncated normal
    # variables").
    peak = min(max(0.0, low), high)
    out = np.empty(tensor._data.size)
    todo = np.arange(out.size)
    while todo.size:
        if inside > 0.25:
            x = _draw_normal(todo.size, np.float64, 0.0, 1.0, generator)
            keep = (x >= low) & (x <= high)
        else:
            x = _draw_uniform(todo.size, np.float64, low, high, generator)
            keep = _draw_uniform(todo.size, np.float64, 0.0, 1.0, generator) <= np.exp((peak**2 - x**2) / 2)
        out[todo[keep]] = x[keep]
        todo = todo[~keep]
    return _fill(tensor, np.clip(out.reshape(tensor.shape) * std + mean, a, b))


def constant_(tensor: Tensor, val: float) -> Tensor:
    """One value everywhere."""
    return _fill(tensor, val)


def ones_(tensor: Tensor) -> Tensor:
    """Ones."""
    return _fill(tensor, 1)


def zeros_(tensor: Tensor) -> Tensor:
    """Zeros."""
    return _fill(tensor, 0)


def eye_(tensor: Tensor) -> Tensor:
    """The identity matrix. Raises ValueError unless the tensor has 2 dimensions."""
    if tensor.ndim != 2:
        raise ValueError(f"eye_: expected 2 dimensions, got shape {tensor.shape}")
    return _fill(tensor, np.eye(tensor.shape[0], tensor.shape[1]))


def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """A convolution's weight that hands channels through unchanged. Raises ValueError unless the tensor has 3 to 5
    dimensions and ``groups`` divides the first."""
    if tensor.ndim not in (3, 4, 5):
        raise ValueError(f"dirac_: expected 3, 4 or 5 dimensions, got shape {tensor.shape}")
    if groups < 1 or tensor.shape[0] % groups:
        raise ValueError(f"dirac_: {groups} groups do not divide {tensor.shape[0]} output channels")
    per_group = tensor.shape[0] // groups
    weight = np.zeros(tensor.shape, tensor.dtype)
    center = tuple(k // 2 for k in tensor.shape[2:])
    for group in range(groups):
        for c in range(min(per_group, tensor.shape[1])):
            weight[(group * per_group + c, c, *center)] = 1
    return _fill(tensor, weight)


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor by which initial weights make up for a nonlinearity: 1 for linear layers and sigmoid, 5/3 for tanh,
    sqrt(2) for relu, sqrt(2 / (1 + slope^2)) for leaky_relu, 3/4 for selu. Raises ValueError for another name."""
    if nonlinearity == "leaky_relu":
        if param is not None and (isinstance(param, bool) or not isinstance(param, int | float)):
            raise ValueError(f"calculate_gain: expected a number for the slope, got {param!r}")
        return math.sqrt(2.0 / (1 + (0.01 if param is None else param) ** 2))
    linear = ["linear", "sigmoid"] + [f"conv{t}{d}d" for t in ("", "_transpose") for d in (1, 2, 3)]
    gains = {**dict.fromkeys(linear, 1.0), "tanh": 5.0 / 3, "relu": math.sqrt(2.0), "selu": 0.75}
    if nonlinearity not in gains:
        raise ValueError(
            f"calculate_gain: expected leaky_relu or one of {', '.join(gains)}, got {nonlinearity!r}"
        )
    return gains[nonlinearity]


def _fans(op: str, tensor: Tensor) -> tuple[int, int]:
    """How many inputs an output of a weight has, and the other way round."""
    shape = tensor.shape
    if len(shape) < 2:
        raise ValueError(f"{op}: expected 2 or more dimensions, got shape {shape}")
    window = math.prod(shape[2:])
    return shape[1] * window, shape[0] * window


def _calculate_fan_in_and_fan_out(tensor: Tensor) -> tuple[int, int]:
    """torch's name for it, which model code in the wild uses."""
    return _fans("fan", tensor)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """Uniform on +- gain sqrt(6 / (fan_in + fan_out)) (Glorot & Bengio 2010, "Understanding the difficulty of
    training deep feedforward neural networks", section 4.2.1)."""
    fan_in, fan_out = _fans("xavier_uniform_", tensor)
    bound = gain * math.sqrt(6.0 / max(fan_in + fan_out, 1))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """Normal with deviation gain sqrt(2 / (fan_in + fan_out)) (Glorot & Bengio 2010)."""
    fan_in, fan_out = _fans("xavier_normal_", tensor)
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / max(fan_in + fan_out, 1)), generator)


def _kaiming_std(op: str, tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"{op}: expected mode 'fan_in' or 'fan_out', got {mode!r}")
    fan = _fans(op, tensor)[mode == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(max(fan, 1))


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Any = None,
) -> Tensor:
    """Uniform on +- gain sqrt(3 / fan) (He et al. 2015, "Delving deep into rectifiers", section 2.2); ``a`` is the
    slope of leaky_relu. Raises ValueError for an unknown mode or nonlinearity."""
    bound = math.sqrt(3.0) * _kaiming_std("kaiming_uniform_", tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Any = None,
) -> Tensor:
    """Normal with deviation gain / sqrt(fan) (He et al. 2015)."""
    return normal_(tensor, 0.0, _kaiming_std("kaiming_normal_", tensor, a, mode, nonlinearity), generator)


def orthogonal_(tensor: Tensor, gain: float = 1, generator: Any = None) -> Tensor:
    """A (semi-)orthogonal matrix, dimensions beyond the first taken together (Saxe et al. 2013, "Exact solutions to
    the nonlinear dynamics of learning in deep linear neural networks"). Raises ValueError below 2 dimensions."""
    if tensor.ndim < 2:
        raise ValueError(f"orthogonal_: expected 2 or more dimensions, got shape {tensor.shape}")
    if not tensor._data.size:
        return tensor
    rows = tensor.shape[0]
    columns = tensor._data.size // rows
    x = _draw_normal((rows, columns), np.float64, 0.0, 1.0, generator)
    q, r = np.linalg.qr(x.T if rows < columns else x)
    q = q * np.sign(np.diag(r))  # makes the distribution uniform over all orthogonal matrices
    return _fill(tensor, gain * (q.T if rows < columns else q).reshape(tensor.shape))


def sparse_(tensor: Tensor, sparsity: float, std: float = 0.01, generator: Any = None) -> Tensor:
    """Normal, with the fraction ``sparsity`` of every column set to zero (Martens 2010, "Deep learning via
    Hessian-free optimization", section 5). Raises ValueError unless the tensor has 2 dimensions."""
    if tensor.ndim != 2:
        raise ValueError(f"sparse_: expected 2 dimensions, got shape {tensor.shape}")
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparse_: expected a sparsity within 0 and 1, got {sparsity}")
    rows, columns = tensor.shape
    weight = _draw_normal((rows, columns), tensor.dtype, 0.0, std, generator)
    order = np.argsort(_draw_uniform((rows, columns), np.float64, 0.0, 1.0, generator), axis=0)
    zeros = math.ceil(sparsity * rows)
    np.put_along_axis(weight, order[:zeros], 0, axis=0)
    return _fill(tensor, weight)
