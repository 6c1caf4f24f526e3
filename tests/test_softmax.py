"""Softmax and its relatives against the references, along every dim, in every layout, ISA and thread count."""

import importlib
import math

import numpy as np
import pytest
from gradcheck import gradcheck
from layouts import strided_variants
from references import softmax as ref
from tolerance import assert_close, assert_same_bits, unit_roundoff

import fastdl
import fastdl.nn.functional as F
from fastdl import _core

ops = importlib.import_module("fastdl.ops.softmax")  # as an attribute the name may be a function

NAMES = ["softmax", "log_softmax", "softmin"]
# Rows of every length around the vectors; columns around the blocks of four vectors of 4, 8 and 16 lanes.
SHAPES = [(3, n) for n in (1, 2, 7, 8, 15, 16, 17, 63, 64, 65, 259)] + [
    (7, 3, 1), (2, 5, 15), (2, 3, 17), (1, 4, 64), (2, 3, 65), (3, 2, 5, 7), (0, 3), (3, 0), (1, 20_001),
]  # fmt: skip


def check(name, got, expected, x, dim):
    """Both errors grow with the spread of the row (the argument of the exponential is rounded) and the sum."""
    n = max(x.shape[dim], 1)
    spread = np.abs(x).max(initial=1) * 2
    rounding = unit_roundoff(got.dtype) * (spread + 6 * math.sqrt(n) + 8)
    assert got.shape == expected.shape
    if name == "log_softmax":
        np.testing.assert_allclose(got, expected, rtol=0, atol=2 * rounding)
    else:
        np.testing.assert_allclose(got, expected, rtol=2 * rounding, atol=1e-38)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", NAMES)
def test_against_reference(name, dtype, isa, rng):
    for shape in SHAPES:
        x = (3 * rng.standard_normal(shape)).astype(dtype)
        g = rng.standard_normal(shape).astype(dtype)
        for dim in range(-1, len(shape) - 1):
            y = getattr(ops, name)(x, dim)
            check(name, y, getattr(ref, name)(x, dim), x, dim)
            expected = getattr(ref, name + "_backward")(g, x, dim)
            got = getattr(ops, name + "_backward")(g, y, dim)
            n = x.shape[dim] if x.size else 1
            scale = (np.abs(g) * np.abs(np.exp(y) if name == "log_softmax" else y)).sum(dim, keepdims=True)
            scale = np.abs(g) + np.abs(g).sum(dim, keepdims=True) + scale
            assert_close(got, expected, rtol_u=40 + 12 * math.sqrt(n), scale=scale)


@pytest.mark.parametrize("name", NAMES)
def test_layouts(name, rng):
    x = rng.standard_normal((3, 5, 4, 6)).astype(np.float32)
    g = rng.standard_normal(x.shape).astype(np.float32)
    for dim in range(4):
        y = getattr(ops, name)(x, dim)
        grad = getattr(ops, name + "_backward")(g, y, dim)
        for _, v in strided_variants(x):
            np.testing.assert_allclose(getattr(ops, name)(v, dim), y, rtol=2e-6, atol=1e-6)
        for _, v in strided_variants(y):
            np.testing.assert_allclose(
                getattr(ops, name + "_backward")(g, v, dim), grad, rtol=2e-6, atol=1e-6
            )
    channels_last = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    assert getattr(ops, name)(channels_last, 1).strides == channels_last.strides


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(700, 65), (3, 40_000), (3, 50, 700)])
def test_threads_give_the_same_bits(name, shape, threads, rng):
    x, g = rng.standard_normal(shape).astype(np.float32), rng.standard_normal(shape).astype(np.float32)
    y = getattr(ops, name)(x, 1)
    d = getattr(ops, name + "_backward")(g, y, 1)
    _core.set_num_threads(1)
    assert_same_bits(y, getattr(ops, name)(x, 1))
    assert_same_bits(d, getattr(ops, name + "_backward")(g, y, 1))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [3, 40])
def test_special_rows(name, n, isa):
    x = np.zeros((6, n), np.float32)
    x[1, 0], x[2, 1], x[3, 2], x[4, :] = np.nan, np.inf, -np.inf, -np.inf
    x[5] = np.linspace(-1e38, 1e38, n)
    for array, dim in ((x, 1), (np.ascontiguousarray(x.T), 0)):
        got, expected = getattr(ops, name)(array, dim), getattr(ref, name)(array, dim)
        assert (np.isnan(got) == np.isnan(expected)).all()
        finite = np.isfinite(expected)
        np.testing.assert_allclose(got[finite], expected[finite], rtol=1e-6)
        assert (got[np.isinf(expected)] == expected[np.isinf(expected)]).all()


@pytest.mark.parametrize("name", NAMES)
def test_gradients_and_calls(name, rng):
    function = getattr(F, name)
    x = rng.standard_normal((3, 4, 2))
    for dim in (0, 1, -1):
        gradcheck(lambda t, dim=dim: function(t, dim), x)
    t = fastdl.tensor(x)
    np.testing.assert_allclose(
        function(t, dim=1, dtype=fastdl.float32).numpy(), getattr(ref, name)(x, 1), rtol=1e-5
    )
    np.testing.assert_allclose(function(t).numpy(), getattr(ref, name)(x, 0))  # torch's implicit dim
    assert function(fastdl.tensor(2.0), 0).tolist() == (0.0 if name == "log_softmax" else 1.0)


def test_errors():
    with pytest.raises(IndexError, match="dim 2"):
        ops.softmax(np.zeros((2, 3)), 2)
    with pytest.raises(TypeError, match="int64"):
        ops.softmax(np.zeros((2, 3), np.int64))
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        ops.softmax_backward(np.zeros((2, 2)), np.zeros((2, 3)))
    out = np.zeros((2, 3), np.float32)
    with pytest.raises(TypeError, match="out"):
        _core.softmax_forward(np.zeros((2, 3)), out, 0, 0)
