"""Hopper's convolutions (csrc/cuda/conv_sm90.cuh): every shape is sent to that kernel and compared with float64.
On the host executor where it was built (FASTDL_SIMT=ON), on a GPU of compute capability 9.0 with ``--device cuda``."""

import numpy as np
import pytest
from conv_sm90 import (
    BFLOAT16,
    GELU,
    NONE,
    RELU,
    channels_last,
    check,
    close,
    data_gradient,
    forward,
    normal,
    options,
    sim,
    weight_gradient,
    wide,
)
from hopper import kernel_choice
from references import conv as ref

sm90, portable = kernel_choice("FASTDL_CUDA_CONV")


@pytest.mark.parametrize("dtype", [BFLOAT16, np.float16, np.float32])
@pytest.mark.parametrize(
    "x, w, o",
    [
        ((2, 64, 9, 11), (64, 64, 3, 3), {"padding": 1}),  # two tiles, the second one over an edge of images
        ((3, 72, 10, 7), (136, 72, 2, 3), {"padding": (0, 2)}),  # tails of channels, columns and rows
        ((1, 8, 12, 13), (16, 8, 3, 2), {"dilation": (2, 3), "padding": 2}),
        ((2, 64, 13, 12), (24, 64, 3, 3), {"stride": 2, "padding": 1}),
        ((1, 24, 17, 9), (8, 24, 2, 3), {"stride": (3, 2)}),
        ((2, 130, 6, 5), (40, 130, 1, 1), {"stride": 2}),  # channels that are copied, to be aligned
    ],
)
def test_two_axes(rng, x, w, o, dtype):
    check(rng, x, w, dtype, **o)


@pytest.mark.parametrize(
    "x, w, o",
    [
        ((2, 64, 150), (72, 64, 5), {"padding": 2}),
        ((3, 16, 61), (8, 16, 4), {"stride": 2, "dilation": 3}),
        ((1, 64, 300), (8, 64, 33), {"dilation": 8}),  # offsets of more than 8 bits
        ((2, 64, 3, 5, 6), (72, 64, 2, 3, 3), {"padding": (0, 1, 1)}),
        ((1, 16, 5, 6, 4), (24, 16, 3, 2, 1), {"stride": (2, 1, 2), "padding": (1, 1, 0)}),
    ],
)
@pytest.mark.parametrize("dtype", [BFLOAT16, np.float32])
def test_one_and_three_axes(rng, x, w, o, dtype):
    check(rng, x, w, dtype, **o)


@pytest.mark.parametrize(
    "x, w", [((2, 64, 10, 11), (392, 64, 3, 3)), ((5, 64, 14, 10), (136, 64, 3, 2))], ids=["wide", "many"]
)
def test_rings_that_go_round(rng, x, w):
    """Tiles of 128 x 256 with more steps than stages; 12 tiles of 128 x 128 on four multiprocessors."""
    x, w = normal(rng, x, BFLOAT16), normal(rng, w, BFLOAT16)
    y = forward(x, w, padding=1)
    close(y, ref.conv(wide(x), wide(w), padding=1), ref.conv(abs(wide(x)), abs(wide(w)), padding=1))
    np.testing.assert_array_equal(forward(x, w, padding=1), y)


@pytest.mark.parametrize("dtype", [BFLOAT16, np.float32])
def test_parts_along_k(rng, dtype):
    """Few results, 9 x 256 terms: cut into parts, that begin within a tap; then few weights, 1,216 positions."""
    check(rng, (1, 200, 6, 5), (16, 200, 3, 3), dtype, padding=1)
    check(rng, (2, 8, 19, 32), (8, 8, 1, 3), dtype, padding=(0, 1))


def test_weight_gradients_of_values_that_cannot_be_split(rng, portable):
    """The first of two parts, which has such an image, and the last one, which reads on where the next plane begins:
    3.4e38 is infinite there, and not in the result."""
    x, grad = normal(rng, (5, 8, 15, 16), np.float32), normal(rng, (5, 8, 15, 15), np.float32) / 64
    x[0, 3, 0, 0], x[0, 4] = 3.4e38, 1e-35
    got = weight_gradient(grad, x, (8, 8, 1, 2))
    expected = portable(lambda: weight_gradient(grad, x, (8, 8, 1, 2)))
    assert np.isfinite(expected).all() and np.abs(expected).max() > 1e34
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_wide_weight_gradients(rng):
    """128 x 256 results, clusters of two: each block brings two taps for both."""
    x, grad, shape = *(normal(rng, (2, c, 8, 9), BFLOAT16) for c in (64, 136)), (136, 64, 1, 7)
    dw = weight_gradient(grad, x, shape, padding=(0, 3))
    expected, scale = (
        ref.conv_backward(f(grad), f(x), np.zeros(shape), padding=(0, 3))[1]
        for f in (wide, lambda a: abs(wide(a)))
    )
    close(dw, expected, scale)
    np.testing.assert_array_equal(weight_gradient(grad, x, shape, padding=(0, 3)), dw)


@pytest.mark.parametrize("activation", [NONE, RELU, GELU])
@pytest.mark.parametrize("columns", [72, 67])
def test_ends(rng, portable, activation, columns):
    """Bias, residual and activation, in the end that the copy engine stores and in the other."""
    x, w = normal(rng, (2, 64, 9, 8), BFLOAT16), normal(rng, (columns, 64, 3, 3), BFLOAT16)
    bias = normal(rng, (columns, 1), BFLOAT16)[:, 0]
    residual = normal(rng, (2, columns, 9, 8), BFLOAT16)

    def compute():
        return forward(x, w, bias, residual, activation, padding=1)

    got = compute()
    np.testing.assert_allclose(wide(got), wide(portable(compute)), rtol=2.0**-7, atol=2.0**-7)
    if activation == RELU:
        expected = ref.conv(wide(x), wide(w), wide(bias), padding=1) + wide(residual)
        close(got, np.maximum(expected, 0), ref.conv(abs(wide(x)), abs(wide(w)), padding=1) + 1)


def test_out_of_every_layout(rng):
    """Outputs with gaps, not channels-last, not aligned; images of a larger one; residuals of another layout."""
    x, w = normal(rng, (2, 64, 7, 8), BFLOAT16), normal(rng, (24, 64, 3, 3), BFLOAT16)
    expected = ref.conv(wide(x), wide(w), padding=1)
    scale = ref.conv(abs(wide(x)), abs(wide(w)), padding=1)
    gaps = channels_last(np.zeros((2, 32, 9, 10), BFLOAT16))
    for out in (np.zeros((2, 24, 7, 8), BFLOAT16), gaps[:, 8:, 1:8, 2:], gaps[:, 3:27, :7, :8]):
        before = gaps.copy()
        close(forward(x, w, out=out, padding=1), expected, scale)
        outside = np.ones(gaps.shape, bool)
        if np.shares_memory(out, gaps):
            outside[:, 8:, 1:8, 2:] &= out.ctypes.data % 16 != 0
            outside[:, 3:27, :7, :8] &= out.ctypes.data % 16 == 0
        np.testing.assert_array_equal(gaps[outside], before[outside])
    part = normal(rng, (2, 72, 11, 12), BFLOAT16)[:, 8:, 2:9, 1:9]
    residual = rng.standard_normal((2, 24, 7, 8)).astype(BFLOAT16)
    got = forward(part, w, residual=residual, padding=1)
    close(got, ref.conv(wide(part), wide(w), padding=1) + wide(residual), scale + 9)


@pytest.mark.parametrize("dtype", [BFLOAT16, np.float32])
def test_holes_are_no_zeros(rng, portable, dtype):
    """Beside an infinite weight, the padding's zeros make NaN; taps that do not exist in a gradient make nothing."""
    x, w = normal(rng, (1, 64, 6, 7), dtype), normal(rng, (72, 64, 3, 3), dtype)
    w[3, 5, 0, 0], w[8, 6, 2, 1], x[0, 9, 3, 3] = np.inf, np.nan, -np.inf
    with np.errstate(invalid="ignore"):
        for compute in (
            lambda: forward(x, w, padding=1),
            lambda: data_gradient(
                normal(np.random.default_rng(1), (1, 72, 6, 7), dtype), w, x.shape, padding=1
            ),
        ):
            got, expected = wide(compute()), wide(portable(compute))
            np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
            np.testing.assert_allclose(got, expected, rtol=2.0**-7, atol=2.0**-6)


def test_holes_in_one_tile_of_a_block(rng, portable):
    """A tile that is made again, after one whose results the copy engine still has to store, and before others."""
    grad, w = normal(rng, (3, 16, 32, 16), BFLOAT16), normal(rng, (16, 64, 3, 3), BFLOAT16)
    grad[1, 2, 5, 5] = np.inf
    with np.errstate(invalid="ignore"):
        got, expected = (
            wide(f(lambda: data_gradient(grad, w, (3, 64, 32, 16), padding=1)))
            for f in (lambda f: f(), portable)
        )
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(expected))
    np.testing.assert_allclose(got, expected, rtol=2.0**-7, atol=2.0**-6)


def test_transposed(rng):
    """The same gather with a bias and an activation at its end."""
    x, w = normal(rng, (2, 64, 5, 6), BFLOAT16), normal(rng, (64, 24, 3, 3), BFLOAT16)
    bias = normal(rng, (24, 1), BFLOAT16)[:, 0]
    out = channels_last(np.full((2, 24, 5, 6), np.nan, BFLOAT16))
    sim.conv_transpose_forward(x, w, bias, None, out, options(padding=1, activation=RELU))
    expected = ref.conv_transpose(wide(x), wide(w), wide(bias), padding=1)
    close(out, np.maximum(expected, 0), ref.conv_transpose(abs(wide(x)), abs(wide(w)), padding=1) + 3)


def test_values_that_cannot_be_split(rng):
    """Of float32: infinities, NaN and what is too large or too small, in two of three images and in some weights; the
    other results as if they were not there."""
    x, w = normal(rng, (3, 16, 9, 8), np.float32), normal(rng, (136, 16, 3, 3), np.float32)
    x[0, 3, 4, 4], x[2, 1, 0, 0], w[130, 5, 1, 1] = np.inf, 3.4e38, np.nan
    x[2, 4] *= 1e-38
    with np.errstate(all="ignore"):
        got, expected = forward(x, w, padding=1), ref.conv(wide(x), wide(w), padding=1)
        expected = expected.astype(np.float32)
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(expected))
    finite = np.isfinite(expected)
    np.testing.assert_allclose(got[finite], expected[finite], rtol=1e-4, atol=1e-4)


def test_high_precision(rng):
    x, w = normal(rng, (1, 40, 9, 8), np.float32), normal(rng, (72, 40, 3, 3), np.float32)
    expected, scale = ref.conv(wide(x), wide(w)), ref.conv(abs(wide(x)), abs(wide(w)))
    highest = forward(x, w)
    sim.set_float32_precision(1)
    try:
        high = forward(x, w)
    finally:
        sim.set_float32_precision(0)
    errors = [(np.abs(y - expected) / scale).max() for y in (highest, high)]
    assert errors[0] < errors[1] <= 2.0**-15


def test_what_it_leaves_to_others(rng, portable):
    """Offsets that an instruction has no room for: the bits of the portable kernel."""
    o = {"dilation": (1, 1, 40)}
    x, w = normal(rng, (1, 40, 3, 2, 45), BFLOAT16), normal(rng, (8, 40, 2, 2, 2), BFLOAT16)
    np.testing.assert_array_equal(forward(x, w, **o), portable(lambda: forward(x, w, **o)))


@pytest.mark.parametrize("dtype", [BFLOAT16, np.float32])
def test_groups(rng, dtype):
    """48 channels a group, so that a box of 64 reaches into those of the next; 20, which are copied to be aligned."""
    check(rng, (2, 96, 7, 9), (128, 48, 3, 3), dtype, groups=2, padding=1)
    check(rng, (1, 60, 9, 8), (72, 20, 3, 2), dtype, groups=3, stride=2, padding=1)
    check(rng, (2, 130, 61), (128, 65, 5), dtype, groups=2, padding=2)


def test_a_group_sees_its_own_channels_alone(rng):
    """Infinities in the channels and weights of the groups around it."""
    x, w = normal(rng, (2, 144, 8, 7), BFLOAT16), normal(rng, (192, 48, 3, 3), BFLOAT16)
    bias, residual = normal(rng, (192, 1), BFLOAT16)[:, 0], normal(rng, (2, 192, 8, 7), BFLOAT16)
    grad = normal(rng, (2, 192, 8, 7), BFLOAT16)
    o = {"groups": 3, "padding": 1}
    parts = slice(48, 96), slice(64, 128)
    one = {"padding": 1}
    with np.errstate(all="ignore"):
        expected = forward(
            channels_last(x[:, parts[0]]),
            w[parts[1]],
            bias[parts[1]],
            channels_last(residual[:, parts[1]]),
            **one,
        )
        small = channels_last(grad[:, parts[1]]), channels_last(x[:, parts[0]])
        dx = data_gradient(small[0], w[parts[1]], small[1].shape, **one)
        dw = weight_gradient(*small, w[parts[1]].shape, **one)
        x[:, :48], x[:, 96:], w[:64], w[128:], grad[:, :64], grad[:, 128:] = (
            np.inf,
            np.nan,
            np.nan,
            *[np.inf] * 3,
        )
        np.testing.assert_array_equal(forward(x, w, bias, residual, **o)[:, parts[1]], expected)
        np.testing.assert_array_equal(data_gradient(grad, w, x.shape, **o)[:, parts[0]], dx)
        np.testing.assert_array_equal(weight_gradient(grad, x, w.shape, **o)[parts[1]], dw)


@pytest.mark.parametrize("columns", [64, 136, 264])
@pytest.mark.parametrize("stride", [1, 2])
def test_weights_of_data_gradients_where_they_lie(rng, columns, stride):
    """Tiles of 64, 128 and 256 columns, alone and in clusters; the same of weights in another order, which are
    copied."""
    o = {"stride": stride, "padding": 1}
    w, shape = normal(rng, (72, columns, 3, 3), BFLOAT16), (2, columns, 13, 12)
    grad = normal(rng, ref.conv(np.zeros(shape), wide(w), **o).shape, BFLOAT16)
    expected, scale = (
        ref.conv_backward(f(grad), f(np.zeros(shape)), f(w), **o)[0] for f in (wide, lambda a: abs(wide(a)))
    )
    got = data_gradient(grad, w, shape, **o)
    close(got, expected, scale)
    np.testing.assert_array_equal(data_gradient(grad, np.ascontiguousarray(w), shape, **o), got)
    one = data_gradient(grad[:1, :, :3, :3], w, (1, columns, 3 * stride, 3 * stride), **o)  # no cluster
    close(one, *(ref.conv_backward(f(grad[:1, :, :3, :3]), np.zeros(one.shape), f(w), **o)[0]
                 for f in (wide, lambda a: abs(wide(a)))))  # fmt: skip


def test_lattices_too_small_between_others(rng, monkeypatch):
    """Of the lattices of a stride, the first and the third go to this kernel; the second and the fourth, of fewer
    positions, are left to the portable one, with weights that are copied for them alone."""
    monkeypatch.delenv("FASTDL_CUDA_CONV")
    w, shape, o = normal(rng, (64, 64, 3, 3), BFLOAT16), (2, 64, 24, 5), {"stride": 2, "padding": 1}
    grad = normal(rng, ref.conv(np.zeros(shape), wide(w), **o).shape, BFLOAT16)
    expected, scale = (
        ref.conv_backward(f(grad), f(np.zeros(shape)), f(w), **o)[0] for f in (wide, lambda a: abs(wide(a)))
    )
    close(data_gradient(grad, w, shape, **o), expected, scale)
