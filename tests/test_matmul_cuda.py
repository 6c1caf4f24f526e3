"""What is special to the CUDA matrix products: float32 from bfloat16 products, parts along k, values that do not split.
On the host executor where it was built (FASTDL_SIMT=ON), else skipped."""

import itertools

import devices
import ml_dtypes
import numpy as np
import pytest

sim = devices.cuda_kernels()

HIGHEST, HIGH, MEDIUM = range(3)


@pytest.fixture
def precision():
    """Sets the precision of float32 products for one test."""
    yield sim.set_float32_precision
    sim.set_float32_precision(HIGHEST)


def product(a, b, bias=None, residual=None, out=None, alpha=1.0, beta=0.0):
    if out is None:
        out = np.full((*a.shape[:-1], b.shape[-1]), np.nan, a.dtype)
    sim.matmul(a, b, bias, residual, out, alpha, beta, 0, 0.0, 0.0)
    return out


def error(c, a, b):
    """The largest |error| / (|A||B|) against float64."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (np.abs(c - a @ b) / (np.abs(a) @ np.abs(b))).max()


DISTRIBUTIONS = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "uniform": lambda rng, shape: rng.random(shape),
    "lognormal": lambda rng, shape: np.exp(6.5 * rng.standard_normal(shape)),  # over 17 decades
    "negative": lambda rng, shape: -1 - rng.random(shape),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("k", [1, 8, 17, 100, 513, 2048])
def test_float32_is_as_accurate_as_multiply_adds(rng, name, k):
    a, b = (DISTRIBUTIONS[name](rng, shape).astype(np.float32) for shape in ((24, k), (k, 16)))
    assert error(product(a, b), a, b) <= 1.5 * max(error(a @ b, a, b), 2.0**-24)


@pytest.mark.parametrize("level, bound", [(HIGH, 2.0**-15), (MEDIUM, 2.0**-7)])
def test_lower_precisions_keep_what_they_promise(rng, precision, level, bound):
    # HIGH: two pieces of 8 bits leave 2^-17 of each factor and drop a product of 2^-16; MEDIUM: 2^-9 of each factor.
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((24, 300), (300, 16)))
    highest = product(a, b)
    precision(level)
    lower = product(a, b)
    assert error(highest, a, b) < error(lower, a, b) <= bound


def test_values_that_cannot_be_split(rng):
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((40, 64), (64, 24)))
    a[3, 5], a[7, 8], a[11, 2], b[5, 4] = np.inf, np.nan, 3.4e38, 0
    a[9] *= 1e-38
    b[:, 20] *= 1e-40
    with np.errstate(all="ignore"):
        expected = (a.astype(np.float64) @ b.astype(np.float64)).astype(np.float32)
        c = product(a, b)
    np.testing.assert_array_equal(np.isnan(c), np.isnan(expected))
    np.testing.assert_allclose(c, expected, rtol=1e-4, atol=1e-43)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_parts_along_k(rng, dtype):
    # One block of results and a long k: the sum is cut into parts, added up by a kernel of its own.
    a, b = (rng.standard_normal(shape).astype(dtype) for shape in ((9, 1500), (1500, 11)))
    bias, residual, out = (rng.standard_normal(shape).astype(dtype) for shape in (11, (9, 11), (9, 11)))
    wide = [x.astype(np.float64) for x in (a, b, bias, residual, out)]
    expected = 0.5 * wide[0] @ wide[1] + 2 * wide[4] + wide[2] + wide[3]
    scale = np.abs(wide[0]) @ np.abs(wide[1])
    c = product(a, b, bias, residual, out.copy(), 0.5, 2.0)
    eps = 2.0**-24 if dtype is np.float32 else float(ml_dtypes.finfo(dtype).eps) / 2
    assert np.all(np.abs(c - expected) <= 2 * eps * (np.abs(expected) + scale / 8))
    np.testing.assert_array_equal(product(a, b, bias, residual, out.copy(), 0.5, 2.0), c)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float64])
@pytest.mark.parametrize("along", list(itertools.product("kr", "kc", "cr")))
def test_layouts_and_odd_sizes(rng, dtype, along):
    # Rows of 70 and 130 results leave tails of both block sizes; rows of 33 elements are not aligned to 16 bytes.
    m, n, k = 70, 67, 33
    a = (
        rng.standard_normal((m, k)).astype(dtype)
        if along[0] == "k"
        else rng.standard_normal((k, m)).astype(dtype).T
    )
    b = (
        rng.standard_normal((n, k)).astype(dtype).T
        if along[1] == "k"
        else rng.standard_normal((k, n)).astype(dtype)
    )
    out = np.full((m, n), np.nan, dtype) if along[2] == "c" else np.full((n, m), np.nan, dtype).T
    c = product(a, b, out=out).astype(np.float64)
    eps = 2.0**-24 if dtype is np.float32 else float(ml_dtypes.finfo(dtype).eps) / 2
    wide = a.astype(np.float64), b.astype(np.float64)
    assert np.all(np.abs(c - wide[0] @ wide[1]) <= 8 * eps * (np.abs(wide[0]) @ np.abs(wide[1])))


def test_many_batches_with_repeated_operands(rng):
    a, b = rng.standard_normal((3, 1, 700, 2, 3)), rng.standard_normal((2, 1, 3, 2))
    c = product(a, b, out=np.full((3, 2, 700, 2, 2), np.nan))
    np.testing.assert_allclose(c, a @ b, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("transposed", list(itertools.product([False, True], repeat=2)))
@pytest.mark.parametrize("few", [1, 7, 32])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_few_columns_and_few_rows(rng, monkeypatch, dtype, few, transposed):
    """Blocks of 128 x 32; few rows are computed as few columns, with the bias along the rows."""
    monkeypatch.setenv("FASTDL_CUDA_MATMUL", "portable")
    length, k = 150, 600
    for m, n in ((length, few), (few, length)):
        a, b = (
            rng.standard_normal(shape[::-1] if t else shape).astype(dtype)
            for shape, t in zip(((m, k), (k, n)), transposed, strict=True)
        )
        a, b = a.T if transposed[0] else a, b.T if transposed[1] else b
        wide = [x.astype(np.float64) for x in (a, b)]
        eps = 2.0**-24 if dtype == np.float32 else 2.0**-8
        bias, residual = (rng.standard_normal(shape).astype(dtype) for shape in ((n,), (m, n)))
        for extra, added in (
            ((None, None), 0),
            ((bias, None), bias.astype(np.float64)),
            ((None, residual), residual.astype(np.float64)),
            ((bias, residual), bias.astype(np.float64) + residual.astype(np.float64)),
        ):
            c, expected = product(a, b, *extra), wide[0] @ wide[1] + added
            bound = eps * 1.01 * np.abs(expected) + 2.0**-20 * (np.abs(wide[0]) @ np.abs(wide[1]))
            np.testing.assert_array_less(np.abs(c.astype(np.float64) - expected), bound)
        np.testing.assert_array_equal(product(a, b, bias), product(a, b, bias))


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("m, n", [(1, 1), (5, 3), (3, 40)])
def test_little_of_both_and_a_long_k(rng, monkeypatch, dtype, m, n):
    """By tensor cores, which the sums show: one by one, ones would be lost beside 2^24."""
    monkeypatch.setenv("FASTDL_CUDA_MATMUL", "portable")
    k = 1024
    a, b = np.ones((m, k), dtype), np.ones((k, n), dtype)
    a[:, 0] = 2.0**24
    expected = 2.0**24 + k - 1
    c = product(a, b, out=np.full((m, n), np.nan, np.float32))
    assert (np.abs(c - expected) <= k / 2).all() and (c >= expected - k / 2).all()
    a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
    wide = [x.astype(np.float64) for x in (a, b)]
    error = np.abs(product(a, b, out=np.full((m, n), np.nan, np.float32)) - wide[0] @ wide[1])
    np.testing.assert_array_less(error, 2.0**-20 * (np.abs(wide[0]) @ np.abs(wide[1])))


@pytest.mark.parametrize("m, n", [(140, 3), (3, 140)])
def test_few_columns_with_values_that_cannot_be_split(rng, m, n):
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((m, 70), (70, n)))
    a[1, 5], b[7, 2] = np.inf, np.nan
    bias = rng.standard_normal(n).astype(np.float32)
    with np.errstate(invalid="ignore"):
        expected = a.astype(np.float64) @ b.astype(np.float64) + bias
    c = product(a, b, bias)
    np.testing.assert_array_equal(np.isnan(c), np.isnan(expected))
    np.testing.assert_allclose(c, expected.astype(np.float32), rtol=1e-4, atol=1e-4)


def test_few_rows_in_batches(rng):
    """The batch dims of both operands change sides, a bias has none of them."""
    a, b = rng.standard_normal((3, 1, 5, 80)), rng.standard_normal((1, 2, 80, 72))
    a, b, bias = a.astype(np.float32), b.astype(np.float32), rng.standard_normal(72).astype(np.float32)
    c = product(a, b, bias, out=np.full((3, 2, 5, 72), np.nan, np.float32))
    np.testing.assert_allclose(c, a.astype(np.float64) @ b + bias, rtol=1e-4, atol=1e-5)
