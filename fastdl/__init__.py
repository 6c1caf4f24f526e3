"""fastdl: neural-network kernels for NumPy arrays, with autograd, layers and optimizers under torch's names."""

# ruff: noqa: F401
from __future__ import annotations

import math
import warnings
from types import FunctionType
from typing import TYPE_CHECKING, Any

# isort: off
from .tensor import (
    Tensor,
    clone,
    detach,
    is_floating_point,
    is_tensor,
    numel,
)  # before the function `tensor`, which replaces it

# isort: on
from . import autograd, backend, functional, random
from .autograd import enable_grad, inference_mode, is_grad_enabled, no_grad, set_grad_enabled
from .backend import get_default_dtype, get_num_threads, set_default_dtype, set_num_threads
from .device import device
from .dtypes import bool as bool
from .dtypes import (
    can_cast,
    double,
    finfo,
    float16,
    float32,
    float64,
    half,
    iinfo,
    int8,
    int16,
    int32,
    int64,
    long,
    promote_types,
    result_type,
    short,
    uint8,
)
from .dtypes import float as float
from .dtypes import int as int

# fmt: off
# isort: off
from .functional.arithmetic import add, mul, multiply, rsub, sub, subtract
from .functional.comparison import (
    bitwise_and, bitwise_left_shift, bitwise_or, bitwise_right_shift, bitwise_xor, eq, ge, greater,
    greater_equal, gt, le, less, less_equal, logical_and, logical_or, logical_xor, lt, maximum, minimum,
    ne, not_equal,
)
from .functional.creation import (
    arange, as_tensor, bernoulli, empty, empty_like, eye, from_dlpack, from_numpy, full, full_like,
    linspace, logspace, multinomial, normal, ones, ones_like, rand, rand_like, randint, randint_like,
    randn, randn_like, randperm, tensor, zeros, zeros_like,
)
from .functional.cumulative import (
    cummax, cummin, cumprod, cumsum, diff,
)
from .functional.diagonal import (
    diag, diag_embed, diagonal, tril, tril_indices, triu, triu_indices,
)
from .functional.division import div, divide, floor_divide, fmod, remainder, true_divide
from .functional.gather import (
    gather, scatter, scatter_add, scatter_reduce, take_along_dim,
)
from .functional.indexing import (
    argwhere, index_add, index_copy, index_fill, index_select, masked_fill, masked_scatter,
    masked_select, nonzero, take,
)
from .functional.joining import (
    cat, chunk, concat, concatenate, dstack, hstack, narrow, select, split, stack, tensor_split, unbind,
    vstack,
)
from .functional.linalg import (
    addmm, addmv, addr, baddbmm, bmm, cdist, cross, dot, einsum, ger, inner, kron, matmul, mm, mv,
    outer, tensordot, trace, vdot,
)
from .functional.pointwise import (
    abs, absolute, acos, acosh, addcdiv, addcmul, allclose, arccos, arccosh, arcsin, arcsinh, arctan,
    arctanh, asin, asinh, atan, atanh, bitwise_not, ceil, clamp, clamp_max, clamp_min, clip, cos, cosh,
    equal, erf, exp, exp2, expm1, fix, floor, frac, isclose, isfinite, isinf, isnan, isneginf, isposinf,
    lerp, log, log10, log1p, log2, logical_not, nan_to_num, neg, negative, positive, reciprocal, round,
    rsqrt, sigmoid, sign, signbit, sin, sinh, sqrt, square, tan, tanh, trunc, where,
)
from .functional.power import atan2, hypot, logaddexp, pow
from .functional.reduction import (
    all, amax, amin, aminmax, any, argmax, argmin, count_nonzero, logsumexp, max, mean, min, nanmean,
    nansum, prod, sum,
)
from .functional.repeating import (
    flip, fliplr, flipud, meshgrid, repeat_interleave, roll, rot90, tile,
)
from .functional.shape import (
    atleast_1d, atleast_2d, atleast_3d, broadcast_shapes, broadcast_tensors, broadcast_to, flatten,
    moveaxis, movedim, permute, ravel, reshape, squeeze, swapaxes, swapdims, t, transpose, unflatten,
    unsqueeze,
)
from .functional.sorting import (
    argsort, bucketize, isin, msort, searchsorted, sort, topk, unique, unique_consecutive,
)
from .functional.statistics import (
    bincount, dist, histc, kthvalue, median, norm, quantile, std, std_mean, var, var_mean,
)
# isort: on
# fmt: on
from .casting import autocast, get_autocast_dtype, is_autocast_enabled
from .naming import names_itself
from .precision import float32_precision, get_float32_precision, set_float32_precision
from .random import get_rng_state, initial_seed, manual_seed, seed, set_rng_state

# Calls by these names say which function was given something that is no Tensor.
for _name, _value in list(globals().items()):
    if isinstance(_value, FunctionType) and _value.__module__.startswith(
        ("fastdl.functional.", "fastdl.tensor")
    ):
        globals()[_name] = names_itself(_value)

if TYPE_CHECKING:
    from . import cuda, data, io, nn, ops, optim, train
    from .generator import Generator
    from .io import load, save
    from .train import evaluate, fit, predict, summary  # type: ignore[no-redef]

# Infinities and NaN are results, not accidents: NumPy's warnings about them are off inside fastdl (and only there).
_FLAGS = r"(divide by zero|overflow|underflow|invalid value) encountered"
warnings.filterwarnings("ignore", _FLAGS, RuntimeWarning, "fastdl")

__version__ = "0.1.0"

Size = tuple  # what `Tensor.shape` is
dtype = type(float32)
e, inf, nan, newaxis, pi = math.e, math.inf, math.nan, None, math.pi

# Loaded at first use, so that `import fastdl` stays quick.
_MODULES = ("cuda", "data", "io", "nn", "ops", "optim", "train")
_ELSEWHERE = {
    **dict.fromkeys(("fit", "evaluate", "predict", "summary"), "train"),
    **dict.fromkeys(("load", "save"), "io"),
    "bfloat16": "dtypes",
    "Generator": "generator",  # a class of NumPy's, whose random numbers take as long to load as the rest of fastdl
    **dict.fromkeys(
        (
            *("relu", "softmax", "log_softmax", "conv1d", "conv2d", "conv3d", "conv_transpose1d"),
            *("conv_transpose2d", "conv_transpose3d", "cosine_similarity", "pairwise_distance", "layer_norm"),
        ),
        "nn.functional",
    ),
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _MODULES:
        return import_module(f"fastdl.{name}")
    if name in _ELSEWHERE:
        # A package before its modules: a thread that begins with a module and one that is filling the package would
        # wait for each other.
        home: Any = None
        for part in _ELSEWHERE[name].split("."):
            home = import_module(f"{home.__name__ if home else 'fastdl'}.{part}")
        value = getattr(home, name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'fastdl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*{**globals(), **dict.fromkeys((*_MODULES, *_ELSEWHERE))}]
