"""Matrix products against the references: shapes around every block boundary, every layout, ISA and
thread count.
"""

import itertools

import numpy as np
import pytest
from devices import thread_counts
from gradcheck import gradcheck
from layouts import strided_variants
from references import matmul as ref
from tolerance import assert_close_sum, assert_same_bits

import fastdl
import fastdl.nn.functional as F
from fastdl import _core, ops

DTYPES = [np.float32, np.float64]
ACTIVATIONS = ["relu", "tanh", "gelu", "silu", "leaky_relu"]


def randn(rng, shape, dtype=np.float32):
    return np.asarray(rng.standard_normal(shape)).astype(dtype)


def check_matmul(a, b, **options):
    activation = options.pop("activation", None)
    got = ops.matmul(a, b, activation=activation, **options)
    options = {("c" if k == "out" else k): v for k, v in options.items()}
    expected = ref.matmul(a, b, activation=activation, **options)
    scale = ref.matmul_abs(a, b, **options)
    # No activation here is steeper than 1.13 (gelu); its own rounding counts a few more.
    assert_close_sum(got, expected, scale * 1.2, a.shape[-1], extra=12.0)
    return got


# Register tiles are 14, 6 or 4 rows by 32, 16, 8 (float64: half) columns.
EDGES = [1, 2, 3, 4, 5, 7, 8, 13, 14, 15, 16, 17, 31, 32, 33]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_small_shape(dtype, isa, rng):
    for m, n in itertools.product(EDGES, EDGES):
        k = int(rng.choice([1, 2, 5, 16, 17, 33]))
        a, b = randn(rng, (m, k), dtype), randn(rng, (k, n), dtype)
        check_matmul(a, b)
        check_matmul(a, randn(rng, (n, k), dtype).T)


# Blocks: 3 tiles of rows or more, 512 of K, 28 rows from which on B is packed, 5 MiB (1.25 where rows lie a multiple of
# 4 KiB apart) that are read without packing, 2048 for the split sum, 64 columns of a dot product, 1024 of a vector
# times a matrix.
SHAPES = [
    (1, 1030, 70), (3, 1023, 9), (4, 70, 1030), (1, 129, 2050), (300, 1, 700), (2, 1, 33), (29, 40, 1030),
    (28, 700, 300), (43, 130, 513), (169, 70, 1025), (430, 97, 530), (100, 1100, 400), (20, 30, 4100),
    (33, 17, 6200), (257, 300, 600), (310, 290, 1024),
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_block_boundaries_and_transpositions(shape, dtype, isa, rng):
    m, n, k = shape
    a, b = randn(rng, (m, k), dtype), randn(rng, (k, n), dtype)
    bias, residual = randn(rng, n, dtype), randn(rng, (m, n), dtype)
    at, bt = np.ascontiguousarray(a.T).T, np.ascontiguousarray(b.T).T
    check_matmul(a, b)
    check_matmul(at, b, bias=bias, activation="relu")
    check_matmul(a, bt, bias=bias, residual=residual, activation="gelu")
    check_matmul(at, bt, alpha=-0.5, residual=residual)
    got = ops.matmul(a, ops.pack_b(bt), bias=bias, activation="relu")
    assert_close_sum(got, ref.matmul(a, b, bias=bias, activation="relu"), ref.matmul_abs(a, b, bias=bias), k)


def test_operands_beyond_the_caches(isa, rng):
    a, b = randn(rng, (250, 2100)), randn(rng, (2100, 2100))  # B is packed in two parts
    check_matmul(a, b)
    check_matmul(a[:, ::-1], b[::-1].T)
    b = randn(rng, (700, 3401))  # few rows: what comes next is fetched ahead
    for m in (1, 2, 3, 4):
        check_matmul(randn(rng, (m, 700)), b)


@pytest.mark.parametrize("n", [255, 1025, 4113])
@pytest.mark.parametrize("m", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", DTYPES)
def test_few_rows_of_cut_sums_and_columns(m, n, dtype, isa, rng):
    """Sums over K are cut, and so are columns, where few rows meet rows of B; each column's end comes once."""
    whole = randn(rng, (m, n + 9), dtype)
    for k in (320, 321, 997):
        a, wide = randn(rng, (k, m), dtype).T, randn(rng, (k, n + 5), dtype)
        out = whole.copy()[:, 4 : n + 4]
        options = dict(bias=randn(rng, n, dtype), residual=randn(rng, (m, n), dtype), activation="tanh")
        check_matmul(a, wide[:, 3 : n + 3], **options)
        b, end = wide[:, 3 : n + 3], dict(alpha=0.5, beta=2.0, c=out.copy())
        ops.matmul(a, b, alpha=0.5, beta=2.0, out=out)
        assert_close_sum(out, ref.matmul(a, b, **end), ref.matmul_abs(a, b, **end), k, extra=12.0)
        assert_same_bits(out.base[:, :4], whole[:, :4])
        assert_same_bits(out.base[:, n + 4 :], whole[:, n + 4 :])


@pytest.mark.parametrize("shape", [(1, 5, 40), (4, 33, 70), (15, 40, 17), (50, 1, 70), (40, 70, 30)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts(shape, dtype, isa, rng):
    m, n, k = shape
    a, b, bias = randn(rng, (m, k), dtype), randn(rng, (k, n), dtype), randn(rng, n, dtype)
    residual = randn(rng, (m, n), dtype)
    for (na, va), (nb, vb) in itertools.product(strided_variants(a), strided_variants(b)):
        if na == nb or "contiguous" in (na, nb):
            check_matmul(va, vb, bias=bias)
    for (_, vbias), (_, vres) in zip(strided_variants(bias), strided_variants(residual)):
        check_matmul(a, b, bias=vbias, residual=vres, activation="relu")
    row, column = np.broadcast_to(a[:1], a.shape), np.broadcast_to(a[:, :1], a.shape)
    check_matmul(row, b)
    check_matmul(column, b)
    check_matmul(a, np.broadcast_to(b[:1], b.shape))
    check_matmul(a, np.broadcast_to(b[:, :1], b.shape))


@pytest.mark.parametrize("dtype", DTYPES)
def test_output_layouts(dtype, isa, rng):
    a, b, bias = randn(rng, (20, 11), dtype), randn(rng, (11, 35), dtype), randn(rng, 35, dtype)
    c = randn(rng, (20, 35), dtype)
    for name, out in strided_variants(c):
        for options in ({}, {"bias": bias}, {"alpha": 0.5, "beta": -2.0}, {"bias": bias, "residual": c}):
            before = out.copy()
            target = out.copy(order="K") if name == "unaligned" else out
            got = ops.matmul(a, b, out=target, **options)
            assert got is target
            expected = ref.matmul(a, b, c=before, **options)
            assert_close_sum(got, expected, ref.matmul_abs(a, b, c=before, **options), 13)


def test_memory_around_a_strided_output_is_left_alone(rng):
    a, b = randn(rng, (15, 8)), randn(rng, (8, 17))
    for rows, columns in ((1, 1), (1, 3), (2, 1), (2, 2)):
        big = np.full((50, 80), 7, np.float32)
        view = big[2 : 2 + 15 * rows : rows, 3 : 3 + 17 * columns : columns]
        ops.matmul(a, b, out=view)
        inside = np.zeros(big.shape, bool)
        inside[2 : 2 + 15 * rows : rows, 3 : 3 + 17 * columns : columns] = True
        assert (big[~inside] == 7).all()
        assert_same_bits(view, ops.matmul(a, b))


BATCHES = [
    ((3, 4, 5), (3, 5, 6)), ((3, 4, 5), (5, 6)), ((4, 5), (3, 5, 6)), ((2, 1, 4, 5), (3, 5, 6)), ((1, 4, 5), (7, 5, 6)),
    ((2, 3, 1, 5), (2, 3, 5, 33)), ((5,), (5,)), ((5,), (5, 6)), ((4, 5), (5,)), ((5,), (3, 5, 6)), ((3, 4, 5), (5,)),
    ((2, 2, 2, 4, 5), (2, 1, 2, 5, 6)), ((9, 40, 24), (9, 24, 40)), ((300, 2, 3), (3, 4)), ((3, 1, 5), (3, 5, 1)),
    ((10, 70, 5), (5, 33)), ((6, 33, 70), (1, 70, 60)),
]  # fmt: skip


@pytest.mark.parametrize("shapes", BATCHES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_batches(shapes, dtype, rng):
    a, b = randn(rng, shapes[0], dtype), randn(rng, shapes[1], dtype)
    got = check_matmul(a, b)
    assert got.shape == np.matmul(a, b).shape
    for va, vb in zip(strided_variants(a), strided_variants(b)):
        check_matmul(va[1], vb[1])
    if b.ndim > 1:
        check_matmul(
            a,
            b,
            bias=randn(rng, b.shape[-1], dtype),
            residual=randn(rng, got.shape, dtype),
            activation="silu",
        )
    grad = randn(rng, got.shape, dtype)
    da, db = ops.matmul_backward(grad, a, b)
    ra, rb = ref.matmul_backward(grad, a, b)
    sa, sb = ref.matmul_backward(np.abs(grad), np.abs(a), np.abs(b))
    assert_close_sum(da, ra, sa, got.size // max(a.size // a.shape[-1], 1) + 3)
    assert_close_sum(
        db, rb, sb, a.size // a.shape[-1] * max(got.size // max(a.size // a.shape[-1], 1), 1) + 3
    )
    assert ops.matmul_backward(grad, a, b, (False, True))[0] is None


EMPTY = [
    ((0, 4), (4, 5)),
    ((3, 0), (0, 5)),
    ((3, 4), (4, 0)),
    ((0, 3, 4), (4, 5)),
    ((2, 3, 0), (2, 0, 5)),
    ((0,), (0,)),
]


@pytest.mark.parametrize("shapes", EMPTY, ids=str)
def test_empty_dimensions(shapes, isa, rng):
    a, b = randn(rng, shapes[0]), randn(rng, shapes[1])
    assert np.array_equal(ops.matmul(a, b), np.matmul(a, b))
    if a.ndim == b.ndim == 2:
        bias = randn(rng, b.shape[1])
        assert np.array_equal(ops.matmul(a, b, bias=bias), np.matmul(a, b) + bias)
        assert np.array_equal(ops.linear(a, np.ascontiguousarray(b.T), bias), np.matmul(a, b) + bias)
        assert np.array_equal(ops.matmul(a, ops.pack_b(b)), np.matmul(a, b))
        got = ops.linear_backward(np.ones((a.shape[0], b.shape[1]), np.float32), a, np.ascontiguousarray(b.T))
        assert [g.shape for g in got] == [a.shape, b.T.shape, bias.shape]
        assert all(np.isfinite(g).all() for g in got)


@pytest.mark.parametrize(
    "m,n,k", [(1, 9, 20), (3, 40, 17), (20, 1, 9), (20, 40, 5), (60, 70, 300), (8, 9, 4200)]
)
@pytest.mark.parametrize("transposed", [False, True])
def test_nan_and_infinity_propagate(m, n, k, transposed, isa, rng):
    a, b = randn(rng, (m, k)), randn(rng, (k, n))
    a[0, 0], a[m // 2, k // 2], b[k // 3, n // 2] = np.nan, np.inf, -np.inf
    bias = randn(rng, n)
    bias[n - 1] = np.nan
    right = np.ascontiguousarray(b.T).T if transposed else b
    for activation in (None, "relu", "leaky_relu"):
        got = ops.matmul(a, right, bias=bias, activation=activation)
        with np.errstate(invalid="ignore"):
            expected = a.astype(np.float64) @ b.astype(np.float64) + bias
            if activation == "relu":
                expected = np.where(expected < 0, 0, expected)
        assert np.array_equal(np.isnan(got), np.isnan(expected))
        assert np.array_equal(np.isposinf(got), np.isposinf(expected))


def test_beta_zero_does_not_read_out(isa, rng):
    out = np.full((5, 6), np.nan, np.float32)
    check_matmul(randn(rng, (5, 7)), randn(rng, (7, 6)), beta=0.0, alpha=2.0)
    assert np.isfinite(ops.matmul(randn(rng, (5, 7)), randn(rng, (7, 6)), out=out)).all()


def test_thread_counts_give_the_same_bits(rng):
    cases = []
    for m, n, k, dtype in [
        (300, 300, 700, np.float32), (150, 150, 600, np.float64), (2000, 40, 300, np.float32),
        (33, 1500, 300, np.float32), (1, 3000, 500, np.float32), (4, 3000, 500, np.float32),
        (40, 50, 9000, np.float32), (3000, 1, 400, np.float32),
    ]:  # fmt: skip
        a, b, bias = randn(rng, (m, k), dtype), randn(rng, (k, n), dtype), randn(rng, n, dtype)
        bt = np.ascontiguousarray(b.T).T
        cases.append(lambda a=a, b=b, bias=bias: ops.matmul(a, b, bias=bias, activation="gelu"))
        cases.append(lambda a=a, b=bt: ops.matmul(a, b))
    x, y = randn(rng, (40, 60, 50)), randn(rng, (40, 50, 60))
    cases.append(lambda: ops.matmul(x, y))
    cases.append(lambda: ops.matmul(x, y[0]))
    g, w = randn(rng, (3000, 40)), randn(rng, (40, 30))
    z = randn(rng, (3000, 30))
    cases += [lambda i=i: ops.linear_backward(g, z, w)[i] for i in range(3)]
    before = fastdl.get_num_threads()
    try:
        for case in cases:
            results = []
            for n in thread_counts():
                fastdl.set_num_threads(n)
                results.append(case())
            for r in results[1:]:
                assert_same_bits(r, results[0])
    finally:
        fastdl.set_num_threads(before)


@pytest.mark.cpu  # the tile, and with it the order of a sum, depends on the number of rows on a GPU
def test_rows_do_not_depend_on_how_many_there_are(isa, rng):
    """From 5 rows on (fewer have kernels of their own) a batch gives each row's bits; where there is a matrix unit,
    on either side of the size from which it is used.
    """
    for k, n, counts in ((64, 48, (5, 14, 20, 33)), (1000, 700, (5, 28, 29, 64, 150, 400, 900))):
        a, b = randn(rng, (1500 if n > 48 else 40, k)), randn(rng, (k, n))
        unit = isa.startswith("amx") and n > 48
        for right in (b, np.asfortranarray(b)):
            whole = ops.matmul(a, right)
            for m in counts:
                if not unit or m >= 64:
                    assert_same_bits(ops.matmul(a[:m], right), whole[:m])


@pytest.mark.parametrize(
    "m, n, k", [(1, 40, 5000), (4, 40, 65536), (300, 1, 5000), (20, 70, 5000), (60, 700, 2500)]
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_long_sums_are_cut(m, n, k, order, isa, rng):
    """The error of a chain of additions of equal terms grows with its length: chains of 384 at most, whose sums are
    added, have a relative error of some 2^-24 (384 / sqrt(3 k) + sqrt(k / 384)) / 2, the largest of many six times it.
    """
    a, b = rng.random((m, k), np.float32), np.asarray(rng.random((k, n), np.float32), order=order)
    wide = a.astype(np.float64) @ b.astype(np.float64)
    error = np.abs(ops.matmul(a, b) - wide) / wide
    assert error.max() <= 3 * 2.0**-24 * (384 / np.sqrt(3 * k) + np.sqrt(k / 384))


@pytest.mark.parametrize("shapes", BATCHES[:12], ids=str)
def test_matmul_gradients(shapes, rng):
    gradcheck(fastdl.matmul, rng.standard_normal(shapes[0]), rng.standard_normal(shapes[1]))


def test_named_products(rng):
    a, b, v = randn(rng, (4, 5)), randn(rng, (5, 6)), randn(rng, 5)
    assert np.allclose(ops.mm(a, b), a @ b, atol=1e-5)
    assert np.allclose(ops.mv(a, v), a @ v, atol=1e-5)
    assert ops.dot(v, v).shape == () and np.allclose(ops.dot(v, v), v @ v, atol=1e-5)
    x, y = randn(rng, (3, 4, 5)), randn(rng, (3, 5, 6))
    assert np.allclose(ops.bmm(x, y), x @ y, atol=1e-5)
    for c in (randn(rng, 6), randn(rng, (4, 6)), randn(rng, (4, 1)), np.float32(2).reshape(())):
        for alpha, beta in ((1, 1), (0.5, 2), (1, 0)):
            got = ops.addmm(c, a, b, beta=beta, alpha=alpha)
            assert np.allclose(got, beta * c + alpha * (a @ b), atol=1e-4)


def test_bad_input_is_refused_and_nothing_written(rng):
    f32, f64 = randn(rng, (3, 4)), randn(rng, (4, 5), np.float64)
    ok = randn(rng, (4, 5))
    out = np.full((3, 5), 7, np.float32)
    with pytest.raises(TypeError, match=r"matmul.*float32.*float64"):
        ops.matmul(f32, f64)
    with pytest.raises(TypeError):
        ops.matmul(np.ones((3, 4), int), np.ones((4, 5), int))
    with pytest.raises(TypeError):
        ops.matmul(f32, ok, bias=randn(rng, 5, np.float64), out=out)
    for a, b in [
        (f32, ok.T),
        (f32, np.float32(1).reshape(())),
        (randn(rng, (2, 3, 4)), randn(rng, (3, 4, 5))),
    ]:
        with pytest.raises(ValueError, match="matmul"):
            ops.matmul(a, b)
    for options in (
        {"bias": randn(rng, 4)}, {"bias": randn(rng, (1, 5))}, {"residual": randn(rng, (3, 4))},
        {"activation": "reluu"}, {"residual": randn(rng, 5)},
    ):  # fmt: skip
        with pytest.raises(ValueError):
            ops.matmul(f32, ok, out=out, **options)
    with pytest.raises(ValueError, match="out"):
        ops.matmul(f32, ok, out=np.empty((3, 4), np.float32))
    with pytest.raises(ValueError, match="out"):
        ops.matmul(f32, ok, beta=1.0)
    with pytest.raises(ValueError, match="read-only"):
        out.flags.writeable = False
        ops.matmul(f32, ok, out=out)
    assert (out == 7).all()
    with pytest.raises(ValueError, match="linear"):
        ops.linear(f32, ok)
    with pytest.raises(ValueError, match="linear"):
        F.linear(fastdl.tensor(f32), fastdl.tensor(ok))
    with pytest.raises(TypeError):
        ops.linear(f32, randn(rng, (5, 4), np.float64))
    with pytest.raises(ValueError, match="linear_backward"):
        ops.linear_backward(randn(rng, (3, 6)), f32, randn(rng, (5, 4)))
    with pytest.raises(ValueError):
        ops.bmm(randn(rng, (2, 3, 4)), randn(rng, (3, 4, 5)))


def test_packed_operand_belongs_to_its_isa(rng):
    isas = _core.available_isas()
    if len(isas) < 2:
        pytest.skip("one instruction set only")
    before = _core.get_cpu_isa()
    a, b = randn(rng, (3, 4)), randn(rng, (4, 5))
    try:
        _core.set_cpu_isa(isas[0])
        packed = ops.pack_b(b)
        assert np.allclose(ops.matmul(a, packed), a @ b, atol=1e-5)
        _core.set_cpu_isa(isas[1])
        with pytest.raises(ValueError, match="pack it again"):
            ops.matmul(a, packed)
    finally:
        _core.set_cpu_isa(before)
    with pytest.raises(ValueError, match="pack_b"):
        ops.matmul(a, ops.PackedB(np.zeros(200, np.float32), (4, 5), "generic"))
