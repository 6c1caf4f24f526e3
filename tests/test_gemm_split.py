"""float32 products computed from bfloat16 ones (csrc/cpu/gemm_split.cpp): as accurate as multiply-adds, whatever the data."""

import numpy as np
import pytest

import fastdl
from fastdl import _core, ops

SPLIT_ISAS = [i for i in _core.available_isas() if i.startswith("amx")]
BFLOAT16_ISAS = [i for i in _core.available_isas() if i.startswith("amx") or i == "avx512_bf16"]


@pytest.fixture(params=SPLIT_ISAS)
def split_isa(request):
    before = _core.get_cpu_isa()
    _core.set_cpu_isa(request.param)
    yield request.param
    _core.set_cpu_isa(before)


def normal(rng, *shape):
    return rng.normal(size=shape)


def uniform(rng, *shape):
    return rng.random(shape)


def lognormal(rng, *shape):
    """17 decades, both signs."""
    return 10.0 ** rng.uniform(-8.5, 8.5, shape) * rng.choice([-1, 1], shape)


def same_sign(rng, *shape):
    return np.abs(rng.normal(size=shape)) + 0.5


def subnormal_rows(rng, *shape):
    x = rng.normal(size=shape)
    x[:: max(shape[0] // 3, 1)] *= 1e-40
    return x


def huge_rows(rng, *shape):
    x = rng.normal(size=shape)
    x[1 :: max(shape[0] // 3, 2)] *= 1e18
    return x


def tiny(rng, *shape):
    """Products around 1e-38: parts of them would be flushed to zero."""
    return rng.normal(size=shape) * 1e-19


DISTRIBUTIONS = [normal, uniform, lognormal, same_sign, subnormal_rows, huge_rows, tiny]


def relative_error(c, a, b):
    """max |err| / (|A| |B|) against float64; what a float32 cannot hold any better counts as no error."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    error = np.abs(c - a @ b)
    error[error <= 2.0**-149] = 0
    return float((error / np.maximum(np.abs(a) @ np.abs(b), 2.0**-149)).max())


def operands(rng, distribution, m, k, n):
    with np.errstate(over="ignore", under="ignore"):
        return distribution(rng, m, k).astype(np.float32), distribution(rng, k, n).astype(np.float32)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("k", [1, 33, 300, 2500, 65536])
def test_as_accurate_as_multiply_adds(split_isa, rng, distribution, k):
    m, n = (65, 71) if k < 10_000 else (33, 40)
    a, b = operands(rng, distribution, m, k, n)
    if distribution is huge_rows:
        b = rng.normal(size=b.shape).astype(np.float32)
    ours, numpy = relative_error(ops.matmul(a, b), a, b), relative_error(a @ b, a, b)
    # 2^-24: one rounding, which even an exact sum has to suffer.
    assert ours <= 1.5 * max(numpy, 2.0**-24)


@pytest.mark.parametrize("m, k, n", [(32, 32, 32), (45, 129, 64), (100, 70, 33), (33, 1100, 130)])
def test_shapes_strides_and_epilogue(split_isa, rng, m, k, n):
    x = rng.normal(size=(m, k)).astype(np.float32)
    w = rng.normal(size=(n, k)).astype(np.float32)
    bias = rng.normal(size=n).astype(np.float32)
    wide = x.astype(np.float64) @ w.T.astype(np.float64) + bias
    bound = 4 * 2.0**-24 * (np.abs(x).astype(np.float64) @ np.abs(w.T) + np.abs(bias))
    assert (np.abs(ops.linear(x, w, bias) - wide) <= bound).all()
    assert (np.abs(ops.linear(x, w, bias, activation="relu") - np.maximum(wide, 0)) <= bound).all()
    assert (np.abs(ops.linear(np.asfortranarray(x), w[:, ::-1][:, ::-1], bias) - wide) <= bound).all()
    assert (np.abs(ops.linear(x, w, bias, activation="tanh") - np.tanh(wide)) <= bound + 2.0**-22).all()


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_infinities_and_nans_reach_their_row_and_no_other(split_isa, rng, value):
    a, b = operands(rng, normal, 70, 200, 66)
    a[40, 150] = value
    c = ops.matmul(a, b)
    np.testing.assert_array_equal(np.isnan(c), np.isnan(a @ b))
    np.testing.assert_array_equal(np.isinf(c), np.isinf(a @ b))
    np.testing.assert_array_equal(np.sign(c[40]), np.sign((a @ b)[40]))
    assert np.isfinite(np.delete(c, 40, 0)).all()


def test_the_largest_numbers_do_not_overflow_on_the_way(split_isa, rng):
    a = np.zeros((40, 64), np.float32)
    a[:, 0] = np.finfo(np.float32).max
    b = np.zeros((64, 40), np.float32)
    b[0] = 0.5
    np.testing.assert_array_equal(ops.matmul(a, b), a @ b)


def test_products_that_only_float32_holds(split_isa):
    """2^-70 * 2^-70 is subnormal: the matrix unit would return 0."""
    a = np.full((33, 32), 2.0**-70, np.float32)
    np.testing.assert_array_equal(ops.matmul(a, a.T.copy()), np.full((33, 33), 2.0**-135, np.float32))


def test_threads_change_no_bit(split_isa, rng):
    a, b = operands(rng, normal, 150, 1500, 200)
    a[3] *= 1e-40
    before, results = _core.get_num_threads(), []
    for n in (1, 2, 3, 7):
        _core.set_num_threads(n)
        results.append(ops.matmul(a, b))
    _core.set_num_threads(before)
    for r in results[1:]:
        np.testing.assert_array_equal(results[0], r)


@pytest.mark.parametrize("isa", BFLOAT16_ISAS)
@pytest.mark.parametrize("precision, bits", [("high", 15), ("medium", 7)])
def test_lower_precisions_keep_what_they_promise(rng, isa, precision, bits):
    a, b = operands(rng, normal, 64, 256, 96)
    before = _core.get_cpu_isa()
    _core.set_cpu_isa(isa)
    try:
        with fastdl.float32_precision(precision):
            error = relative_error(ops.matmul(a, b), a, b)
    finally:
        _core.set_cpu_isa(before)
    assert error <= 2.0**-bits
    if isa.startswith("amx"):  # and they are really used
        assert error > 2.0**-24
