"""Dropout against the reference generator, in every layout, on every ISA and thread count."""

import numpy as np
import pytest
from devices import thread_counts
from gradcheck import gradcheck
from layouts import strided_variants
from references import dropout as ref
from tolerance import assert_same_bits

import fastdl
import fastdl.nn.functional as F
from fastdl import ops


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [0, 1, 3, 4, 5, 127, 128, 129, 1000])
def test_mask(n, dtype, isa, rng):
    x = rng.standard_normal(n).astype(dtype)
    for p, seed, offset in (
        (0.3, 7, 11),
        (0.5, 2**63 + 5, 2**40 - 3),
        (0.0, 1, 0),
        (1.0, 1, 0),
        (0.9, 1, 2**64 - 2),
    ):
        expected = ref.dropout(x, p, seed, offset)
        np.testing.assert_allclose(ops.dropout(x, p, seed, offset), expected, rtol=2 * np.finfo(dtype).eps)
        assert (
            (ops.dropout_mask((n,), p, seed, offset) == 0) == ~ref.dropout_keep((n,), p, seed, offset)
        ).all()


def test_layouts_share_the_mask(rng):
    x = rng.standard_normal((3, 5, 6, 7)).astype(np.float32)
    expected = ops.dropout(x, 0.4, 3, 5)
    for _, variant in strided_variants(x):
        assert_same_bits(ops.dropout(variant, 0.4, 3, 5), expected)


def test_same_bits_for_any_thread_count(rng):
    x = rng.standard_normal(300_001).astype(np.float32)
    before = fastdl._core.get_num_threads()
    results = []
    for n in thread_counts():
        fastdl._core.set_num_threads(n)
        results.append(ops.dropout(x, 0.5, 1, 2))
    fastdl._core.set_num_threads(before)
    for other in results[1:]:
        assert_same_bits(other, results[0])


def test_dropped_nan_is_zero(isa):
    out = ops.dropout(np.full(64, np.nan, np.float32), 0.5, 1)
    assert np.isnan(out).sum() + (out == 0).sum() == 64 and (out == 0).any()


def test_gradients(rng):
    x = rng.standard_normal((2, 3, 4, 5))

    def seeded(function):
        def call(x):
            fastdl.manual_seed(5)
            return function(x)

        return call

    for function in (
        lambda x: F.dropout(x, 0.3),
        lambda x: F.dropout2d(x, 0.3),
        lambda x: F.dropout3d(x, 0.3),
        lambda x: F.dropout1d(x[0], 0.3),
        lambda x: F.alpha_dropout(x, 0.3, training=True),
        lambda x: F.feature_alpha_dropout(x, 0.3, training=True),
    ):
        gradcheck(seeded(function), x)


def test_statistics():
    fastdl.manual_seed(0)
    x = fastdl.randn(200_000)
    y = F.dropout(x, 0.25)
    dropped = (y.numpy() == 0).mean()
    assert abs(dropped - 0.25) < 6 * np.sqrt(0.25 * 0.75 / 200_000)
    z = F.alpha_dropout(x, 0.25, training=True).numpy()
    assert abs(z.mean()) < 0.02 and abs(z.var() - 1) < 0.02


def test_seed_and_calls():
    x = fastdl.ones(64)
    fastdl.manual_seed(3)
    a, b = F.dropout(x), F.dropout(x)
    fastdl.manual_seed(3)
    assert fastdl.equal(F.dropout(x), a) and not fastdl.equal(a, b)


def test_channels_are_dropped_whole():
    y = F.dropout2d(fastdl.ones(8, 16, 3, 5), 0.5).numpy()
    per_channel = y.reshape(8, 16, 15)
    assert (per_channel == per_channel[..., :1]).all() and set(np.unique(y)) == {0.0, 2.0}
    y = F.dropout1d(fastdl.ones(16, 9), 0.5).numpy()
    assert (y == y[:, :1]).all()


def test_evaluation_returns_the_input():
    x = fastdl.ones(3)
    assert F.dropout(x, 0.5, training=False) is x
    assert F.dropout(x, 0.5, training=True, inplace=True) is x and set(x.tolist()) <= {0.0, 2.0}


def test_bad_input():
    for p in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="probability"):
            F.dropout(fastdl.ones(3), p)
        with pytest.raises(ValueError, match="probability"):
            ops.dropout(np.ones(3, np.float32), p, 1)
    with pytest.raises(TypeError, match="expected x to be float32"):
        ops.dropout(np.ones(3, np.int32), 0.5, 1)
    with pytest.raises(ValueError, match="dropout2d"):
        F.dropout2d(fastdl.ones(3), 0.5)
