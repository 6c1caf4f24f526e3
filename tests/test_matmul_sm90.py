"""Hopper's matrix products (csrc/cuda/matmul_sm90.cuh): every shape is sent to that kernel and compared with float64.
On the host executor where it was built (FASTDL_SIMT=ON), on a GPU of compute capability 9.0 with ``--device cuda``."""

import itertools

import devices
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

sm90, portable = kernel_choice("FASTDL_CUDA_MATMUL")


@pytest.mark.parametrize("transposed", list(itertools.product([False, True], repeat=2)))
@pytest.mark.parametrize("dtype", [BFLOAT16, np.float16, np.float32])
def test_transpositions(rng, dtype, transposed):
    # Three tiles down and two across with edges of both, k of three stages and a part.
    m, n, k = (264, 136, 200) if dtype != np.float32 else (136, 136, 72)
    a, b = matrix(rng, dtype, m, k, transposed[0]), matrix(rng, dtype, k, n, transposed[1])
    check(product(a, b), a, b)


@pytest.mark.parametrize(
    "m, n, k", [(1, 1, 1), (8, 8, 8), (65, 3, 70), (130, 300, 65), (128, 256, 64), (129, 257, 1)]
)
def test_odd_sizes(rng, m, n, k):
    a, b = matrix(rng, BFLOAT16, m, k, False), matrix(rng, BFLOAT16, k, n, False)
    check(product(a, b), a, b)


def test_many_tiles_and_stages(rng):
    """More tiles than blocks, and more steps than stages: rings go round, across tiles too."""
    a, b = matrix(rng, BFLOAT16, 384, 448, False), matrix(rng, BFLOAT16, 448, 640, True)
    c = product(a, b)
    check(c, a, b)
    np.testing.assert_array_equal(product(a, b), c)


@pytest.mark.parametrize("dtype", [BFLOAT16, np.float32])
def test_parts_along_k(rng, portable, dtype):
    a, b = matrix(rng, dtype, 100, 2100, False), matrix(rng, dtype, 2100, 40, False)
    bias, residual = rng.standard_normal(40).astype(dtype), rng.standard_normal((100, 40)).astype(dtype)
    c = product(a, b, bias, residual)
    check(c, a, b, wide(a) @ wide(b) + wide(bias) + wide(residual))
    np.testing.assert_array_equal(product(a, b, bias, residual), c)


@pytest.mark.parametrize("activation", [NONE, RELU, GELU])
@pytest.mark.parametrize("n", [136, 67])
def test_ends(rng, portable, activation, n):
    """The end that the copy engine stores, and the other."""
    check_end(rng, portable, activation, 140, n, k=64)


@pytest.mark.parametrize("beta", [0.0, 2.0])
def test_out_of_every_layout(rng, beta):
    check_out_of_every_layout(rng, beta, k=64, n=72)


def test_a_row_that_ends_within_16_bytes(rng):
    """The copy engine stores whole chunks of 16 bytes: what lies behind the row has to stay."""
    a, b = matrix(rng, BFLOAT16, 70, 64, False), matrix(rng, BFLOAT16, 64, 68, True)
    whole = rng.standard_normal((70, 80)).astype(BFLOAT16)
    behind = whole[:, 76:].copy()
    out = whole[:, 8:76]
    check(product(a, b, out=out), a, b)
    np.testing.assert_array_equal(whole[:, 76:], behind)


def test_batches(rng):
    """Two batch dims, one operand repeated along each; results with gaps between items."""
    a = rng.standard_normal((3, 1, 40, 72)).astype(BFLOAT16)
    b = rng.standard_normal((1, 2, 72, 136)).astype(BFLOAT16)
    out = np.full((3, 2, 48, 136), np.nan, BFLOAT16)[:, :, :40]
    check(product(a, b, out=out), a, b)


def test_float32_batches(rng):
    a = rng.standard_normal((2, 1, 20, 40)).astype(np.float32)
    b = rng.standard_normal((2, 40, 24)).astype(np.float32)
    a[1, 0, 3, 4] = np.inf
    c, expected = product(a, b), wide(a) @ wide(b)
    np.testing.assert_array_equal(np.isnan(c), np.isnan(expected))
    np.testing.assert_allclose(c[0], expected[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("k", [17, 513])
def test_float32_is_as_accurate_as_multiply_adds(rng, name, k):
    a, b = (DISTRIBUTIONS[name](rng, shape).astype(np.float32) for shape in ((24, k), (k, 16)))
    assert error(product(a, b), a, b) <= 1.5 * max(error(a @ b, a, b), 2.0**-24)


def test_high_precision(rng):
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((24, 300), (300, 16)))
    highest = product(a, b)
    sim.set_float32_precision(1)
    try:
        high = product(a, b)
    finally:
        sim.set_float32_precision(0)
    assert error(highest, a, b) < error(high, a, b) <= 2.0**-15


def test_values_that_cannot_be_split(rng):
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((140, 64), (64, 24)))
    a[3, 5], a[7, 8], a[11, 2], b[5, 4] = np.inf, np.nan, 3.4e38, 0
    a[9] *= 1e-38
    b[:, 20] *= 1e-40
    with np.errstate(all="ignore"):
        expected = (wide(a) @ wide(b)).astype(np.float32)
        c = product(a, b)
    np.testing.assert_array_equal(np.isnan(c), np.isnan(expected))
    ordinary = np.delete(np.arange(140), [3, 7, 9, 11])
    check(np.delete(c[ordinary], 20, 1), a[ordinary], np.delete(b, 20, 1))
    np.testing.assert_allclose(c[[3, 7, 9, 11]], expected[[3, 7, 9, 11]], rtol=1e-4, atol=1e-43)
    np.testing.assert_allclose(c[:, 20], expected[:, 20], rtol=1e-4, atol=1e-43)


@pytest.mark.skipif(sim is devices.core, reason="takes a driver that is too old")
def test_a_driver_without_tensor_maps_gets_the_portable_kernel(rng, portable, monkeypatch):
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((70, 300), (300, 72)))
    expected = portable(lambda: product(a, b))
    assert not np.array_equal(product(a, b), expected)  # its sums are in another order
    monkeypatch.setenv("FASTDL_SIMT_NO_TENSOR_MAPS", "1")
    np.testing.assert_array_equal(product(a, b), expected)
