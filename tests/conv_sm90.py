"""What tests of Hopper's convolutions share: calls of the CUDA kernels on arrays, and their comparison with float64."""

import devices
import ml_dtypes
import numpy as np
from references import conv as ref

sim = devices.cuda_kernels()

BFLOAT16 = ml_dtypes.bfloat16
NONE, RELU, GELU = 0, 1, 7


def options(nd=2, stride=1, padding=0, dilation=1, groups=1, activation=NONE):
    three = lambda v: (*([v] * nd if isinstance(v, int) else v), *[1] * (3 - nd))  # noqa: E731
    sizes = three(stride), three(padding), three(padding), three(dilation)
    return sim.ConvOptions(*sizes, groups, activation, 0, 0)


def channels_last(x):
    """The same numbers, channels side by side, as convolutions make their results."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)


def normal(rng, shape, dtype):
    return channels_last(rng.standard_normal(shape).astype(dtype))


def wide(x):
    return None if x is None else x.astype(np.float64)


def forward(x, w, bias=None, residual=None, activation=NONE, out=None, **o):
    if out is None:
        out = channels_last(np.full(ref.conv(x, w, **o).shape, np.nan, x.dtype))
    sim.conv_forward(x, w, bias, residual, out, options(w.ndim - 2, activation=activation, **o))
    return out


def data_gradient(grad, w, shape, **o):
    dx = channels_last(np.full(shape, np.nan, grad.dtype))
    sim.conv_backward_data(grad, None, w, dx, options(w.ndim - 2, **o))
    return dx


def weight_gradient(grad, x, shape, **o):
    dw = np.full(shape, np.nan, x.dtype)
    sim.conv_backward_weight(grad, None, x, dw, None, options(len(shape) - 2, **o))
    return dw


def close(got, expected, scale):
    """Sums in float32 rounded once: an error of half an ulp, and of the sums' own."""
    eps = float(ml_dtypes.finfo(got.dtype).eps) / 2
    own = 2.0**-22 if got.dtype == np.float32 else 2.0**-18
    error = np.abs(wide(got) - expected)
    np.testing.assert_array_less(error, 1.01 * eps * np.abs(expected) + own * scale + 1e-30)


def check(rng, x, w, dtype, data=True, **o):
    """Forward pass with bias, and both gradients (the data gradient if asked for)."""
    x, w = normal(rng, x, dtype), normal(rng, w, dtype)
    bias = normal(rng, (w.shape[0], 1), dtype)[:, 0]
    y = forward(x, w, bias, **o)
    close(
        y,
        ref.conv(wide(x), wide(w), wide(bias), **o),
        ref.conv(abs(wide(x)), abs(wide(w)), abs(wide(bias)), **o),
    )
    grad = normal(rng, y.shape, dtype)
    dw = weight_gradient(grad, x, w.shape, **o)
    expected, scale = (ref.conv_backward(f(grad), f(x), f(w), **o) for f in (wide, lambda a: abs(wide(a))))
    if data:
        close(data_gradient(grad, w, x.shape, **o), expected[0], scale[0])
    close(dw, expected[1], scale[1])
