"""Resizing of images, and other rearrangements of their pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..autograd import ArrayFunction, is_float
from ..backend import as_array
from .core import as_tensor, widened
from .pad import scatter_axis

if TYPE_CHECKING:
    from ..tensor import Tensor


class Taps(NamedTuple):
    """A resampling of one axis: output[i] = sum over t of weight[t][i] * input[source[t][i]] (no weights: 1)."""

    axis: int
    source: Sequence[np.ndarray]
    weight: Sequence[np.ndarray] | None


class Resample(ArrayFunction):
    """Interpolation of any order, one axis after the other: every mode is separable."""

    @staticmethod
    def forward(ctx: Any, x: np.ndarray, taps: Sequence[Taps]) -> np.ndarray:
        ctx.shape, ctx.taps = x.shape, taps
        for axis, index, weight in taps:
            if weight is None:
                x = x.take(index[0], axis)
            else:
                terms = zip(index, _along(weight, axis, x), strict=True)
                x = as_array(sum(x.take(i, axis) * w for i, w in terms))
        return x

    @staticmethod
    def backward(ctx: Any, grad: np.ndarray) -> np.ndarray:
        for axis, index, weight in reversed(ctx.taps):
            n = ctx.shape[axis]
            if weight is None:
                grad = scatter_axis(grad, index[0], n, axis)
            else:
                terms = zip(index, _along(weight, axis, grad), strict=True)
                grad = as_array(sum(scatter_axis(grad * w, i, n, axis) for i, w in terms))
        return grad


def _along(weights: Sequence[np.ndarray], axis: int, x: np.ndarray) -> list[np.ndarray]:
    """Weights shaped to multiply x along an axis, in its dtype."""
    return [
        np.asarray(w.astype(x.dtype), like=x).reshape((-1,) + (1,) * (x.ndim - 1 - axis)) for w in weights
    ]


def _nearest(axis: int, n: int, out: int, step: Any, exact: bool) -> Taps:
    # In float32 whatever the input, as torch has it: the choice between two neighbours is a matter of
    # rounding.
    i = np.arange(out, dtype=np.float32)
    source = (i + np.float32(0.5)) * np.float32(step) if exact else i * np.float32(step)
    return Taps(axis, [np.minimum(np.floor(source).astype(np.intp), n - 1)], None)


def _positions(out: int, step: Any, align_corners: bool, dtype: np.dtype) -> np.ndarray:
    i = np.arange(out, dtype=dtype)
    return (
        i * dtype.type(step) if align_corners else (i + dtype.type(0.5)) * dtype.type(step) - dtype.type(0.5)
    )


def _linear(axis: int, n: int, out: int, step: Any, align_corners: bool, dtype: np.dtype) -> Taps:
    source = np.maximum(_positions(out, step, align_corners, dtype), 0)
    low = np.minimum(source.astype(np.intp), n - 1)
    part = np.clip(source - low, 0, 1)
    return Taps(axis, [low, np.minimum(low + 1, n - 1)], [1 - part, part])


def _cubic(axis: int, n: int, out: int, step: Any, align_corners: bool, dtype: np.dtype) -> Taps:
    """Cubic convolution with a = -0.75 (Keys 1981, "Cubic convolution interpolation for digital image processing",
    section IV)."""
    source = _positions(out, step, align_corners, dtype)
    low = np.floor(source)
    t, a = source - low, -0.75

    def near(d: np.ndarray) -> np.ndarray:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: np.ndarray) -> np.ndarray:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    index = [np.clip(low.astype(np.intp) + k, 0, n - 1) for k in (-1, 0, 1, 2)]
    return Taps(axis, index, [far(t + 1), near(t), near(1 - t), far(2 - t)])


def _area(axis: int, n: int, out: int) -> Taps:
    """The mean of the elements that each output covers, as adaptive average pooling has it."""
    i = np.arange(out)
    first, last = i * n // out, -(-(i + 1) * n // out)
    count = last - first
    index = [np.minimum(first + k, n - 1) for k in range(int(count.max(initial=0)))]
    return Taps(axis, index, [(k < count) / count for k in range(len(index))])


_MODES = {  # the number of spatial dimensions each takes
    "nearest": (1, 2, 3),
    "nearest-exact": (1, 2, 3),
    "area": (1, 2, 3),
    "linear": (1,),
    "bilinear": (2,),
    "bicubic": (2,),
    "trilinear": (3,),
}


@widened
def interpolate(
    input: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """Resize the spatial dimensions of a (N, C, ...) input to ``size``, or by ``scale_factor``.

    mode: "nearest", "nearest-exact", "area" (1 to 3 spatial dimensions), "linear" (1), "bilinear", "bicubic" (2),
    "trilinear" (3). align_corners: whether the corner elements keep their places (linear and cubic modes only).
    recompute_scale_factor: use the ratio of the sizes instead of the ``scale_factor`` given.

    Raises ValueError for an unknown mode, another number of dimensions than the mode takes, both or neither of size
    and scale_factor, sizes below 1, or ``align_corners`` with a mode that has none; TypeError for integers in an
    averaging mode.

    >>> import fastdl
    >>> import fastdl.nn.functional as F
    >>> F.interpolate(fastdl.tensor([[[1.0, 3.0]]]), scale_factor=2, mode="linear").tolist()
    [[[1.0, 1.5, 2.5, 3.0]]]
    """
    input = as_tensor(input)
    shape, dtype = input._data.shape, input._data.dtype
    spatial = shape[2:]
    if mode not in _MODES:
        raise ValueError(f"interpolate: expected a mode of {', '.join(_MODES)}, got {mode!r}")
    if len(spatial) not in _MODES[mode]:
        wanted = " or ".join(str(k + 2) for k in _MODES[mode])
        raise ValueError(f"interpolate: mode {mode!r} expects {wanted} dimensions, got shape {shape}")
    smooth = mode.endswith(("linear", "cubic"))
    if align_corners is not None and not smooth:
        raise ValueError(f"interpolate: align_corners has no meaning for mode {mode!r}")
    if antialias:
        raise NotImplementedError("interpolate: antialias=True is not supported")
    if not is_float(dtype) and not mode.startswith("nearest"):
        raise TypeError(f"interpolate: mode {mode!r} expects floating-point input, got {dtype}")
    sizes, steps = _output_sizes(spatial, size, scale_factor, recompute_scale_factor, align_corners)
    if min(spatial) < 1 or min(sizes) < 1:
        raise ValueError(f"interpolate: sizes must be positive, got {spatial} to {tuple(sizes)}")
    taps = []
    for k, (n, out, step) in enumerate(zip(spatial, sizes, steps, strict=True)):
        if mode.startswith("nearest"):
            taps.append(_nearest(k + 2, n, out, step, mode == "nearest-exact"))
        elif mode == "area":
            taps.append(_area(k + 2, n, out))
        else:
            kernel = _cubic if mode == "bicubic" else _linear
            taps.append(kernel(k + 2, n, out, step, bool(align_corners), dtype))
    return Resample.apply(input, taps)


def _output_sizes(
    spatial: tuple, size: Any, scale_factor: Any, recompute: bool | None, align_corners: bool | None
) -> tuple[list[int], list[float]]:
    """The sizes after resizing, and how far apart in the input neighbours in the output are."""
    if (size is None) == (scale_factor is None):
        raise ValueError("interpolate: expected exactly one of size and scale_factor")
    given = size if size is not None else scale_factor
    factors = list(given) if isinstance(given, Sequence | np.ndarray) else [given] * len(spatial)
    if len(factors) != len(spatial):
        raise ValueError(f"interpolate: expected {len(spatial)} sizes or factors, got {given!r}")
    if size is not None:
        try:
            sizes = [f.__index__() for f in factors]
        except AttributeError:
            raise TypeError(f"interpolate: expected integers for size, got {size!r}") from None
    else:
        if not all(isinstance(f, int | float | np.number) and 0 < f < math.inf for f in factors):
            raise ValueError(f"interpolate: expected positive scale factors, got {scale_factor!r}")
        sizes = [math.floor(n * float(f)) for n, f in zip(spatial, factors, strict=True)]
    if align_corners:
        return sizes, [(n - 1) / (out - 1) if out > 1 else 0.0 for n, out in zip(spatial, sizes, strict=True)]
    if size is not None or recompute:
        return sizes, [n / out if out > 0 else 0.0 for n, out in zip(spatial, sizes, strict=True)]
    return sizes, [1.0 / float(f) for f in factors]


def upsample(
    input: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: Any = None,
) -> Tensor:
    """The older name of `interpolate`."""
    return interpolate(input, size, scale_factor, mode, align_corners)


# -------------------------------------------------------------------------------------------------- rearranging


def _channels(op: str, input: Tensor, factor: Any, ndim: int = 3) -> tuple:
    if not isinstance(factor, int | np.integer) or isinstance(factor, bool):
        raise TypeError(f"{op}: expected an integer factor, got {type(factor).__name__}")
    if factor < 1:
        raise ValueError(f"{op}: expected a positive factor, got {factor}")
    shape = input._data.shape
    if len(shape) < ndim:
        raise ValueError(f"{op}: expected at least {ndim} dimensions, got shape {shape}")
    return shape


def pixel_shuffle(input: Tensor, upscale_factor: int) -> Tensor:
    """(..., C r^2, H, W) -> (..., C, H r, W r): channels become pixels (Shi et al. 2016, "Real-time single image and
    video super-resolution using an efficient sub-pixel convolutional neural network", section 2.2).

    Raises ValueError unless r^2 divides the channels, TypeError where r is no integer.

    >>> import fastdl
    >>> import fastdl.nn.functional as F
    >>> F.pixel_shuffle(fastdl.tensor([[[1.0]], [[2.0]], [[3.0]], [[4.0]]]), 2).tolist()
    [[[1.0, 2.0], [3.0, 4.0]]]
    """
    input, r = as_tensor(input), upscale_factor
    *lead, c, h, w = _channels("pixel_shuffle", input, r)
    if c % (r * r):
        raise ValueError(f"pixel_shuffle: expected channels divisible by {r * r}, got {c}")
    k, n = len(lead), c // (r * r)
    x = input.reshape(*lead, n, r, r, h, w)
    x = x.permute(*range(k + 1), k + 3, k + 1, k + 4, k + 2)
    return x.reshape(*lead, n, h * r, w * r)


def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Tensor:
    """(..., C, H r, W r) -> (..., C r^2, H, W): the inverse of `pixel_shuffle`.

    Raises ValueError unless r divides height and width, TypeError where r is no integer.
    """
    input, r = as_tensor(input), downscale_factor
    *lead, c, h, w = _channels("pixel_unshuffle", input, r)
    if h % r or w % r:
        raise ValueError(f"pixel_unshuffle: expected height and width divisible by {r}, got {(h, w)}")
    k = len(lead)
    x = input.reshape(*lead, c, h // r, r, w // r, r)
    x = x.permute(*range(k + 1), k + 2, k + 4, k + 1, k + 3)
    return x.reshape(*lead, c * r * r, h // r, w // r)


def channel_shuffle(input: Tensor, groups: int) -> Tensor:
    """(N, g k, ...) -> the channels dealt out anew, so that neighbours come from different groups (Zhang et al. 2018,
    "ShuffleNet", section 3.1). Raises ValueError unless ``groups`` divides the channels."""
    input = as_tensor(input)
    n, c, *rest = _channels("channel_shuffle", input, groups)
    if c % groups:
        raise ValueError(f"channel_shuffle: expected channels divisible by {groups}, got {c}")
    return input.reshape(n, groups, c // groups, *rest).transpose(1, 2).reshape(n, c, *rest)
