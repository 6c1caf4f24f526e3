"""Winograd convolution (3x3, stride 1, float32): element by element no less accurate than a chain of multiply-adds, for
whatever data, and the same for any number of threads.
"""

import numpy as np
import pytest
from references import activation as act_ref
from references import conv as ref
from tolerance import assert_close_sum, assert_same_bits, assert_same_non_finite

import fastdl
from fastdl import ops

# (x, output channels, padding): tiles of 2 x 2, 2 x 4, 4 x 2 and 4 x 4, odd sizes, few tiles and many.
CASES = [
    ((2, 16, 14, 13), 17, 1),
    ((3, 32, 21, 12), 33, 1),
    ((2, 48, 9, 31), 40, 0),
    ((2, 256, 7, 9), 130, 1),
    ((3, 256, 17, 18), 20, (1, 0)),
]


def normal(rng, shape):
    return rng.standard_normal(shape)


def relu(rng, shape):
    return np.maximum(rng.standard_normal(shape), 0)


def same_sign(rng, shape):
    return rng.random(shape)


def lognormal(rng, shape):
    """Over some 17 decades."""
    return np.exp(rng.standard_normal(shape) * 6.5) * rng.choice([-1, 1], shape)


def zero_borders(rng, shape):
    x = relu(rng, shape)
    x[:, :, :3] = 0
    x[..., -5:] = 0
    return x


def one_channel(rng, shape):
    """All that matters is in one channel."""
    x = rng.standard_normal(shape) * 1e-9
    x[:, 3] = rng.standard_normal(x[:, 3].shape)
    return x


def bright_spots(rng, shape):
    return np.where(rng.random((shape[0], 1, *shape[2:])) < 0.05, 1e6, 1) * rng.standard_normal(shape)


DATA = [normal, relu, same_sign, lognormal, zero_borders, one_channel, bright_spots]


# Roundings are independent of each other, nearly, so that the error of an output, divided by its sum |x||w|, is a
# random number of mean zero. Two figures say how large such numbers are (docs/kernels.md has the variances used here,
# in units of those of a chain of 9 C multiply-adds):
#
# RMS of all outputs. The chains of C products, seen through the inverse transform: 0.31 for 2 x 2, 0.44 for 2 x 4 in
# two pieces, 0.31 for 4 x 4 in eight; twice that where half of the inputs are zero (ReLU), which cost a direct sum no
# rounding. The transforms: some 8 roundings of each of the products, that is 2 * 8 / C of the factors 0.31, 0.88, 2.5:
# at most 0.44 where a tile may be used. Together at most 1.32 of the variance, 1.15 of the RMS. Measured over many
# seeds it is up to 1.38, and 1 / sqrt(2 outputs) of it, about 1%, from seed to seed. A largest error would say less: it
# is that of one output in ten thousand, and varies by half.
RMS = 1.5
# The largest of n independent errors: six times its standard deviation but once in 5e8. The outermost outputs of a tile
# of four have a variance of 22 per axis, the mean is 14.25: 22 / 14.25 of the standard deviation for both axes. A tile
# whose outputs' fields hold less than 1/7 of its sum instead of their share of 9/36 is left to the direct kernels: a
# factor of 7 / 4 at most.
LARGEST = 6 * 22 / 14.25 * 7 / 4 * RMS


def relative(got, exact, size):
    """|error| / sum |x||w|; where that is zero, so must the result be."""
    np.testing.assert_array_equal(got[size == 0], 0)
    return np.abs(got - exact)[size > 0] / size[size > 0]


def rms(errors):
    return np.sqrt(np.mean(errors**2))


def assert_as_accurate(errors, chain):
    """``errors`` like those of a chain of multiply-adds, ``chain``."""
    assert rms(errors) <= RMS * rms(chain)
    assert errors.max() <= max(LARGEST * rms(chain), RMS * chain.max())


def direct(x, w, padding):
    """The same sums by the direct kernels: a fourth column of zeros keeps Winograd out."""
    ph, pw = (padding, padding) if isinstance(padding, int) else padding
    x = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw + 1)))
    return ops.conv(x, np.pad(w, ((0, 0), (0, 0), (0, 0), (0, 1))))


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("case", CASES[:4], ids=str)
def test_as_accurate_as_multiply_adds(case, data, rng):
    shape, out, padding = case
    x = data(rng, shape).astype(np.float32)
    weights = lognormal if data is lognormal else normal
    w = weights(rng, (out, shape[1], 3, 3)).astype(np.float32)
    exact, size = ref.conv(x, w, padding=padding), ref.conv(np.abs(x), np.abs(w), padding=padding)
    chain = relative(direct(x, w, padding), exact, size)
    assert_as_accurate(relative(ops.conv(x, w, padding=padding), exact, size), chain)
    # The data gradient is the same sum with the roles of the channels exchanged.
    flipped = np.ascontiguousarray(w[:, :, ::-1, ::-1].swapaxes(0, 1))
    pad = (2 - padding, 2 - padding) if isinstance(padding, int) else (2 - padding[0], 2 - padding[1])
    grad = ops.conv_backward(
        x, np.zeros(exact.shape, np.float32), flipped, padding=pad, needs=(True, False, False)
    )[0]
    assert_as_accurate(relative(grad, exact, size), chain)


def transformed(x, w):
    """Winograd's F(4 x 4, 3 x 3) in float32 with the usual points, 0, 1, -1, 2, -2, and one chain over the channels."""
    points = np.array([0, 1, -1, 2, -2])
    vandermonde = np.vander(points, 6, increasing=True)
    others = [np.prod([p - q for q in points if q != p]) for p in points]
    a = np.vstack([vandermonde[:, :4], [0, 0, 0, 1]])
    g = np.vstack([vandermonde[:, :3] / np.array(others)[:, None], [0, 0, 1]])
    b = np.zeros((6, 6))
    for i in range(5):
        b[i, :5] = np.poly(np.delete(points, i))[::-1]
    b[5] = np.poly(points)[::-1]
    a, b, g = (m.astype(np.float32) for m in (a, b, g))
    n, c, h, width = x.shape
    y = np.empty((n, w.shape[0], h - 2, width - 2), np.float32)
    u = np.einsum("ik,ockl,jl->ijoc", g, w, g, dtype=np.float32)
    for i in range(0, h - 2, 4):
        for j in range(0, width - 2, 4):
            v = np.einsum("ik,nckl,jl->ijnc", b, x[:, :, i : i + 6, j : j + 6], b, dtype=np.float32)
            m = np.zeros((6, 6, n, len(w)), np.float32)
            for k in range(c):
                m += v[..., k, None] * u[:, :, None, :, k]
            y[:, :, i : i + 4, j : j + 4] = np.einsum("ki,klno,lj->noij", a, m, a, dtype=np.float32)
    return y


def test_the_measure_tells_less_accurate_kernels(rng):
    """The usual points, and one wrong output in 20,000."""
    x = rng.standard_normal((1, 64, 26, 26)).astype(np.float32)
    w = rng.standard_normal((32, 64, 3, 3)).astype(np.float32)
    exact, size = ref.conv(x, w), ref.conv(np.abs(x), np.abs(w))
    chain = relative(direct(x, w, 0), exact, size)
    right = ops.conv(x, w)
    assert_as_accurate(relative(right, exact, size), chain)
    usual = transformed(x, w)
    np.testing.assert_allclose(usual, exact, atol=1e-3)
    with pytest.raises(AssertionError):
        assert_as_accurate(relative(usual, exact, size), chain)
    right[0, 3, 5, 7] += 3e-6 * size[0, 3, 5, 7]
    with pytest.raises(AssertionError):
        assert_as_accurate(relative(right, exact, size), chain)


@pytest.mark.parametrize("data", DATA)
def test_weight_gradient_as_accurate_as_multiply_adds(data, rng):
    n, c, o, h, w = 3, 32, 24, 23, 25
    x = data(rng, (n, c, h, w)).astype(np.float32)
    grad = (lognormal if data is lognormal else normal)(rng, (n, o, h, w)).astype(np.float32)
    weight = np.zeros((o, c, 3, 3), np.float32)
    exact = ref.conv_backward(grad, x, weight, padding=1)[1]
    size = ref.conv_backward(np.abs(grad), np.abs(x), weight, padding=1)[1]
    # One multiply-add per position and sum; products are exact in float64.
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))).astype(np.float64)
    chain = np.zeros(exact.shape, np.float32)
    for i in np.ndindex(n, h, w):
        field = padded[i[0], :, i[1] : i[1] + 3, i[2] : i[2] + 3]
        chain = (chain + grad[i[0], :, i[1], i[2]].astype(np.float64)[:, None, None, None] * field).astype(
            np.float32
        )
    got = ops.conv_backward(grad, x, weight, padding=1, needs=(False, True, False))[1]
    assert_as_accurate(relative(got, exact, size), relative(chain, exact, size))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_on_every_instruction_set(case, isa, rng):
    """Forward with a fused ending and all gradients, with a mask."""
    shape, out, padding = case
    x, w = rng.standard_normal(shape).astype(np.float32), rng.standard_normal((out, shape[1], 3, 3))
    w, b = w.astype(np.float32), rng.standard_normal(out).astype(np.float32)
    z, size = ref.conv(x, w, b, padding=padding), ref.conv(np.abs(x), np.abs(w), np.abs(b), padding=padding)
    r = rng.standard_normal(z.shape).astype(np.float32)
    terms = w[0].size + 2
    y = ops.conv(x, w, b, padding=padding, residual=r, activation="relu")
    assert_close_sum(y, act_ref.relu(z + r), size + np.abs(r), terms, extra=4)
    y = ops.conv(x, w, b, padding=padding, activation="gelu")
    assert_close_sum(y, act_ref.gelu(z), 1.2 * size + 1, terms, extra=4)
    grad, saved = rng.standard_normal(z.shape).astype(np.float32), np.maximum(z, 0).astype(np.float32)
    masked = grad * (saved > 0)
    got = ops.conv_backward(grad, x, w, padding=padding, activation="relu", saved=saved)
    expected = ref.conv_backward(masked, x, w, padding=padding)
    sizes = ref.conv_backward(np.abs(masked), np.abs(x), np.abs(w), padding=padding)
    for g, e, s, k in zip(got, expected, sizes, (out * 9, grad[:, 0].size, grad[:, 0].size), strict=True):
        assert_close_sum(g, e, s, k + 4, extra=4)


@pytest.mark.parametrize("data", [normal, bright_spots])
@pytest.mark.parametrize("case", CASES[1:4], ids=str)
def test_same_bits_for_any_number_of_threads(case, data, rng):
    shape, out, padding = case
    x = data(rng, shape).astype(np.float32)
    w = rng.standard_normal((out, shape[1], 3, 3)).astype(np.float32)
    results = []
    before = fastdl.get_num_threads()
    for threads in (1, 2, 3, 7):
        fastdl.set_num_threads(threads)
        y = ops.conv(x, w, padding=padding)
        results.append([y, *ops.conv_backward(np.cos(y), x, w, padding=padding)])
    fastdl.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert_same_bits(a, b)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("where", ["x", "w", "grad"])
def test_special_values_reach_what_they_take_part_in(value, where, isa, rng):
    arrays = {
        "x": rng.standard_normal((2, 32, 14, 15)),
        "w": rng.standard_normal((33, 32, 3, 3)),
        "grad": rng.standard_normal((2, 33, 14, 15)),
    }
    arrays[where][1, 5, 2, 2] = value
    x, w, grad = (a.astype(np.float32) for a in arrays.values())

    def check(got, expected):
        with np.errstate(over="ignore"):
            expected = expected.astype(np.float32)
        assert_same_non_finite(got, expected)

    with np.errstate(invalid="ignore"):
        check(ops.conv(x, w, padding=1), ref.conv(x, w, padding=1))
        for g, e in zip(
            ops.conv_backward(grad, x, w, padding=1), ref.conv_backward(grad, x, w, padding=1), strict=True
        ):
            check(g, e)


@pytest.mark.parametrize("scale", [1e-42, 1e-37, 1e-20, 1e18])
def test_small_and_large_magnitudes(scale, rng):
    """Subnormals lose no more than the direct kernels lose, and nothing overflows before it must."""
    x = (rng.standard_normal((2, 32, 14, 14)) * scale).astype(np.float32)
    w = rng.standard_normal((32, 32, 3, 3)).astype(np.float32)
    exact, size = ref.conv(x, w, padding=1), ref.conv(np.abs(x), np.abs(w), padding=1)
    tiny = 288 * 2.0**-149
    assert np.all(np.abs(ops.conv(x, w, padding=1) - exact) <= 4e-7 * size + tiny)
    weight = np.zeros_like(w)
    got = ops.conv_backward(x, x / np.float32(scale), weight, padding=1)[1]
    exact = ref.conv_backward(x, x / np.float32(scale), weight, padding=1)[1]
    size = ref.conv_backward(np.abs(x), np.abs(x / np.float32(scale)), weight, padding=1)[1]
    assert np.all(np.abs(got - exact) <= 4e-7 * size + 392 * 2.0**-149)
