"""Convolutions with one tap and few positions, which are matrix products: where rows begin and end, in every layout."""

import itertools

import ml_dtypes
import numpy as np
import pytest
from layouts import strided_variants
from references import conv as ref
from test_conv import check
from test_conv_bf16 import check as check_bf16
from test_conv_depthwise import channels_last
from tolerance import assert_close_sum, assert_same_bits, assert_same_non_finite

import fastdl
from fastdl import _core, ops

# One position, few, tiles and a rest, around the number of positions from which the weights are packed for
# all; one axis and three; strides, which leave gaps in the input or the gradient.
CASES = [
    ((1, 37, 1, 1), (65, 37, 1, 1), {}),
    ((3, 40, 1, 1), (33, 40, 1, 1), {"stride": 2}),
    ((1, 130, 7, 7), (70, 130, 1, 1), {}),
    ((2, 19, 9, 8), (129, 19, 1, 1), {"stride": (2, 3)}),
    ((1, 11, 16, 48), (35, 11, 1, 1), {}),
    ((1, 11, 769), (35, 11, 1), {}),
    ((2, 33, 3, 2, 5), (7, 33, 1, 1, 1), {"stride": (1, 1, 2)}),
    ((1, 5, 4, 4), (1, 5, 1, 1), {}),
    ((1, 1, 4, 4), (6, 1, 1, 1), {}),
    ((2, 40, 7, 7), (33, 40, 1, 1), {"stride": 2, "padding": 3}),
    ((1, 5, 4, 6), (70, 5, 1, 1), {"stride": (3, 1), "padding": (2, 5)}),
    ((3, 11, 5), (35, 11, 1), {"padding": 4}),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_forward_and_backward(case, isa, rng):
    check(case, False, np.float32, rng)
    check(case, False, np.float32, rng, "relu", channels_last)
    check(case, False, np.float64, rng, "relu", residual=True)
    check_bf16(case, False, rng, "relu")


@pytest.mark.parametrize("case", CASES[1:5], ids=str)
def test_transposed_and_other_activations(case, rng):
    x, w, options = case
    transposed = (x, (x[1], w[0], *w[2:]), options)
    check(transposed, True, np.float32, rng, "gelu", residual=True)
    check_bf16(transposed, True, rng)


@pytest.mark.parametrize("index", [2, 3, 6])
def test_layouts(index, rng):
    for name, _ in strided_variants(np.zeros((2, 3, 4, 4))):

        def layout(a, name=name):
            return dict(strided_variants(a)).get(name, a)

        check(CASES[index], False, np.float32, rng, "tanh", layout, residual=True)
        check_bf16(CASES[index], False, rng, None, layout)


@pytest.mark.parametrize("kernel", [1, 3])
def test_one_pixel_repeated(kernel, rng):
    """Inputs and residuals whose pixels are all the same memory."""
    x = np.broadcast_to(rng.standard_normal((1, 6, 1, 1)), (2, 6, 5, 5))
    w = rng.standard_normal((40, 6, kernel, kernel))
    r = np.broadcast_to(rng.standard_normal((1, 40, 1, 1)), (2, 40, 6 - kernel, 6 - kernel))
    expected, size = ref.conv(x, w) + r, ref.conv(np.abs(x), np.abs(w)) + np.abs(r)
    assert_close_sum(ops.conv(x, w, residual=r), expected, size, w[0].size + 1)
    assert_close_sum(ops.conv(x.copy(), w, residual=r), expected, size, w[0].size + 1)


def test_padding_after_the_last_input(rng):
    x, w, b = (rng.standard_normal(s) for s in ((2, 3, 4, 5), (7, 3, 1, 1), (7,)))
    for stride in (1, 2):
        options = _core.ConvOptions((stride, stride, 1), (0, 0, 0), (3, 2, 0), (1, 1, 1), 1, 0, 0, 0)
        padded = np.pad(x, ((0, 0), (0, 0), (0, 3), (0, 2)))
        expected = ref.conv(padded, w, b, stride=stride)
        out = np.full(expected.shape, np.nan)
        _core.conv_forward(x, w, b, None, out, options)
        np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("case", [((1, 512, 7, 7), 300, 1), ((2, 96, 14, 14), 200, 2)])
def test_same_bits_for_any_number_of_threads(case, dtype, isa, rng):
    shape, filters, stride = case
    x, w = (rng.standard_normal(s).astype(dtype) for s in (shape, (filters, shape[1], 1, 1)))
    before, results = fastdl.get_num_threads(), []
    for threads in (1, 2, 3, 7):
        fastdl.set_num_threads(threads)
        y = ops.conv(x, w, stride=stride)
        results.append([y, *ops.conv_backward(y, x, w, stride=stride)])
    fastdl.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert_same_bits(a, b)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_inf(value, isa, rng):
    x, w = rng.standard_normal((1, 20, 5, 5)), rng.standard_normal((40, 20, 1, 1))
    for a, dtype, padding in itertools.product((x, w), (np.float32, np.float64), (0, 3)):
        kept, a.flat[7] = a.flat[7], value
        narrow = [np.moveaxis(b.astype(dtype), 1, -1).copy() for b in (x, w)]
        with np.errstate(invalid="ignore"):
            got = ops.conv(*(np.moveaxis(b, -1, 1) for b in narrow), padding=padding)
            expected = ref.conv(x, w, padding=padding)
        assert_same_non_finite(got, expected)
        a.flat[7] = kept
