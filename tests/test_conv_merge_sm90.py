"""Convolutions of few channels on Hopper's kernel, whose taps become channels (csrc/cuda/conv_merge.h)."""

import numpy as np
import pytest
from conv_sm90 import BFLOAT16, RELU, channels_last, check, close, forward, normal, weight_gradient, wide
from hopper import kernel_choice
from references import conv as ref

sm90, portable = kernel_choice("FASTDL_CUDA_CONV")


@pytest.mark.parametrize("dtype", [BFLOAT16, np.float16, np.float32])
@pytest.mark.parametrize(
    "x, w, o",
    [
        ((2, 3, 19, 23), (64, 3, 7, 7), {"stride": 2, "padding": 3}),  # ResNet
        ((2, 3, 9, 11), (64, 3, 3, 3), {"padding": 1}),  # VGG
        ((1, 3, 27, 35), (96, 3, 11, 11), {"stride": 4, "padding": 2}),  # AlexNet: 44 channels of a line
        ((2, 3, 32, 48), (72, 3, 16, 16), {"stride": 16}),  # patches of a transformer: all taps
        ((2, 1, 21, 40), (32, 1, 5, 20), {"stride": 2}),  # speech: positions copied
        ((1, 1, 50, 31), (32, 1, 41, 11), {"stride": 2, "padding": (20, 5)}),
        ((2, 2, 9, 14), (40, 2, 2, 5), {"dilation": (2, 3), "padding": (1, 4)}),
        ((2, 16, 9, 10), (64, 16, 3, 3), {"padding": 1}),
        (
            (1, 4, 30, 7),
            (64, 4, 3, 2),
            {"stride": (11, 1), "padding": (2, 1)},
        ),  # steps that no map has room for
        ((2, 64, 24, 5), (64, 64, 2, 3), {"stride": (9, 1), "padding": (0, 1)}),
        ((3, 5, 8, 9), (136, 5, 3, 4), {"padding": (0, 2), "stride": (1, 3)}),
    ],
)
def test_two_axes(rng, x, w, o, dtype):
    check(rng, x, w, dtype, data=False, **o)


@pytest.mark.parametrize(
    "x, w, o",
    [
        ((3, 2, 90), (72, 2, 9), {"padding": 4}),
        ((2, 1, 401), (64, 1, 25), {"stride": 10, "padding": 3}),
        ((2, 3, 4, 9, 8), (64, 3, 3, 3, 3), {"padding": 1}),
        ((1, 3, 5, 12, 13), (24, 3, 2, 4, 4), {"stride": (1, 4, 4), "padding": (1, 0, 1)}),  # two axes merged
        ((1, 2, 6, 6, 9), (64, 2, 3, 3, 3), {"stride": 3}),  # three
    ],
)
@pytest.mark.parametrize("dtype", [BFLOAT16, np.float32])
def test_one_and_three_axes(rng, x, w, o, dtype):
    check(rng, x, w, dtype, data=False, **o)


@pytest.mark.parametrize("channels, columns", [(32, 64), (96, 24), (72, 64)])
def test_boxes_of_half_the_channels(rng, channels, columns):
    """Three boxes of 32 channels in two steps and a half: the taps stay."""
    check(rng, (2, channels, 9, 8), (columns, channels, 3, 1), BFLOAT16, padding=(1, 0))


def test_ends_of_every_layout(rng):
    """Bias, residual and ReLU; images whose channels are planes, outputs with gaps."""
    x = rng.standard_normal((2, 3, 12, 15)).astype(BFLOAT16)
    w = rng.standard_normal((64, 3, 5, 5)).astype(BFLOAT16)
    bias, residual = normal(rng, (64, 1), BFLOAT16)[:, 0], normal(rng, (2, 64, 6, 8), BFLOAT16)
    expected = ref.conv(wide(x), wide(w), wide(bias), stride=2, padding=2) + wide(residual)
    scale = ref.conv(abs(wide(x)), abs(wide(w)), stride=2, padding=2) + 9
    gaps = channels_last(np.zeros((2, 80, 8, 9), BFLOAT16))
    for out in (None, np.full((2, 64, 6, 8), np.nan, BFLOAT16), gaps[:, 8:72, 1:7, 1:]):
        got = forward(x, w, bias, residual, RELU, out, stride=2, padding=2)
        close(got, np.maximum(expected, 0), scale)
    assert not gaps[:, :8].any() and not gaps[:, 72:].any() and not gaps[:, :, 7:].any()


@pytest.mark.parametrize("dtype", [BFLOAT16, np.float32])
@pytest.mark.parametrize(
    "w, o",
    [
        ((64, 3, 7, 7), {"stride": 2, "padding": 3}),
        ((64, 3, 3, 3), {"padding": 1}),
        ((64, 1, 5, 6), {"stride": 2, "padding": 1}),
        ((64, 3, 4, 4), {"stride": 4}),
    ],
)
def test_what_is_not_finite_stays_where_it_belongs(rng, portable, w, o, dtype):
    """Infinities and NaN in an image's corners and middle, and in some weights: NaN where the portable kernels have it,
    which multiply padding as zeros, and nothing else."""
    x, w = normal(rng, (2, w[1], 12, 16), dtype), normal(rng, w, dtype)
    x[0, 0, 0, 0], x[0, -1, 11, 15], x[1, 0, 5, 8], x[1, 0, 0, 15] = np.inf, np.nan, -np.inf, np.inf
    with np.errstate(all="ignore"):
        got, expected = wide(forward(x, w, **o)), wide(portable(lambda: forward(x, w, **o)))
        np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
        assert not np.isfinite(got[0]).all() and np.isfinite(got[0]).any()
        np.testing.assert_allclose(got, expected, rtol=2.0**-7, atol=2.0**-6)
        grad = normal(rng, got.shape, dtype)
        grad[1, 3, 0, 0] = np.inf
        got, expected = (
            wide(f(lambda: weight_gradient(grad, x, w.shape, **o))) for f in (lambda f: f(), portable)
        )
        np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
        np.testing.assert_array_equal(np.isinf(got), np.isinf(expected))
        x = normal(rng, x.shape, dtype)
        w[5, 0, 0, 0], w[7, 0, -1, -1] = np.inf, np.nan
        got, expected = wide(forward(x, w, **o)), wide(portable(lambda: forward(x, w, **o)))
        np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
        finite = np.isfinite(expected)
        np.testing.assert_allclose(got[finite], expected[finite], rtol=2.0**-7, atol=2.0**-6)


def test_the_same_bits_again(rng):
    x, w = normal(rng, (3, 3, 30, 31), BFLOAT16), normal(rng, (64, 3, 7, 7), BFLOAT16)
    y = forward(x, w, stride=2, padding=3)
    np.testing.assert_array_equal(forward(x, w, stride=2, padding=3), y)
    dw = weight_gradient(y, x, w.shape, stride=2, padding=3)
    np.testing.assert_array_equal(weight_gradient(y, x, w.shape, stride=2, padding=3), dw)
