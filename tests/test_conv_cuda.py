"""What is special to the CUDA convolutions: both sizes of blocks, sums in parts, many residues of a stride, precisions,
values that do not split. On the host executor where it was built (FASTDL_SIMT=ON), else skipped."""

import devices
import ml_dtypes
import numpy as np
import pytest
from references import conv as ref
from test_conv import CASES

sim = devices.cuda_kernels()

bfloat16 = ml_dtypes.bfloat16
HIGHEST, HIGH, MEDIUM = range(3)


@pytest.fixture
def precision():
    """Sets the precision of float32 products for one test."""
    yield sim.set_float32_precision
    sim.set_float32_precision(HIGHEST)


def options(nd=2, stride=1, padding=0, dilation=1, groups=1, activation=0):
    three = lambda v: (*([v] * nd if isinstance(v, int) else v), *[1] * (3 - nd))  # noqa: E731
    sizes = three(stride), three(padding), three(padding), three(dilation)
    return sim.ConvOptions(*sizes, groups, activation, 0, 0)


def channels_last(shape, dtype):
    """Uninitialised (NaN) outputs as fastdl.ops makes them."""
    return np.moveaxis(np.full((shape[0], *shape[2:], shape[1]), np.nan, dtype), -1, 1)


def forward(x, w, bias=None, residual=None, activation=0, **o):
    out = channels_last(ref.conv(x, w, **o).shape, x.dtype)
    sim.conv_forward(x, w, bias, residual, out, options(w.ndim - 2, activation=activation, **o))
    return out


def backward(grad, x, w, **o):
    dx, dw, db = (
        channels_last(x.shape, x.dtype),
        np.full_like(w, np.nan),
        np.full(w.shape[0], np.nan, w.dtype),
    )
    sim.conv_backward_data(grad, None, w, dx, options(w.ndim - 2, **o))
    sim.conv_backward_weight(grad, None, x, dw, db, options(w.ndim - 2, **o))
    return dx, dw, db


def normal(rng, shape, dtype):
    return rng.standard_normal(shape).astype(dtype)


def check(rng, x, w, dtype, tolerance=None, **o):
    """Forward and backward against float64, and the same bits again."""
    x, w = normal(rng, x, dtype), normal(rng, w, dtype)
    bias = normal(rng, w.shape[0], dtype)
    y = forward(x, w, bias, **o)
    grad = normal(rng, y.shape, dtype)
    got = [y, *backward(grad, x, w, **o)]
    wide = [a.astype(np.float64) for a in (grad, x, w)]
    size = [np.abs(a) for a in wide]
    b = bias.astype(np.float64)
    expected = [ref.conv(*wide[1:], b, **o), *ref.conv_backward(*wide, **o)]
    sizes = [ref.conv(*size[1:], np.abs(b), **o), *ref.conv_backward(*size, **o)]
    eps = float(ml_dtypes.finfo(dtype).eps) / 2
    relative = 2.0**-22 if np.dtype(dtype).itemsize < 8 else 1e-14
    for g, e, s in zip(got, expected, sizes, strict=True):
        error = np.abs(g.astype(np.float64) - e)
        assert np.all(
            error <= (tolerance or relative) * s + eps * np.abs(e) + 2.0**-25 * (dtype is np.float16)
        )
    for a, b in zip(got, [forward(x, w, bias, **o), *backward(grad, x, w, **o)], strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float16, bfloat16])
def test_large_blocks(rng, dtype):
    # Four times 128 x 128 outputs, with tails; 9 * 72 columns of the weight gradient.
    check(rng, (2, 72, 16, 15), (136, 72, 3, 3), dtype, padding=1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, bfloat16])
def test_sums_in_parts(rng, dtype):
    # Few outputs and 9 * 80 terms; then few weights and 2 * 24 * 23 positions.
    check(rng, (1, 80, 5, 4), (11, 80, 3, 3), dtype, padding=1)
    check(rng, (2, 5, 49, 47), (9, 5, 3, 3), dtype, padding=1, stride=2)


@pytest.mark.parametrize("dtype", [np.float32, bfloat16])
@pytest.mark.parametrize(
    "x, w, o",
    [
        ((1, 9, 13, 14), (8, 9, 2, 3), {"stride": (4, 5)}),  # residues without taps, more than a launch has
        ((1, 4, 23), (6, 2, 5), {"stride": 6, "dilation": 4, "padding": 3, "groups": 2}),
        ((2, 3, 40), (4, 3, 33), {"padding": 16}),  # channels and taps cross every border of a tile
        ((1, 65, 3, 2), (3, 65, 1, 1), {"stride": 2}),
        ((2, 48, 5, 5), (48, 8, 3, 3), {"groups": 6}),
    ],
)
def test_strides_and_taps(rng, x, w, o, dtype):
    check(rng, x, w, dtype, **o)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, bfloat16])
@pytest.mark.parametrize("channels", [72, 13])
def test_depthwise(rng, channels, dtype):
    # Packs of channels or single ones; more taps than a thread has sums for; several parts.
    check(rng, (2, channels, 14, 9), (channels, 1, 4, 3), dtype, padding=1, groups=channels)
    check(rng, (1, channels, 9, 11), (channels, 1, 3, 3), dtype, stride=2, padding=1, groups=channels)


@pytest.mark.parametrize("dtype", [np.float32, bfloat16])
@pytest.mark.parametrize("case", [CASES[i] for i in (0, 1, 5)], ids=str)
def test_what_is_too_large_in_test_conv(rng, case, dtype):
    x, w, o = case
    check(rng, x, w, dtype, **o)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, bfloat16])
@pytest.mark.parametrize("spatial", [(), (9,), (5, 3)], ids=str)
def test_pixels_times_weights(rng, spatial, dtype):
    # 1 x 1 without strides on channels-last images: a plain product.
    last = lambda a: np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1)  # noqa: E731
    spatial = (*spatial, 7)
    x, w = last(normal(rng, (3, 20, *spatial), dtype)), normal(rng, (12, 20, *[1] * len(spatial)), dtype)
    bias, residual, grad = (normal(rng, s, dtype) for s in (12, *[(3, 12, *spatial)] * 2))
    grad = last(grad)
    wide = [a.astype(np.float64) for a in (grad, x, w, bias, residual)]
    y = ref.conv(*wide[1:4]) + wide[4]
    got = [forward(x, w, bias, last(residual), activation=1), *backward(grad, x, w)]
    expected = [np.maximum(y, 0), *ref.conv_backward(*wide[:3])]
    eps = float(ml_dtypes.finfo(dtype).eps)
    for g, e in zip(got, expected, strict=True):
        np.testing.assert_allclose(g.astype(np.float64), e, rtol=eps, atol=512 * min(eps, 2.0**-23))


def test_many_groups(rng):
    # More than the third dim of a grid counts in one launch with parts to spare.
    check(rng, (1, 520, 3, 3), (260, 2, 2, 2), np.float32, groups=260)


@pytest.mark.parametrize("level, bound", [(HIGH, 2.0**-15), (MEDIUM, 2.0**-7)])
def test_lower_precisions_keep_what_they_promise(rng, precision, level, bound):
    precision(level)
    check(rng, (2, 12, 7, 7), (9, 12, 3, 3), np.float32, tolerance=bound, padding=1)


def test_weights_in_the_order_of_the_sum(rng):
    # Channels-last weights are read in place, others are copied: the same sums.
    x, w = normal(rng, (2, 16, 6, 5), np.float32), normal(rng, (8, 16, 3, 3), np.float32)
    last = np.moveaxis(np.ascontiguousarray(np.moveaxis(w, 1, -1)), -1, 1)
    np.testing.assert_array_equal(forward(x, w, padding=1), forward(x, last, padding=1))


@pytest.mark.parametrize("dtype", [np.float32, bfloat16, np.float64])
@pytest.mark.parametrize("where", range(3))
def test_values_that_cannot_be_split(rng, where, dtype):
    # 0 * Inf counts where zeros are padding, and does not where no tap reaches.
    o = {"stride": 2, "padding": 1}
    x, w = normal(rng, (2, 8, 7, 6), dtype), normal(rng, (9, 8, 3, 3), dtype)
    grad = normal(rng, forward(x, w, **o).shape, dtype)
    (grad, x, w)[where].flat[[7, 20]] = np.inf, np.nan
    (grad, x, w)[where].flat[40:43] = 1e-38, 1e-35, -1e-36
    got = [forward(x, w, **o), *backward(grad, x, w, **o)]
    wide = [a.astype(np.float64) for a in (grad, x, w)]
    with np.errstate(all="ignore"):
        expected = [ref.conv(*wide[1:], **o), *ref.conv_backward(*wide, **o)]
        for g, e in zip(got, expected, strict=True):
            np.testing.assert_array_equal(np.isnan(g.astype(np.float64)), np.isnan(e))
            finite = np.isfinite(e) & (np.abs(e) < 1e38)
            np.testing.assert_allclose(
                g.astype(np.float64)[finite], e[finite], rtol=0.01 if dtype is bfloat16 else 1e-3, atol=1e-2
            )


def test_extents_beyond_32_bits():
    x, w = np.ones((1, 1, 4), np.float32), np.ones((1, 1, 8), np.float32)
    out = np.ones((1, 1, 2), np.float32)
    o = sim.ConvOptions((2**30, 1, 1), (2**30, 0, 0), (2**30, 0, 0), (1, 1, 1), 1, 0, 0, 0)
    with pytest.raises(ValueError, match="positions beyond"):
        sim.conv_forward(x, w, None, None, out, o)
