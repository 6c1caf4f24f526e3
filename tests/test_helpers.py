"""The test helpers: they must catch what they are there to catch."""

import numpy as np
import pytest
from gradcheck import gradcheck
from layouts import strided_variants
from tolerance import assert_close_sum, assert_same_bits, assert_ulp, max_ulp_error

import fastdl
from fastdl.autograd import ArrayFunction


class WrongSquare(ArrayFunction):
    @staticmethod
    def forward(ctx, x):
        ctx.save(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved
        return grad * x * 2.001


@pytest.mark.parametrize("shape", [(3, 4), (30, 40)])  # the whole Jacobian, and random directions
def test_gradcheck(rng, shape):
    x, row = rng.standard_normal(shape), rng.standard_normal(shape[-1])
    gradcheck(lambda a, b: (a * b, (a + b, a / (b * b + 1))), x, row)
    gradcheck(lambda a, n, b: a * n * b, x, 3, row, wrt=[2])
    with pytest.raises(AssertionError, match="finite differences"):
        gradcheck(WrongSquare.apply, x)


@pytest.mark.parametrize("shape", [(), (0,), (5,), (3, 4), (2, 0, 3), (2, 3, 4, 5)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, bool])
def test_strided_variants(rng, shape, dtype):
    for x in (rng.standard_normal(shape).astype(dtype), np.ones(shape, dtype)):
        names = []
        for name, variant in strided_variants(x):
            assert variant.shape == x.shape and variant.dtype == x.dtype, name
            assert np.array_equal(variant, x), name
            names.append(name)
        assert len(set(names)) == len(names) >= 2


def test_ulp():
    one = np.ones(3, np.float32)
    assert_ulp(one, [1, 1 + 6e-8, 1 - 3e-8], 0.6)
    assert_ulp(np.array([np.inf, np.nan, 0], np.float32), [1e300, np.nan, 1e-60])
    assert max_ulp_error(one, [1, 1, 1 + 2**-23]) == 1
    for wrong in ([1, 1 + 2e-7, 1], [1, 1, np.nan], [1, np.inf, 1]):
        with pytest.raises(AssertionError, match="1 of 3 elements"):
            assert_ulp(one, wrong, 1)


def test_close_sum(rng):
    a, b = rng.standard_normal((2, 50, 300)).astype(np.float32)
    ref, scale = (a.astype(np.float64) @ b.T), np.abs(a) @ np.abs(b).T
    assert_close_sum(a @ b.T, ref, scale, 300)
    lower = a.astype(np.float16).astype(np.float32) @ b.T
    for wrong in (lower, (a @ b.T) * np.float32(1.0001), np.full((50, 50), np.inf, np.float32)):
        with pytest.raises(AssertionError, match="sum of 300 terms"):
            assert_close_sum(wrong, ref, scale, 300)
    with pytest.raises(AssertionError):  # an infinite scale excuses nothing
        assert_close_sum(np.zeros(1, np.float32), [np.inf], [np.inf], 3)


def test_same_bits():
    assert_same_bits(np.array([np.nan, 0.0]), np.array([np.nan, 0.0]))
    with pytest.raises(AssertionError, match="1 of 2 elements differ"):
        assert_same_bits(np.array([1.0, -0.0]), np.array([1.0, 0.0]))


def test_poison():
    assert np.isnan(fastdl.backend.empty((3,), np.float32)).all()


def test_isa_and_threads(isa, threads):
    from fastdl import _core

    assert (_core.get_cpu_isa(), _core.get_num_threads()) == (isa, threads)
