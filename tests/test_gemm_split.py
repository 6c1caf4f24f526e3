"""float32 products made of bfloat16 ones (csrc/cpu/gemm_split.cpp): as accurate as multiply-adds, whatever the data."""

import numpy as np
import pytest
from tolerance import assert_same_bits

import fastdl
from fastdl import _core, ops

SPLIT_ISAS = [i for i in _core.available_isas() if i.startswith("amx")]
BFLOAT16_ISAS = [*SPLIT_ISAS, *(i for i in _core.available_isas() if i == "avx512_bf16")]
HALF_ULP = 2.0**-24


def in_isa(name, function, *args, **options):
    before = _core.get_cpu_isa()
    _core.set_cpu_isa(name)
    try:
        return function(*args, **options)
    finally:
        _core.set_cpu_isa(before)


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


def huge_left_rows(rng, *shape):
    """Rows of 1e36: as float32 they and their sums hold, cut into bfloat16 they would leave no room for sums."""
    return huge_rows(rng, *shape) if shape[0] > shape[1] else rng.normal(size=shape)


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
    a, b = distribution(rng, m, k), distribution(rng, k, n)
    if distribution is huge_rows:  # the products of two such rows overflow, as they should
        b = normal(rng, k, n)
    with np.errstate(under="ignore"):
        return a.astype(np.float32), b.astype(np.float32)


def check_accuracy(c, a, b):
    # One rounding is what even an exact sum has to suffer.
    assert relative_error(c, a, b) <= 1.5 * max(relative_error(a @ b, a, b), HALF_ULP)


def differs_from_multiply_adds(c, function, *args):
    return not np.array_equal(c, in_isa("avx512", function, *args))


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("k", [300, 2500])
def test_as_accurate_as_multiply_adds(split_isa, rng, distribution, k):
    a, b = operands(rng, distribution, 110, k, 100)
    c = ops.matmul(a, b)
    check_accuracy(c, a, b)
    if distribution is normal:
        assert differs_from_multiply_adds(c, ops.matmul, a, b)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("m, k, n", [(64, 1, 80), (64, 33, 80), (35, 1024, 64), (32, 65536, 48)])
def test_as_accurate_with_a_packed_operand(split_isa, rng, distribution, m, k, n):
    a, b = operands(rng, distribution, m, k, n)
    check_accuracy(ops.matmul(a, ops.pack_b(b)), a, b)


def test_a_long_sum_in_parts(split_isa, rng):
    a, b = operands(rng, normal, 80, 8200, 80)
    c = ops.matmul(a, b)
    check_accuracy(c, a, b)
    assert differs_from_multiply_adds(c, ops.matmul, a, b)


# Tiles of 32 x 32, blocks of 1024 in K and of 96 rows; few rows, few columns, several blocks of both.
@pytest.mark.parametrize(
    "m, k, n",
    [(96, 96, 96), (130, 97, 161), (97, 1025, 130), (64, 200, 600), (230, 130, 190), (330, 1100, 70)],
)
def test_shapes_strides_and_epilogue(split_isa, rng, m, k, n):
    x, w = (rng.normal(size=s).astype(np.float32) for s in ((m, k), (n, k)))
    bias, residual = (rng.normal(size=s).astype(np.float32) for s in (n, (m, n)))
    sums = x.astype(np.float64) @ w.T.astype(np.float64)
    bound = 4 * HALF_ULP * (np.abs(x).astype(np.float64) @ np.abs(w.T) + np.abs(bias) + np.abs(residual))
    packed = ops.pack_b(np.ascontiguousarray(w.T))
    for left in (x, np.asfortranarray(x), np.repeat(x, 2, 1)[:, ::2]):
        for right in (w, np.asfortranarray(w), np.repeat(w, 2, 1)[:, ::2]):
            assert (np.abs(ops.linear(left, right, bias) - (sums + bias)) <= bound).all()
    relu = np.maximum(sums + bias + residual, 0)
    for right in (w.T, packed):
        got = ops.matmul(x, right, bias=bias, residual=residual, activation="relu")
        assert (np.abs(got - relu) <= bound).all()
        got = ops.matmul(x, right, bias=bias, activation="tanh")
        assert (np.abs(got - np.tanh(sums + bias)) <= bound + 2.0**-22).all()
        out = residual.copy()
        ops.matmul(x, right, out=out, alpha=-0.5, beta=2.0)
        assert (np.abs(out - (2.0 * residual.astype(np.float64) - 0.5 * sums)) <= 2 * bound).all()
    assert differs_from_multiply_adds(ops.matmul(x, w.T), ops.matmul, x, w.T)


def test_gradients_of_a_linear_layer(split_isa, rng):
    x, w, grad = (rng.normal(size=s).astype(np.float32) for s in ((150, 160), (170, 160), (150, 170)))
    dx, dw, _ = ops.linear_backward(grad, x, w)
    check_accuracy(dx, grad, w)
    check_accuracy(dw, np.ascontiguousarray(grad.T), x)
    plain = in_isa("avx512", ops.linear_backward, grad, x, w)
    assert not np.array_equal(dx, plain[0]) and not np.array_equal(dw, plain[1])


def test_batches(split_isa, rng):
    a, b = (rng.normal(size=s).astype(np.float32) for s in ((3, 96, 100), (3, 100, 112)))
    c = ops.matmul(a, b)
    shared = ops.matmul(a[:, ::-1], b[0])  # items whose rows do not follow one another: b is cut once for all
    for i in range(3):
        check_accuracy(c[i], a[i], b[i])
        check_accuracy(shared[i], a[i, ::-1], b[0])
        assert_same_bits(c[i], ops.matmul(a[i], b[i]))
    assert differs_from_multiply_adds(c, ops.matmul, a, b)
    assert differs_from_multiply_adds(shared, ops.matmul, a[:, ::-1], b[0])


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("packed", [False, True])
def test_infinities_and_nans_reach_their_row_and_column_and_no_other(split_isa, rng, value, packed):
    a, b = operands(rng, normal, 100, 200, 100)
    a[40, 150] = b[7, 66] = value
    c, expected = ops.matmul(a, ops.pack_b(b) if packed else b), a @ b
    np.testing.assert_array_equal(np.isnan(c), np.isnan(expected))
    np.testing.assert_array_equal(np.isinf(c), np.isinf(expected))
    np.testing.assert_array_equal(np.sign(c[40]), np.sign(expected[40]))
    assert np.isfinite(np.delete(np.delete(c, 40, 0), 66, 1)).all()


# The guard: what cannot be cut is multiplied and added, and then a product with one term is exact.
@pytest.mark.parametrize(
    "left, right",
    [
        (2.0**-70, 2.0**-70), (2.0**-126, 1.0), (2.0**-149, 2.0**40), (2.0**-101, 2.0**120), (1.5 * 2.0**-60, 2.0**-66),
        (np.finfo(np.float32).max, 0.5), (2.0**127, 1.0), (2.0**100, 2.0**27),
        (np.float32(1 + 2.0**-23) * 2.0**-100, 1.0), (np.float32(2 - 2.0**-23) * 2.0**-50, 2.0**-40),
    ],
)  # fmt: skip
def test_exponents_at_the_edge(split_isa, left, right):
    a, b = np.zeros((100, 64), np.float32), np.zeros((64, 100), np.float32)
    a[np.arange(100), np.arange(100) % 64] = left
    b[np.arange(100) % 64, np.arange(100)] = right
    for x, y in ((a, b), (b.T, a.T)):
        np.testing.assert_array_equal(ops.matmul(x, y), x @ y)
        np.testing.assert_array_equal(ops.matmul(x, ops.pack_b(np.ascontiguousarray(y))), x @ y)


def test_sums_of_the_largest_products_do_not_overflow_on_the_way(split_isa):
    a, b = np.full((96, 256), 2.0**60, np.float32), np.full((256, 96), 2.0**59, np.float32)
    a[:, 1::2] *= -1
    a[:, 0] *= 2
    np.testing.assert_array_equal(ops.matmul(a, b), np.full((96, 96), 2.0**119, np.float32))
    np.testing.assert_array_equal(ops.matmul(np.abs(a), b), np.full((96, 96), 257 * 2.0**119, np.float32))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("k", [100, 2100])
def test_rows_do_not_influence_each_other(split_isa, rng, packed, k):
    """Not even by data that only multiply-adds can take."""
    a, b = operands(rng, normal, 200, k, 120)
    b[k // 2, 100] = 1e-35  # in the last panel of columns
    right = ops.pack_b(b) if packed else b
    whole = ops.matmul(a, right)
    assert_same_bits(whole, ops.matmul(a, b))
    for m in (110, 161, 192):
        assert_same_bits(ops.matmul(a[:m], right), whole[:m])
    odd = a.copy()
    odd[3] *= 1e-40
    odd[40, -1], odd[41, 0], odd[77, 5] = np.nan, np.inf, 1e-33
    got = ops.matmul(odd, right)
    same = np.delete(np.arange(200), [3, 40, 41, 77])
    assert_same_bits(got[same], whole[same])
    assert_same_bits(ops.matmul(odd[::-1], right), got[::-1])


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_odd_rows_have_an_epilogue_too(split_isa, rng, beta):
    a, b = operands(rng, normal, 100, 1200, 100)
    a[5] *= 1e-40
    a[50:60, 7] = 1e-35
    bias, residual, c = (rng.normal(size=s).astype(np.float32) for s in (100, (100, 100), (100, 100)))
    for activation, f in (("relu", lambda x: np.maximum(x, 0)), ("tanh", np.tanh), (None, lambda x: x)):
        out = c.copy()
        ops.matmul(a, b, bias=bias, residual=residual, out=out, alpha=0.25, beta=beta, activation=activation)
        wide = (
            0.25 * (a.astype(np.float64) @ b.astype(np.float64))
            + beta * c.astype(np.float64)
            + bias
            + residual
        )
        scale = 0.25 * np.abs(a).astype(np.float64) @ np.abs(b) + np.abs(c) + np.abs(bias) + np.abs(residual)
        assert (np.abs(out - f(wide)) <= 4 * HALF_ULP * scale + 2.0**-22).all()


def test_threads_change_no_bit(split_isa, rng):
    cases = []
    for m, k, n in [(150, 1500, 200), (64, 1100, 700), (700, 300, 64), (110, 5000, 100)]:
        a, b = operands(rng, normal, m, k, n)
        a[3] *= 1e-40
        cases += [(a, b), (a, ops.pack_b(b))]
    before, results = _core.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 7):
            _core.set_num_threads(threads)
            results.append([ops.matmul(a, b) for a, b in cases])
    finally:
        _core.set_num_threads(before)
    for other in results[1:]:
        for x, y in zip(results[0], other):
            assert_same_bits(x, y)


# Terms of a b left out: with two parts a2 b + a b2, each 2^-17, and a1 b1, 2^-16; with one part a1 b + a b1, each 2^-8.
# Sums add what float32 sums do.
LEFT_OUT = {"highest": 2.0**-24, "high": 2.0**-15, "medium": 2.0**-7}


@pytest.mark.parametrize("isa", BFLOAT16_ISAS)
@pytest.mark.parametrize("precision", ["high", "medium"])
@pytest.mark.parametrize("packed", [False, True])
def test_lower_precisions_keep_what_they_promise(rng, isa, precision, packed):
    a, b = operands(rng, lognormal, 128, 256, 96)

    def product():
        return ops.matmul(a, ops.pack_b(b) if packed else b)

    highest = in_isa(isa, product)
    with fastdl.float32_precision(precision):
        error = relative_error(in_isa(isa, product), a, b)
    assert error <= LEFT_OUT[precision] * (1 + 2.0**-8) + relative_error(highest, a, b)
    if isa in SPLIT_ISAS:  # and they are really used
        assert error > LEFT_OUT[precision] / 64


def test_without_a_matrix_unit_precision_changes_nothing(rng):
    a, b = operands(rng, normal, 100, 200, 100)
    for isa in [i for i in _core.available_isas() if i not in BFLOAT16_ISAS]:
        expected = in_isa(isa, ops.matmul, a, b)
        for precision in ("high", "medium"):
            with fastdl.float32_precision(precision):
                assert_same_bits(in_isa(isa, ops.matmul, a, b), expected)
