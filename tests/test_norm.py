"""Normalisation against the references, in every layout, on every ISA and thread count."""

import numpy as np
import pytest
from devices import thread_counts
from gradcheck import gradcheck
from layouts import strided_variants
from references import norm as ref
from tolerance import assert_same_bits, unit_roundoff

import fastdl
import fastdl.functional.norm as F
from fastdl import ops

SHAPES = [(2, 6), (5, 4, 1), (3, 12, 7), (2, 6, 5, 3), (4, 18, 17), (2, 2, 2, 3, 2)]


def close(got, expected, n, size=None):
    """Normalised values are of order `size` (1 unless given); n terms are summed on the way to each."""
    assert got.shape == expected.shape
    size = max(1.0, np.abs(expected).max(initial=0)) if size is None else size
    allowed = 4 * unit_roundoff(got.dtype) * (6 * np.sqrt(n) + 16) * size
    np.testing.assert_allclose(got, expected, rtol=0, atol=allowed)


def randn(rng, shape, dtype, mean=0.5):
    return (rng.standard_normal(shape) + mean).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 64, 257, 1000])
def test_layer_and_rms_norm(n, dtype, isa, rng):
    x, w, b = randn(rng, (3, 5, n), dtype), randn(rng, n, dtype), randn(rng, n, dtype)
    grad = randn(rng, x.shape, dtype)
    for weight, bias in ((w, b), (w, None), (None, None)):
        out, mean, rstd = ops.layer_norm(x, (n,), weight, bias, 1e-3)
        close(out, ref.layer_norm(x, (n,), weight, bias, 1e-3), n)
        got = ops.layer_norm_backward(grad, x, weight, mean, rstd, 1)
        for g, e in zip(got, ref.layer_norm_backward(grad, x, (n,), weight, 1e-3)):
            close(g, e, n + 15, 30 * max(1.0, np.abs(e).max()))
        out, rstd = ops.rms_norm(x, (n,), weight, 1e-3)
        close(out, ref.rms_norm(x, (n,), weight, 1e-3), n)
        got = ops.rms_norm_backward(grad, x, weight, rstd, 1)
        for g, e in zip(got, ref.rms_norm_backward(grad, x, (n,), weight, 1e-3)):
            close(g, e, n + 15, 30 * max(1.0, np.abs(e).max()))


def test_layer_norm_over_several_dimensions(rng):
    x = randn(rng, (4, 3, 5, 7), np.float32)
    w, b = randn(rng, (5, 7), np.float32), randn(rng, (5, 7), np.float32)
    close(ops.layer_norm(x, (5, 7), w, b)[0], ref.layer_norm(x, (5, 7), w, b), 35)
    close(ops.layer_norm(x, x.shape)[0], ref.layer_norm(x, x.shape), x.size)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_batch_norm(shape, dtype, isa, rng):
    c = shape[1]
    x, grad = randn(rng, shape, dtype), randn(rng, shape, dtype)
    w, b = randn(rng, c, dtype), randn(rng, c, dtype)
    rm, rv = randn(rng, c, dtype), np.abs(randn(rng, c, dtype)) + 0.5
    n = x.size // c
    for training, weight, bias in ((True, w, b), (True, None, None), (False, w, b)):
        m, v = rm.copy(), rv.copy()
        out, mean, rstd = ops.batch_norm(x, m, v, weight, bias, training, 0.3, 1e-3)
        expected, em, ev = ref.batch_norm(x, rm, rv, weight, bias, training, 0.3, 1e-3)
        close(out, expected, n)
        close(m, em, n)
        close(v, ev, n)
        got = ops.batch_norm_backward(grad, x, weight, mean, rstd, training)
        for g, e in zip(got, ref.batch_norm_backward(grad, x, rm, rv, weight, training, 1e-3)):
            close(g, e, n, 30 * max(1.0, np.abs(e).max()))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_group_norm(shape, dtype, isa, rng):
    c = shape[1]
    x, grad = randn(rng, shape, dtype), randn(rng, shape, dtype)
    w, b = randn(rng, c, dtype), randn(rng, c, dtype)
    n = x.size // shape[0]
    for groups in {1, 2, c}:
        for weight, bias in ((w, b), (None, None)):
            out, mean, rstd = ops.group_norm(x, groups, weight, bias, 1e-2)
            close(out, ref.group_norm(x, groups, weight, bias, 1e-2), n)
            got = ops.group_norm_backward(grad, x, weight, mean, rstd, groups)
            for g, e in zip(got, ref.group_norm_backward(grad, x, groups, weight, 1e-2)):
                close(g, e, n, 100 * max(1.0, np.abs(e).max()))


def test_far_from_zero(isa, rng):
    """The mean is subtracted before squares are taken: a large common offset costs only its own rounding."""
    x = (rng.standard_normal((64, 5, 9)) + 1000).astype(np.float32)
    allowed = 1000 * unit_roundoff(np.float32) * 8
    for got, expected in (
        (ops.batch_norm(x, None, None, training=True)[0], ref.batch_norm(x, None, None, training=True)[0]),
        (ops.group_norm(x, 1)[0], ref.group_norm(x, 1)),
        (ops.layer_norm(x, (5, 9))[0], ref.layer_norm(x, (5, 9))),
    ):
        np.testing.assert_allclose(got, expected, rtol=0, atol=allowed)


def test_layouts(rng):
    x = randn(rng, (3, 6, 5, 4), np.float32)
    w, b = randn(rng, 6, np.float32), randn(rng, 6, np.float32)
    grad = randn(rng, x.shape, np.float32)

    def run(x, grad):
        out1, m1, r1 = ops.batch_norm(x, None, None, w, b, True)
        out2, m2, r2 = ops.group_norm(x, 3, w, b)
        out3, m3, r3 = ops.layer_norm(x, (5, 4))
        return [
            *(out1, out2, out3),
            *ops.batch_norm_backward(grad, x, w, m1, r1, True),
            *ops.group_norm_backward(grad, x, w, m2, r2, 3),
            *ops.layer_norm_backward(grad, x, None, m3, r3, 2),
        ]

    expected = run(x, grad)
    for (_, xv), (_, gv) in zip(strided_variants(x), strided_variants(grad)):
        for a, e in zip(run(xv, gv), expected):
            assert_same_bits(a, e)


def test_same_bits_for_any_thread_count(rng):
    x = randn(rng, (9, 40, 23, 19), np.float32)
    rows = randn(rng, (700, 300), np.float32)
    before = fastdl._core.get_num_threads()
    results = []
    for n in thread_counts():
        fastdl._core.set_num_threads(n)
        out, mean, rstd = ops.batch_norm(x, None, None, training=True)
        group = ops.group_norm(x, 4)
        layer = ops.layer_norm(rows, (300,))
        results.append(
            [
                out,
                group[0],
                layer[0],
                *ops.batch_norm_backward(out, x, None, mean, rstd, True),
                *ops.group_norm_backward(out, x, None, *group[1:], 4),
                *ops.layer_norm_backward(rows, rows, None, *layer[1:], 1),
            ]
        )
    fastdl._core.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(other, results[0]):
            assert_same_bits(a, b)


def test_nan_stays_in_its_row_and_channel():
    x = np.ones((3, 4, 5), np.float32)
    x[1, 2, 3] = np.nan
    assert np.isnan(ops.layer_norm(x, (5,))[0][1, 2]).all()
    assert np.isnan(ops.layer_norm(x, (5,))[0]).sum() == 5
    assert np.isnan(ops.batch_norm(x, None, None, training=True)[0]).sum() == 15
    assert np.isnan(ops.group_norm(x, 2)[0]).sum() == 10


def test_empty():
    assert ops.layer_norm(np.empty((0, 4), np.float32), (4,))[0].shape == (0, 4)
    assert ops.group_norm(np.empty((0, 4, 3), np.float32), 2)[0].shape == (0, 4, 3)
    x = np.empty((0, 4, 3), np.float32)
    mean, var = np.zeros(4, np.float32), np.ones(4, np.float32)
    assert ops.batch_norm(x, mean, var)[0].shape == (0, 4, 3)
    out, m, r = ops.layer_norm(np.empty((0, 4)), (4,))
    assert ops.layer_norm_backward(out, out, None, m, r, 1)[1].tolist() == [0.0] * 4


def test_gradients(rng):
    x, w, b = rng.standard_normal((3, 4, 5)), rng.standard_normal(4), rng.standard_normal(4)
    w5, b5 = rng.standard_normal(5), rng.standard_normal(5)
    gradcheck(lambda x, w, b: F.layer_norm(x, (5,), w, b), x, w5, b5)
    gradcheck(lambda x: F.layer_norm(x, (4, 5)), x)
    gradcheck(lambda x, w: F.rms_norm(x, (5,), w), x, w5)
    gradcheck(lambda x, w, b: F.group_norm(x, 2, w, b), x, w, b)
    gradcheck(lambda x, w, b: F.instance_norm(x, weight=w, bias=b), x, w, b)
    gradcheck(lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True), x, w, b)
    mean, var = fastdl.tensor(rng.standard_normal(4)), fastdl.tensor(rng.random(4) + 0.5)
    gradcheck(lambda x, w, b: F.batch_norm(x, mean, var, w, b), x, w, b)


def test_instance_norm_running_statistics(rng):
    x = randn(rng, (3, 4, 6), np.float32)
    mean, var = fastdl.zeros(4), fastdl.ones(4)
    F.instance_norm(fastdl.tensor(x), mean, var, momentum=0.25)
    em, ev = ref.instance_norm_running(x, np.zeros(4), np.ones(4), 0.25)
    close(mean.numpy(), em, 18)
    close(var.numpy(), ev, 18)


def test_bad_input():
    x = np.zeros((2, 4, 3), np.float32)
    with pytest.raises(ValueError, match="normalized_shape"):
        ops.layer_norm(x, (4,))
    with pytest.raises(ValueError, match="weight of shape"):
        ops.layer_norm(x, (3,), np.zeros(4, np.float32))
    with pytest.raises(TypeError, match="float64"):
        ops.layer_norm(x, (3,), np.zeros(3, np.float64))
    with pytest.raises(ValueError, match="must divide"):
        ops.group_norm(x, 3)
    with pytest.raises(ValueError, match="running_mean"):
        ops.batch_norm(x, None, None)
    with pytest.raises(ValueError, match="more than 1 value"):
        ops.batch_norm(x[:1, :, :1], None, None, training=True)
    with pytest.raises(ValueError, match="weight of shape"):
        ops.batch_norm(x, None, None, np.zeros(3, np.float32), training=True)
    mean = np.zeros(4, np.float32)
    mean.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        ops.batch_norm(x, mean, np.ones(4, np.float32), training=True)
    with pytest.raises(TypeError, match="expected x to be float32"):
        ops.layer_norm(np.zeros((2, 3), np.int32), (3,))
