"""Linear layers against the references: layouts, activations, gradients."""

import numpy as np
import pytest
from gradcheck import gradcheck
from layouts import strided_variants
from references import activation as ref_act
from references import matmul as ref
from test_matmul import ACTIVATIONS, DTYPES, randn
from tolerance import assert_close_sum

import fastdl
import fastdl.nn.functional as F
from fastdl import _core, ops
from fastdl.ops.activation import resolve_activation


@pytest.mark.parametrize("lead", [(), (1,), (7,), (3, 5), (2, 0)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
def test_linear(lead, dtype, activation, isa, rng):
    x, w, b = randn(rng, (*lead, 19), dtype), randn(rng, (11, 19), dtype), randn(rng, 11, dtype)
    for weight, bias in ((w, b), (w, None), (w[0], None), (w[0], b[0])):
        bias = None if bias is None else np.asarray(bias)
        got = ops.linear(x, weight, bias, activation)
        expected = ref.linear(x, weight, bias, activation)
        scale = ref.matmul_abs(x, weight.T, bias=bias) * 1.2
        assert_close_sum(got, expected, scale, 19, extra=12.0)
        before = ref.linear(x, weight, bias)
        grad = randn(rng, got.shape, dtype)
        f = resolve_activation(activation)
        saved = None if activation is None else got if f.from_output else before.astype(dtype)
        z = grad if activation is None else grad * _derivative(activation, before)
        parts = ops.linear_backward(grad, x, weight, (True, True, True), activation, saved)
        dx, dw, db = ref.linear_backward(z, x, weight)
        scales = ref.linear_backward(np.abs(grad) * 1.2, np.abs(x), np.abs(weight))
        rows = int(np.prod(lead))
        for g, e, s, k in zip(parts, (dx, dw, db), scales, (11, rows, rows)):
            assert_close_sum(g, np.asarray(e), s, k, extra=40.0)


def _derivative(name, z):
    return getattr(ref_act, name + "_backward")(np.ones_like(z), z)


def test_linear_backward_layouts(isa, rng):
    x, w, grad = randn(rng, (4, 5, 6)), randn(rng, (7, 6)), randn(rng, (4, 5, 7))
    expected = ref.linear_backward(grad, x, w)
    scales = ref.linear_backward(np.abs(grad), np.abs(x), np.abs(w))
    for vx, vw, vg in zip(strided_variants(x), strided_variants(w), strided_variants(grad)):
        for g, e, s in zip(ops.linear_backward(vg[1], vx[1], vw[1]), expected, scales):
            assert_close_sum(g, e, s, 20)


def test_linear_backward_of_no_rows(rng):
    """Leading dimensions 0 and 3, in memory of other strides than those of a contiguous array: nothing is written."""
    guarded = np.full(64, 7.0)
    x, w, g = (
        rng.standard_normal((0, 6, 10))[:, ::2, ::2],
        rng.standard_normal((4, 5)),
        rng.standard_normal((0, 6, 8)),
    )
    dx = guarded[32:32].reshape(0, 3, 5)
    _core.linear_backward(g[:, ::2, ::2], None, x, w, dx, None, None, 0, 0.0, 0.0)
    assert (guarded == 7.0).all()
    _, dw, db = ops.linear_backward(g[:, ::2, ::2], x, w)
    assert not dw.any() and not db.any()


def test_functional_linear_gradients(rng):
    x, w, b = rng.standard_normal((4, 3)), rng.standard_normal((5, 3)), rng.standard_normal(5)
    for activation in (None, *ACTIVATIONS):
        gradcheck(lambda x, w, b, f=activation: F.linear(x, w, b, activation=f), x, w, b)
    gradcheck(lambda x, w: F.linear(x, w, activation="mish"), x, w)
    gradcheck(lambda x, w: F.linear(x, w), x, w[0])
    gradcheck(lambda x, w, b: F.linear(x, w, b), x[0], w, b)
    for wrt in ([0], [1], [2], [0, 2]):
        gradcheck(lambda x, w, b: F.linear(x, w, b, activation="gelu"), x, w, b, wrt=wrt)


def test_fused_activations_equal_those_afterwards(isa, rng):
    x, w, b = (fastdl.tensor(randn(rng, s)) for s in ((33, 40), (50, 40), (50,)))
    for name in ACTIVATIONS:
        fused = F.linear(x, w, b, activation=name).numpy()
        assert np.allclose(fused, getattr(F, name)(F.linear(x, w, b)).numpy(), rtol=1e-6, atol=1e-7)
