"""Hopper's matrix products of few rows or columns (csrc/cuda/matmul_sm90_few.cuh): every shape with at most 128 of
either is sent to that kernel and compared with float64."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from hopper import kernel_choice
from matmul_case import (
    BFLOAT16,
    DISTRIBUTIONS,
    GELU,
    NONE,
    RELU,
    check,
    check_end,
    check_out_of_every_layout,
    error,
    matrix,
    product,
    sim,
    wide,
)

sm90, portable = kernel_choice("FASTDL_CUDA_MATMUL", "sm90_few")


@pytest.mark.parametrize("few", [3, 16, 24, 40, 64, 100])
@pytest.mark.parametrize("transposed", list(itertools.product([False, True], repeat=2)))
def test_transpositions(rng, few, transposed):
    """Few columns, then few rows: of each width of the instruction, with tiles and steps that are not full."""
    length, k = 264, 200
    a, b = matrix(rng, BFLOAT16, length, k, transposed[0]), matrix(rng, BFLOAT16, k, few, transposed[1])
    check(product(a, b), a, b)
    a, b = matrix(rng, BFLOAT16, few, k, transposed[0]), matrix(rng, BFLOAT16, k, length, transposed[1])
    check(product(a, b), a, b)


@pytest.mark.parametrize("m, n", [(130, 17), (17, 130), (300, 70), (70, 300)])
def test_float16(rng, m, n):
    a, b = matrix(rng, np.float16, m, 72, False), matrix(rng, np.float16, 72, n, True)
    check(product(a, b), a, b)


@pytest.mark.parametrize(
    "m, n, k", [(1, 1, 1), (1, 130, 64), (130, 1, 65), (8, 8, 8), (127, 3, 70), (5, 129, 1), (128, 128, 63)]
)
def test_odd_sizes(rng, m, n, k):
    a, b = matrix(rng, BFLOAT16, m, k, False), matrix(rng, BFLOAT16, k, n, False)
    check(product(a, b), a, b)


@pytest.mark.parametrize("few", [9, 70])
@pytest.mark.parametrize("k", [256, 700, 1030])
def test_clusters_share_k(rng, portable, few, k):
    """Two to eight blocks, of which the last one may have a part of a step or nothing at all. The same bits again,
    which are not those of the portable kernel's order."""
    a, b = matrix(rng, BFLOAT16, 100, k, False), matrix(rng, BFLOAT16, k, few, False)

    def compute():
        return product(a, b, out=np.full((100, few), np.nan, np.float32))

    c = compute()
    check(c, a, b)
    np.testing.assert_array_equal(compute(), c)
    assert not np.array_equal(portable(compute), c)
    c = product(b.T, a.T)
    check(c, b.T, a.T)


@pytest.mark.parametrize("m, n", [(100, 12), (12, 100)])
def test_parts_along_k(rng, m, n):
    """Of clusters, added up by another kernel."""
    a, b = matrix(rng, BFLOAT16, m, 9000, False), matrix(rng, BFLOAT16, 9000, n, True)
    bias, residual = rng.standard_normal(n).astype(BFLOAT16), rng.standard_normal((m, n)).astype(BFLOAT16)
    c = product(a, b, bias, residual)
    check(c, a, b, wide(a) @ wide(b) + wide(bias) + wide(residual))
    np.testing.assert_array_equal(product(a, b, bias, residual), c)


@pytest.mark.parametrize("activation", [NONE, RELU, GELU])
@pytest.mark.parametrize("m, n", [(140, 24), (24, 140), (140, 7), (7, 133)])
def test_ends(rng, portable, activation, m, n):
    """Four results at a time and one by one."""
    check_end(rng, portable, activation, m, n, k=300)


@pytest.mark.parametrize("beta", [0.0, 2.0])
def test_out_of_every_layout(rng, beta):
    check_out_of_every_layout(rng, beta, k=128, n=24)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("few", [5, 80])
@pytest.mark.parametrize("dtype", [BFLOAT16, np.float16, np.float32])
def test_rows_that_are_not_aligned(rng, dtype, few, transposed):
    """To 16 bytes: threads read the large operand where it is, along k or not; rings go round, edges are zeros."""
    length, k = 141, 603
    large, small = matrix(rng, dtype, length, k, transposed), matrix(rng, dtype, k, few, False)
    large[140, 602] = np.inf
    with np.errstate(invalid="ignore"):
        for a, b in ((large, small), (small.T, large.T)):
            c, expected = product(a, b), wide(a) @ wide(b)
            finite = np.isfinite(expected)
            np.testing.assert_array_equal(c[~finite], expected[~finite])
            kept = np.ix_(*[np.arange(n) if n == few else np.arange(n - 1) for n in c.shape])
            check(c[kept], *((a[:-1], b) if len(a) == length else (a, b[:, :-1])))


def test_an_address_that_is_not_aligned(rng):
    """And two batch dims, with rows that are."""
    memory = rng.standard_normal(2 * 3 * 136 * 72 + 1).astype(BFLOAT16)
    large, small = memory[1:].reshape(2, 3, 136, 72), rng.standard_normal((2, 1, 72, 9)).astype(BFLOAT16)
    check(product(large, small), large, small)


@pytest.mark.parametrize("dtype", [BFLOAT16, np.float32])
def test_one_row_that_has_no_stride(rng, portable, dtype):
    """As vectors have."""
    a, b = matrix(rng, dtype, 1, 600, False), matrix(rng, dtype, 600, 136, False)
    a = np.lib.stride_tricks.as_strided(a, strides=(0, a.itemsize))

    def compute():
        return product(a, b, out=np.full((1, 136), np.nan, np.float32))

    check(compute(), a, b)
    assert not np.array_equal(portable(compute), compute())


def test_rows_that_are_copied_first(rng):
    """No dim is contiguous."""
    a, b = matrix(rng, BFLOAT16, 20, 406, False)[:, ::2], matrix(rng, BFLOAT16, 203, 282, False)[:, ::2]
    check(product(a, b), a, b)


VECTORS = """
import numpy as np
from matmul_case import BFLOAT16, check, sim
rng = np.random.default_rng(3)
a, x, y = (rng.standard_normal(shape).astype(BFLOAT16) for shape in ((140, 136), 136, 140))
columns = (a, x), (a.T, y), (a, x[:, None])
for left, right in (*columns, (y, a), (x, a.T), (y[None], a), (y[None, :99], a[:99])):
    out = np.full((*left.shape[:-1], *right.shape[1:]), np.nan, BFLOAT16)
    sim.matmul(left, right, None, None, out, 1.0, 0.0, 0, 0.0, 0.0)
    check(out, left, right)
"""


@pytest.mark.skipif(
    not sim.__name__.endswith("_cuda_sim"), reason="the executor tells which kernels have run"
)
def test_vectors_are_read_where_they_lie(tmp_path):
    """The stride of their single row, which may be anything, is no reason to copy them."""
    log = tmp_path / "kernels.txt"
    settings = {
        "FASTDL_CUDA_MATMUL": "sm90_few",
        "FASTDL_SIMT_LOG": str(log),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-P", "-c", VECTORS], env=os.environ | settings, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    entered = log.read_text().splitlines()
    assert len(entered) == 1 and entered[0].startswith("gemm_few_sm90")


def test_rows_that_overlap(rng, portable):
    """Windows over a signal: the portable kernel's, and so its bits."""
    x = rng.standard_normal(1300).astype(BFLOAT16)
    windows = np.lib.stride_tricks.as_strided(x, (140, 136), (16, 2))
    b = matrix(rng, BFLOAT16, 136, 24, False)
    for left, right in ((windows, b), (b.T, windows.T), (windows[:9], b), (windows[:70], windows[:70].T)):

        def compute(left=left, right=right):
            return product(left, right, out=np.full((left.shape[0], right.shape[1]), np.nan, np.float32))

        c = compute()
        check(c, left, right)
        np.testing.assert_array_equal(portable(compute), c)


def test_batches(rng):
    """Two batch dims, one operand repeated along each; results with gaps between items; few rows, then few columns."""
    a = rng.standard_normal((3, 1, 10, 272)).astype(BFLOAT16)
    b = rng.standard_normal((1, 2, 272, 136)).astype(BFLOAT16)
    out = np.full((3, 2, 16, 136), np.nan, BFLOAT16)[:, :, :10]
    check(product(a, b, out=out), a, b)
    a, b = b.swapaxes(-1, -2), a.swapaxes(-1, -2)
    check(product(a, b), a, b)


def test_nan_and_infinities(rng):
    """They show in the rows and columns they belong to, and in no other: not those that fill up a tile, either."""
    a, b = matrix(rng, BFLOAT16, 150, 100, False), matrix(rng, BFLOAT16, 100, 5, False)
    a[149, 99], a[3, 5], b[7, 4] = np.inf, np.nan, -np.inf
    with np.errstate(invalid="ignore"):
        expected = wide(a) @ wide(b)
        for c, e in ((product(a, b), expected), (product(b.T, a.T), expected.T)):
            np.testing.assert_array_equal(np.isnan(c), np.isnan(e))
            np.testing.assert_array_equal(np.isposinf(wide(c)), np.isposinf(e))
            np.testing.assert_array_equal(np.isneginf(wide(c)), np.isneginf(e))
            finite = np.isfinite(e)
            np.testing.assert_allclose(wide(c)[finite], e[finite], rtol=2.0**-7, atol=2.0**-7)


@pytest.mark.parametrize("few", [3, 64, 100])
@pytest.mark.parametrize("transposed", list(itertools.product([False, True], repeat=2)))
def test_float32_transpositions(rng, few, transposed):
    length, k = 136, 72
    a, b = matrix(rng, np.float32, length, k, transposed[0]), matrix(rng, np.float32, k, few, transposed[1])
    check(product(a, b), a, b)
    a, b = matrix(rng, np.float32, few, k, transposed[0]), matrix(rng, np.float32, k, length, transposed[1])
    check(product(a, b), a, b)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("k", [17, 513])
def test_float32_is_as_accurate_as_multiply_adds(rng, name, k):
    a, b = (DISTRIBUTIONS[name](rng, shape).astype(np.float32) for shape in ((24, k), (k, 16)))
    assert error(product(a, b), a, b) <= 1.5 * max(error(a @ b, a, b), 2.0**-24)


@pytest.mark.parametrize("m, n", [(150, 7), (7, 150)])
def test_float32_ends_and_parts(rng, portable, m, n):
    """Clusters, and parts of them; bias, residual, activation. The same bits again, which are not the portable
    kernel's."""
    a, b = matrix(rng, np.float32, m, 4200, False), matrix(rng, np.float32, 4200, n, False)
    bias, residual = rng.standard_normal(n).astype(np.float32), rng.standard_normal((m, n)).astype(np.float32)

    def compute():
        return product(a, b, bias, residual, activation=RELU)

    c = compute()
    check(c, a, b, np.maximum(wide(a) @ wide(b) + wide(bias) + wide(residual), 0))
    np.testing.assert_array_equal(compute(), c)
    assert not np.array_equal(portable(compute), c)


def test_float32_values_that_cannot_be_split(rng):
    """In the large operand, in the few, and only in one block's part of k."""
    a, b = matrix(rng, np.float32, 140, 600, False), matrix(rng, np.float32, 600, 5, False)
    a[3, 5], a[7, 8], a[11, 590] = np.inf, np.nan, 3.4e38
    a[9] *= 1e-38
    with np.errstate(all="ignore"):
        for left, right in ((a, b), (b.T, a.T), (a, b * np.float32(1e-32)), (np.nan_to_num(a, posinf=1), b)):
            c, expected = product(left, right), (wide(left) @ wide(right)).astype(np.float32)
            np.testing.assert_array_equal(np.isnan(c), np.isnan(expected))
            scale = np.abs(np.nan_to_num(wide(left), posinf=0)) @ np.abs(wide(right))
            finite = np.isfinite(expected)
            np.testing.assert_array_equal(c[~finite], expected[~finite])
            assert (np.abs(c - expected)[finite] <= 2.0**-18 * scale[finite] + 1e-43).all()


def test_float32_batches(rng):
    """Two batch dims, one operand repeated along each; one item of the few with an infinity."""
    a, b = rng.standard_normal((2, 1, 10, 40)), rng.standard_normal((1, 3, 40, 136))
    a, b = a.astype(np.float32), b.astype(np.float32)
    a[1, 0, 2, 3] = np.inf
    with np.errstate(invalid="ignore"):
        for left, right in ((a, b), (b.swapaxes(-1, -2), a.swapaxes(-1, -2))):
            c, expected = product(left, right), wide(left) @ wide(right)
            np.testing.assert_array_equal(np.isfinite(c), np.isfinite(expected))
            finite = np.isfinite(expected)
            np.testing.assert_allclose(c[finite], expected[finite], rtol=1e-4, atol=1e-5)
