"""Max and average pooling against the references, in every layout, on every ISA and thread count."""

import itertools

import numpy as np
import pytest
from devices import thread_counts
from gradcheck import gradcheck
from layouts import strided_variants
from references import pool as ref
from tolerance import assert_close_sum, assert_same_bits

import fastdl
import fastdl.functional.pool as F
from fastdl import ops

# (spatial shape, kernel, stride, padding, dilation, ceil_mode): windows that overlap, leave gaps, hang over the edges.
SLIDING = [
    ((7,), 2, None, 0, 1, False),
    ((8,), 3, 2, 1, 1, True),
    ((5,), 5, 1, 2, 1, False),
    ((6, 5), 2, 2, 0, 1, False),
    ((7, 7), 3, 2, 1, 1, False),
    ((7, 6), (3, 2), (1, 3), (1, 0), 1, True),
    ((9, 10), (2, 3), (3, 4), (1, 0), 1, False),
    ((9, 8), 3, 1, 1, 2, False),
    ((3, 4, 5), 2, 1, 0, 1, False),
    ((5, 4, 6), (2, 3, 1), 2, (1, 1, 0), 1, True),
]
CHANNELS = [1, 3, 16, 37]


def cases(dilated):
    return [c for c in SLIDING if dilated or c[4] == 1]


def check_max(x, kernel, stride, padding, dilation, ceil, rng):
    nd = x.ndim - 2
    expected, where = ref.max_pool(x, kernel, nd, stride, padding, dilation, ceil)
    out, indices = ops.max_pool(x, kernel, stride, padding, dilation, ceil, return_indices=True)
    np.testing.assert_array_equal(out, expected.astype(x.dtype))
    np.testing.assert_array_equal(indices, where)
    np.testing.assert_array_equal(ops.max_pool(x, kernel, stride, padding, dilation, ceil), out)
    grad = rng.standard_normal(out.shape).astype(x.dtype)
    got = ops.max_pool_backward(grad, indices, x.shape, kernel, stride, padding, dilation, ceil)
    size = ref.max_pool_backward(np.abs(grad), where, x.shape, nd)
    assert_close_sum(got, ref.max_pool_backward(grad, where, x.shape, nd), size, 27)


def check_avg(x, kernel, stride, padding, ceil, include, divisor, rng):
    nd = x.ndim - 2
    options = (stride, padding, ceil, include, divisor)
    expected = ref.avg_pool(x, kernel, nd, *options)
    assert_close_sum(
        ops.avg_pool(x, kernel, *options), expected, ref.avg_pool(np.abs(x), kernel, nd, *options), 27
    )
    grad = rng.standard_normal(expected.shape).astype(x.dtype)
    got = ops.avg_pool_backward(grad, x.shape, kernel, *options)
    size = ref.avg_pool_backward(np.abs(grad), x.shape, kernel, nd, *options)
    assert_close_sum(got, ref.avg_pool_backward(grad, x.shape, kernel, nd, *options), size, 27)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", SLIDING, ids=str)
def test_max_pool(case, dtype, isa, rng):
    spatial, *window = case
    for c in CHANNELS:
        check_max(rng.standard_normal((2, c, *spatial)).astype(dtype), *window, rng)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", cases(False), ids=str)
def test_avg_pool(case, dtype, isa, rng):
    spatial, kernel, stride, padding, _, ceil = case
    for c, include, divisor in ((1, True, None), (16, False, None), (37, True, 3)):
        x = rng.standard_normal((2, c, *spatial)).astype(dtype)
        check_avg(x, kernel, stride, padding, ceil, include, divisor, rng)


@pytest.mark.parametrize(
    "spatial, size", [((7,), 3), ((5, 8), (3, None)), ((4, 6), 1), ((3, 4, 5), (2, 4, 7))]
)
def test_adaptive(spatial, size, isa, rng):
    nd = len(spatial)
    x = rng.standard_normal((2, 19, *spatial)).astype(np.float32)
    out, indices = ops.adaptive_max_pool(x, size, return_indices=True)
    full = tuple(
        s if o is None else o for s, o in zip(spatial, (size,) * nd if isinstance(size, int) else size)
    )
    expected, where = ref.adaptive_max_pool(x, full, nd)
    np.testing.assert_array_equal(out, expected.astype(np.float32))
    np.testing.assert_array_equal(indices, where)
    grad = rng.standard_normal(out.shape).astype(np.float32)
    got = ops.adaptive_max_pool_backward(grad, indices, x.shape)
    assert_close_sum(
        got,
        ref.max_pool_backward(grad, where, x.shape, nd),
        ref.max_pool_backward(np.abs(grad), where, x.shape, nd),
        27,
    )
    assert_close_sum(
        ops.adaptive_avg_pool(x, size),
        ref.adaptive_avg_pool(x, full, nd),
        ref.adaptive_avg_pool(np.abs(x), full, nd),
        64,
    )
    got = ops.adaptive_avg_pool_backward(grad, x.shape)
    size = ref.adaptive_avg_pool_backward(np.abs(grad), x.shape, nd)
    assert_close_sum(got, ref.adaptive_avg_pool_backward(grad, x.shape, nd), size, 27)


def test_layouts(rng):
    x = rng.standard_normal((3, 5, 6, 7)).astype(np.float32)
    out, indices = ops.max_pool(x, 3, 2, 1, return_indices=True)
    mean = ops.avg_pool(x, 3, 2, 1)
    grad = rng.standard_normal(out.shape).astype(np.float32)
    grad_max = ops.max_pool_backward(grad, indices, x.shape, 3, 2, 1)
    grad_avg = ops.avg_pool_backward(grad, x.shape, 3, 2, 1)
    for _, v in strided_variants(x):
        o, i = ops.max_pool(v, 3, 2, 1, return_indices=True)
        assert_same_bits(o, out)
        np.testing.assert_array_equal(i, indices)
        assert_same_bits(ops.avg_pool(v, 3, 2, 1), mean)
    for _, g in strided_variants(grad):
        assert_same_bits(ops.max_pool_backward(g, indices.astype(np.int64), x.shape, 3, 2, 1), grad_max)
        assert_same_bits(ops.avg_pool_backward(g, x.shape, 3, 2, 1), grad_avg)


def test_same_bits_for_any_thread_count(rng):
    x = rng.standard_normal((5, 70, 31, 29)).astype(np.float32)
    before = fastdl._core.get_num_threads()
    results = []
    for n in thread_counts():
        fastdl._core.set_num_threads(n)
        out, indices = ops.max_pool(x, 3, 1, 1, return_indices=True)
        results.append(
            (
                out,
                ops.avg_pool(x, 3, 1, 1),
                ops.max_pool_backward(out, indices, x.shape, 3, 1, 1),
                ops.avg_pool_backward(out, x.shape, 3, 1, 1),
            )
        )
    fastdl._core.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(other, results[0]):
            assert_same_bits(a, b)


def test_nan_and_infinities(isa):
    x = np.full((1, 20, 4), -np.inf, np.float32)
    x[0, :, 2] = np.nan
    out, indices = ops.max_pool(x, 2, return_indices=True)
    assert (out[0, :, 0] == -np.inf).all() and (indices[0, :, 0] == 0).all()
    assert np.isnan(out[0, :, 1]).all() and (indices[0, :, 1] == 2).all()
    assert np.isnan(ops.max_pool(x, 2)[0, :, 1]).all()
    assert np.isnan(ops.avg_pool(x, 2)[0, :, 1]).all()


def test_empty_batch_and_channels():
    for shape in ((0, 3, 4, 4), (2, 0, 4, 4)):
        x = np.empty(shape, np.float32)
        out, indices = ops.max_pool(x, 2, return_indices=True)
        assert out.shape == indices.shape == (*shape[:2], 2, 2)
        assert ops.max_pool_backward(out, indices, shape, 2).shape == shape
        assert ops.avg_pool(x, 2).shape == (*shape[:2], 2, 2)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.max_pool1d(x, 2, 1),
        lambda x: F.avg_pool1d(x, 3, 2, 1, True, False),
        lambda x: F.adaptive_avg_pool1d(x, 3),
        lambda x: F.adaptive_max_pool1d(x, 3, return_indices=True)[0],
    ],
)
def test_gradients_1d(function, rng):
    gradcheck(function, rng.permutation(30.0 * np.ones(30).cumsum()).reshape(2, 3, 5))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
        lambda x: F.max_pool2d(x, 2, 1, dilation=2),
        lambda x: F.avg_pool2d(x, 3, 2, 1, divisor_override=5),
        lambda x: F.adaptive_avg_pool2d(x, (2, 3)),
        lambda x: F.adaptive_max_pool2d(x, (2, None)),
        lambda x: F.max_pool2d(x[0], 2),
    ],
)
def test_gradients_2d(function, rng):
    gradcheck(function, rng.permutation(np.ones(60).cumsum()).reshape(1, 3, 4, 5))


def test_gradients_3d(rng):
    x = rng.permutation(np.ones(96).cumsum()).reshape(2, 2, 2, 3, 4)
    for function in (lambda x: F.max_pool3d(x, 2, 1), lambda x: F.avg_pool3d(x, 2, 1, (1, 0, 1))):
        gradcheck(function, x)


def test_indices_are_torch_s_int64():
    out, indices = F.max_pool2d(fastdl.arange(16.0).reshape(1, 4, 4), 2, return_indices=True)
    assert indices.dtype == fastdl.int64 and indices.tolist() == [[[5, 7], [13, 15]]]
    assert out.tolist() == [[[5.0, 7.0], [13.0, 15.0]]]


BAD = [
    (dict(kernel_size=0), "positive"),
    (dict(kernel_size=2, stride=0), "positive"),
    (dict(kernel_size=2, padding=-1), "padding"),
    (dict(kernel_size=2, padding=2), "half the kernel_size"),
    (dict(kernel_size=9), "too small"),
    (dict(kernel_size=(2, 2, 2)), "kernel_size"),
]


@pytest.mark.parametrize("options, message", BAD, ids=str)
def test_bad_options(options, message):
    x = np.zeros((1, 1, 4, 4), np.float32)
    for op in (ops.max_pool, ops.avg_pool):
        with pytest.raises(ValueError, match=message):
            op(x, **options)


def test_bad_inputs():
    with pytest.raises(ValueError, match="spatial"):
        ops.max_pool(np.zeros((2, 2), np.float32), 2)
    with pytest.raises(TypeError, match="expected x to be float32"):
        ops.max_pool(np.zeros((1, 1, 4), np.int64), 2)
    with pytest.raises(TypeError, match=r"numpy\.ndarray"):
        ops.avg_pool([[[1.0]]], 1)
    with pytest.raises(ValueError, match="max_pool2d"):
        F.max_pool2d(fastdl.zeros(4, 4), 2)
    with pytest.raises(ValueError, match=r"does not fit|should be"):
        fastdl._core.avg_pool_forward(
            np.zeros((1, 1, 4), np.float32),
            np.zeros((1, 1, 9), np.float32),
            fastdl._core.PoolOptions((2,) * 3, (2,) * 3, (0,) * 3, (1,) * 3, False, True, 0),
        )


def test_foreign_indices_touch_nothing_else():
    grad = np.ones((1, 1, 2), np.float32)
    for bad in (-5, 1 << 30):
        indices = np.full((1, 1, 2), bad, np.int32)
        assert not ops.max_pool_backward(grad, indices, (1, 1, 4), 2).any()


def test_output_sizes_agree_with_reference():
    for n, k, s, d, ceil in itertools.product(range(1, 12), (1, 2, 3), (1, 2, 4), (1, 2), (False, True)):
        for p in range(k // 2 + 1):
            if n + 2 * p - d * (k - 1) >= 1:
                expected = ref._output_size((n,), (k,), (s,), (p,), (d,), ceil)[0]
                assert ops.pool_output_size(n, k, s, p, d, ceil) == expected
