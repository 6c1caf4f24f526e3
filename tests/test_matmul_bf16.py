"""Products of bfloat16 matrices around every block boundary: tiles, K blocks, strips, panels, packed or not."""

import itertools

import ml_dtypes
import numpy as np
import pytest
from references import matmul as ref
from tolerance import assert_same_bits, sum_bound

import fastdl
from fastdl import _core, ops
from fastdl.ops.activation import resolve_activation

BF16 = np.dtype(ml_dtypes.bfloat16)


def randn(rng, *shape):
    return rng.standard_normal(shape, np.float32).astype(BF16)


def transposed(a):
    return np.ascontiguousarray(a.swapaxes(-1, -2)).swapaxes(-1, -2)


def check(a, b, packed=None, **options):
    got = ops.matmul(a, b if packed is None else packed, **options)
    activation = options.pop("activation", None)
    terms = {("c" if k == "out" else k): v for k, v in options.items()}
    expected = ref.matmul(a, b, activation=activation, **terms)
    scale = ref.matmul_abs(a, b, **terms)
    error = 1.2 * sum_bound(a.shape[-1], np.float32, extra=12.0) * scale
    assert (np.abs(got.astype(np.float64) - expected) <= error + 2.0**-8 * (np.abs(expected) + error)).all()
    return got


# Tiles of 14 x 32, matrix units' of 32 x 32.
EDGES = [1, 2, 4, 5, 13, 14, 15, 16, 17, 29, 31, 32, 33]


def test_every_small_shape(isa, rng):
    for m, n in itertools.product(EDGES, EDGES):
        k = int(rng.choice([1, 2, 3, 16, 31, 32, 33, 65]))
        a, b = randn(rng, m, k), randn(rng, k, n)
        check(a, b)
        check(transposed(a), transposed(b))


# Strips up to 768 rows, panels of B for all tasks beyond; blocks of K of 64 to 2048; slabs of 64 steps; rows a
# multiple of 4 KiB apart.
SHAPES = [
    (20, 1100, 700), (70, 600, 2048), (256, 520, 300), (100, 70, 4097), (257, 500, 130), (700, 300, 450),
    (800, 140, 2100), (16, 3000, 64), (270, 1000, 32), (400, 33, 999),
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_block_boundaries_and_transpositions(shape, isa, rng):
    m, n, k = shape
    a, b = randn(rng, m, k), randn(rng, k, n)
    bias, residual = randn(rng, n), randn(rng, m, n)
    at, bt = transposed(a), transposed(b)
    check(a, b)
    check(at, b, bias=bias, activation="relu")
    check(a, bt, bias=bias, residual=residual, activation="gelu")
    check(at, bt, alpha=-0.5, residual=residual, activation="tanh")
    check(a, bt, packed=ops.pack_b(bt), bias=bias, activation="relu")


def test_few_rows_times_a_matrix_beyond_the_caches(isa, rng):
    b = randn(rng, 901, 4999)
    for m in (1, 2, 3, 4):
        check(randn(rng, m, 901), b)


def test_strided_operands(isa, rng):
    for m, n, k in [(9, 40, 70), (60, 200, 300), (300, 100, 200)]:
        a, b = randn(rng, m, 2 * k)[:, ::2], randn(rng, k, 3 * n)[:, ::3]
        check(a, b)
        check(a[::-1], b[:, ::-1])
        check(a, np.broadcast_to(b[:, :1], b.shape))


@pytest.mark.parametrize("activation", [None, "relu", "tanh"])  # in registers, through float32
def test_accumulation(activation, isa, rng):
    code, *parameters = resolve_activation(activation)[:3]
    for m, n, k in [(3, 50, 20), (15, 33, 20), (300, 70, 2100)]:
        a, b, c = randn(rng, m, k), randn(rng, k, n), randn(rng, m, n)
        out, single = c.copy(), c.astype(np.float32)
        for x in (out, single):
            _core.matmul(a, b, None, None, x, 0.5, 2.0, code, *parameters)
        expected = ref.matmul(a, b, 0.5, 2.0, c, activation=activation)
        error = 1.2 * sum_bound(k, np.float32, extra=12.0) * ref.matmul_abs(a, b, 0.5, 2.0, c)
        assert (np.abs(single - expected) <= error).all()
        assert (
            np.abs(out.astype(np.float64) - expected) <= error + 2.0**-8 * (np.abs(expected) + error)
        ).all()


def test_batches(isa, rng):
    for batch, m, n, k in [(9, 20, 70, 40), (3, 130, 130, 130), (70, 32, 32, 32)]:
        a, b = randn(rng, batch, m, k), randn(rng, batch, k, n)
        got = check(a, b)
        for i in range(0, batch, 4):
            assert_same_bits(got[i], ops.matmul(a[i], b[i]))
        check(a, transposed(b))
        check(a, b[0])


def test_nan_and_infinity_stay_in_their_rows(isa, rng):
    for m, n, k in [(4, 40, 90), (40, 600, 700), (300, 70, 300)]:
        a, b = np.abs(randn(rng, m, k)) + BF16.type(1), np.abs(randn(rng, k, n)) + BF16.type(1)
        a[1, k // 2], a[m - 1, k - 1] = np.nan, np.inf
        got = ops.matmul(a, b).astype(np.float32)
        assert np.isnan(got[1]).all() and np.isinf(got[-1]).all()
        rest = np.delete(got, (1, m - 1), 0)
        assert np.isfinite(rest).all()


def test_thread_counts_give_the_same_bits(isa, rng):
    shapes = [(20, 1100, 700), (256, 520, 300), (300, 300, 2100), (3, 2100, 300), (700, 300, 40)]
    operands = [(randn(rng, m, k), randn(rng, k, n)) for m, n, k in shapes]
    before = fastdl.get_num_threads()
    try:
        for a, b in operands:
            for x, y in [(a, b), (transposed(a), b), (a, transposed(b))]:
                results = []
                for threads in (1, 2, 3, 7):
                    fastdl.set_num_threads(threads)
                    results.append(ops.matmul(x, y))
                for r in results[1:]:
                    assert_same_bits(r, results[0])
    finally:
        fastdl.set_num_threads(before)
