"""Depthwise convolution: lines and channels around the blocks that stay in registers, every border, on every ISA."""

import itertools

import ml_dtypes
import numpy as np
import pytest
from devices import thread_counts
from layouts import strided_variants
from references import conv as ref
from test_conv import check
from test_conv_bf16 import check as check_bf16
from tolerance import assert_same_bits, assert_same_non_finite

import fastdl
from fastdl import ops

# (image, kernel, options). Lines of outputs are cut into 7, 4, 2 and 1, and two of them are computed together; the
# padding may hide lines, columns, or all that an output sees.
CASES = [
    ((2, 37, 9, 20), (3, 3), {"padding": 1}),
    ((3, 16, 7, 7), (3, 3), {"padding": 1}),
    ((1, 5, 9, 30), (3, 3), {"padding": 1, "stride": 2}),
    ((2, 32, 6, 29), (3, 3), {"stride": 2}),
    ((1, 33, 8, 27), (3, 3), {"padding": (2, 0), "stride": (1, 2)}),
    ((2, 19, 13, 9), (3, 3), {"padding": (0, 2), "stride": (2, 1)}),
    ((1, 18, 12, 9), (3, 3), {"padding": (2, 1), "dilation": (2, 1)}),
    ((1, 18, 9, 12), (3, 3), {"padding": (1, 2), "dilation": (1, 2)}),
    # No tap reaches every second pixel of the input, the first among them.
    ((2, 12, 17, 11), (3, 3), {"padding": 1, "stride": 2, "dilation": 2}),
    ((1, 21, 5, 4), (3, 3), {"padding": 4}),
    ((1, 21, 5, 4), (3, 3), {"padding": 4, "stride": 2}),
    ((2, 3, 1, 1), (3, 3), {"padding": 1}),
    ((1, 17, 4, 2), (3, 3), {"padding": 1, "stride": 2}),
    ((1, 20, 10, 11), (5, 3), {"padding": (2, 1)}),
    ((1, 20, 10, 11), (3, 5), {"padding": (1, 2), "stride": 2}),
    ((2, 34, 19), (3,), {"padding": 1}),
    ((1, 7, 4, 5, 9), (3, 3, 3), {"padding": 1}),
    ((2, 9, 3, 5, 8), (1, 3, 3), {"padding": (0, 1, 1), "stride": (2, 1, 1)}),
    ((1, 6, 3, 3, 4), (5, 3, 3), {"padding": (2, 1, 1)}),
    # The only plane of outputs sees nothing but padding.
    ((2, 9, 1, 5, 8), (1, 3, 3), {"padding": 1, "stride": (3, 1, 1)}),
]


def full(case):
    x, kernel, options = case
    return x, (x[1], 1, *kernel), {**options, "groups": x[1]}


def channels_last(a):
    """As layers hand images to each other; others are copied, or take the kernels of grouped convolution."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1) if a.ndim > 2 else a


@pytest.mark.parametrize("case", CASES, ids=str)
def test_forward_and_backward(case, isa, rng):
    check(full(case), False, np.float32, rng, None, channels_last, residual=True)
    check(full(case), False, np.float64, rng, "relu", channels_last)
    check_bf16(full(case), False, rng, None, channels_last)
    check_bf16(full(case), False, rng, "relu")


@pytest.mark.parametrize("filters", [8, 37])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_channel_seen_by_all(case, filters, isa, rng):
    (n, _, *size), kernel, options = case
    case = (n, 1, *size), (filters, 1, *kernel), options
    check(case, False, np.float32, rng, "relu", residual=True)
    check_bf16(case, False, rng)


@pytest.mark.parametrize("case", CASES[:4], ids=str)
def test_transposed(case, isa, rng):
    check(full(case), True, np.float32, rng, "relu", channels_last, residual=True)
    check_bf16(full(case), True, rng, None, channels_last)


@pytest.mark.parametrize("case", [CASES[0], CASES[2]], ids=str)
def test_layouts(case, rng):
    for name, _ in strided_variants(np.zeros((2, 3, 4, 4))):

        def layout(a, name=name):
            return dict(strided_variants(a)).get(name, a)

        check(full(case), False, np.float32, rng, "relu", layout, residual=True)
        check_bf16(full(case), False, rng, None, layout)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("stride", [1, 2])
def test_same_bits_for_any_number_of_threads(stride, dtype, isa, rng):
    x, w, b = (rng.standard_normal(s).astype(dtype) for s in ((5, 70, 27, 30), (70, 1, 3, 3), (70,)))
    x, options = channels_last(x), {"stride": stride, "padding": 1, "groups": 70}
    before, results = fastdl.get_num_threads(), []
    for threads in thread_counts():
        fastdl.set_num_threads(threads)
        y = ops.conv(x, w, b, **options)
        results.append([y, *ops.conv_backward(y, x, w, **options)])
    fastdl.set_num_threads(before)
    for other in results[1:]:
        for p, q in zip(results[0], other, strict=True):
            assert_same_bits(p, q)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", range(3))
def test_nan_and_inf_reach_what_they_take_part_in(value, where, dtype, isa, rng):
    for channels, options in itertools.product((1, 19), ({"padding": 1}, {"padding": 2, "stride": 2})):
        shape, options = (2, channels, 8, 9), {**options, "groups": channels}
        x, w = (rng.standard_normal(s).astype(dtype) for s in (shape, (19, 1, 3, 3)))
        grad = rng.standard_normal(ops.conv(x, w, **options).shape).astype(dtype)
        (x, w, grad)[where].flat[7] = value
        x, grad = channels_last(x), channels_last(grad)
        wide = [a.astype(np.float64) for a in (grad, x, w)]
        with np.errstate(invalid="ignore"):
            got = [ops.conv(x, w, **options), *ops.conv_backward(grad, x, w, **options)]
            expected = [ref.conv(*wide[1:], **options), *ref.conv_backward(*wide, **options)]
        for g, e in zip(got, expected, strict=True):
            assert_same_non_finite(g, e)
