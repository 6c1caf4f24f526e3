"""Arithmetic on two operands, and outputs that are too large for the cache."""

import ml_dtypes
import numpy as np
import pytest
from tolerance import assert_same_bits

from fastdl import _core, ops

BF16 = np.dtype(ml_dtypes.bfloat16)
KINDS = {0: np.add, 1: np.subtract, 2: np.multiply, 3: np.divide}
DTYPES = [np.float32, np.float64, BF16, np.float16]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
def test_against_numpy(isa, kind, dtype, rng):
    wide = np.float64 if dtype == np.float64 else np.float32
    for shape in [(), (0,), (1,), (17,), (3, 5, 70), (33_000,)]:
        a, b = (rng.normal(size=shape).astype(dtype) for _ in range(2))
        with np.errstate(all="ignore"):
            expected = KINDS[kind](a.astype(wide), b.astype(wide)).astype(dtype)
            by_number = KINDS[kind](a.astype(wide), wide(1.25)).astype(dtype)
        out = np.full(shape, np.nan, dtype)
        _core.arithmetic(a, b, 0.0, out, kind)
        assert_same_bits(out, expected)
        _core.arithmetic(a, None, 1.25, out, kind)
        assert_same_bits(out, by_number)
        if len(shape) == 3:
            _core.arithmetic(a.T, b.T, 0.0, out.T, kind)
            assert_same_bits(out, expected)
            _core.arithmetic(a, b, 0.0, a, kind)
            assert_same_bits(a, expected)


def test_refuses():
    a = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match="shape"):
        _core.arithmetic(a, a[:2], 0.0, a, 0)
    with pytest.raises(TypeError, match="like the other operands"):
        _core.arithmetic(a, a.astype(np.float64), 0.0, a, 0)
    with pytest.raises(ValueError, match="kind"):
        _core.arithmetic(a, a, 0.0, a, 4)


@pytest.mark.parametrize("offset", [0, 1, 16])  # elements from where a line of the cache begins
def test_large_outputs_are_their_parts_put_together(offset, rng):
    n, parts = 1000, 12
    rows = parts * 400  # 19 MB, past half of a 32 MiB cache
    x, g = (
        rng.standard_normal(rows * n + 16, np.float32)[offset:][: rows * n].reshape(rows, n) for _ in "xg"
    )
    labels = rng.integers(0, n, rows)
    w, b = rng.standard_normal((2, n), np.float32)
    mean, rstd = (rng.uniform(0.5, 2, n).astype(np.float32) for _ in range(2))

    def each(f):
        whole = np.full(rows * n + 16, np.nan, np.float32)[offset:][: rows * n].reshape(rows, n)
        apart = np.full((rows, n), np.nan, np.float32)
        f(slice(None), whole)
        for i in range(parts):
            part = slice(i * 400, (i + 1) * 400)
            f(part, apart[part])
        assert_same_bits(whole, apart)

    each(lambda s, out: _core.activation_forward(x[s], out, ops.resolve_activation("gelu").kind, 0.0, 0.0))
    each(lambda s, out: _core.activation_backward(g[s], x[s], out, 1, 0.0, 0.0, True))
    each(lambda s, out: _core.arithmetic(x[s], g[s], 0.0, out, 2))
    each(lambda s, out: _core.softmax_forward(x[s], out, -1, 0))
    each(lambda s, out: _core.softmax_backward(g[s], x[s], out, -1, 1))
    some = np.empty((2, rows), np.float32)
    each(lambda s, out: _core.layer_norm_forward(x[s], w, b, out, *some[:, s].copy(), 1, 1e-5))
    one = np.ones((2, rows), np.float32)
    each(lambda s, out: _core.layer_norm_backward(g[s], x[s], w, one[0, s], one[1, s], out, None, None, 1))
    each(lambda s, out: _core.batch_norm_backward(g[s], x[s], w, mean, rstd, out, None, None, 0))
    loss = np.empty((), np.float32)
    each(lambda s, out: _core.cross_entropy(x[s], labels[s], None, loss, out, 2, -100, 0.0))
