"""Convolution of bfloat16 tensors: the float32 result of the widened operands, rounded once, on every ISA."""

import ml_dtypes
import numpy as np
import pytest
from layouts import strided_variants
from references import activation as act_ref
from references import conv as ref
from test_conv import CASES, TRANSPOSES
from tolerance import assert_same_bits, assert_same_non_finite

import fastdl
from fastdl import ops

bfloat16 = ml_dtypes.bfloat16


def assert_rounded_once(got, exact, size, terms):
    """Half a unit in the last place of bfloat16, and what a float32 sum may be off."""
    assert got.dtype == bfloat16
    error = np.abs(got.astype(np.float64) - exact)
    allowed = np.abs(exact) * 2.0**-8 + (np.sqrt(terms) + 4) * 2.0**-23 * size + 1e-38
    assert np.all(error <= allowed), (error / allowed).max()


def operands(case, transposed, rng):
    x, w, options = case
    out = w[1] * options.get("groups", 1) if transposed else w[0]
    return (*(rng.standard_normal(s).astype(bfloat16) for s in (x, w, (out,))), options)


def check(case, transposed, rng, activation=None, layout=lambda a: a):
    forward, backward = (
        (ops.conv_transpose, ops.conv_transpose_backward) if transposed else (ops.conv, ops.conv_backward)
    )
    ref_forward = ref.conv_transpose if transposed else ref.conv
    ref_backward = ref.conv_transpose_backward if transposed else ref.conv_backward
    x, w, b, options = operands(case, transposed, rng)
    wide = [a.astype(np.float64) for a in (x, w, b)]
    z, size = ref_forward(*wide, **options), ref_forward(*(np.abs(a) for a in wide), **options)
    r = rng.standard_normal(z.shape).astype(bfloat16)
    z, size = z + r.astype(np.float64), size + np.abs(r.astype(np.float64))
    y = forward(layout(x), layout(w), layout(b), **options, residual=layout(r), activation=activation)
    expected = z if activation is None else getattr(act_ref, activation)(z)
    assert_rounded_once(y, expected, 1.2 * size, w[0].size + 2)

    grad = rng.standard_normal(z.shape).astype(bfloat16)
    saved, through = None, grad.astype(np.float64)
    if activation == "relu":
        saved = layout(y)
        through = through * (y.astype(np.float64) > 0)
    got = backward(layout(grad), layout(x), layout(w), **options, activation=activation, saved=saved)
    exact = ref_backward(through, *wide[:2], **options)
    sizes = ref_backward(*(np.abs(a) for a in (through, *wide[:2])), **options)
    count = grad.size // grad.shape[-w.ndim + 1]
    for g, e, s, k in zip(got, exact, sizes, (w[:, 0].size * 4, count, count), strict=True):
        assert_rounded_once(g, e, s, k)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_conv(case, isa, rng):
    check(case, False, rng)


@pytest.mark.parametrize("case", TRANSPOSES, ids=str)
def test_conv_transpose(case, isa, rng):
    check(case, True, rng)


@pytest.mark.parametrize("index", [0, 1, 2, 3, 7, 8])
def test_relu_and_its_mask(index, rng):
    check(CASES[index], False, rng, "relu")


@pytest.mark.parametrize(
    "options", [{"padding": 1}, {"padding": (2, 1), "stride": (2, 1), "dilation": (1, 2)}]
)
def test_one_channel(options, isa, rng):
    check(((2, 1, 11, 14), (21, 1, 3, 3), options), False, rng)
    check(((2, 1, 11, 14), (40, 1, 3, 3), options), False, rng, "relu")


@pytest.mark.parametrize("index", [0, 2, 8, 9, 15])
def test_layouts(index, rng):
    for name, _ in strided_variants(np.zeros((2, 3, 4, 4), bfloat16)):

        def layout(a, name=name):
            return dict(strided_variants(a)).get(name, a)

        check(CASES[index], False, rng, "relu", layout)


@pytest.mark.parametrize("index", [1, 2])
def test_other_activations_are_rounded_once(index, rng):
    x, w, b, options = operands(CASES[index], False, rng)
    wide = [a.astype(np.float64) for a in (x, w, b)]
    z, size = ref.conv(*wide, **options), ref.conv(*(np.abs(a) for a in wide), **options)
    y = ops.conv(x, w, b, **options, activation="gelu")
    assert_rounded_once(y, act_ref.gelu(z), 1.2 * size, w[0].size)


@pytest.mark.parametrize("index", [1, 2, 5, 9])
def test_same_bits_for_any_number_of_threads(index, rng):
    x, w, b, options = operands(CASES[index], False, rng)
    x = np.concatenate([x] * 6)
    results = []
    before = fastdl.get_num_threads()
    for threads in (1, 2, 3, 7):
        fastdl.set_num_threads(threads)
        y = ops.conv(x, w, b, **options)
        results.append([y, *ops.conv_backward(y, x, w, **options)])
    fastdl.set_num_threads(before)
    for other in results[1:]:
        for p, q in zip(results[0], other, strict=True):
            assert_same_bits(p.view(np.uint16), q.view(np.uint16))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", range(3))
def test_nan_and_inf_reach_what_they_take_part_in(value, where, isa, rng):
    for x_shape, w_shape, options in [
        ((2, 3, 8, 9), (5, 3, 3, 3), {"padding": 1}),
        ((2, 8, 4, 5), (8, 8, 3, 3), {"padding": 2, "stride": 2}),
        ((2, 16, 9, 9), (16, 16, 3, 3), {"padding": 1}),
    ]:
        x, w = rng.standard_normal(x_shape).astype(bfloat16), rng.standard_normal(w_shape).astype(bfloat16)
        grad = rng.standard_normal(ops.conv(x, w, **options).shape).astype(bfloat16)
        (x, w, grad)[where].flat[7] = value
        wide = [a.astype(np.float64) for a in (grad, x, w)]
        with np.errstate(invalid="ignore"):
            got = [ops.conv(x, w, **options), *ops.conv_backward(grad, x, w, **options)]
            expected = [ref.conv(*wide[1:], **options), *ref.conv_backward(*wide, **options)]
        for g, e in zip(got, expected, strict=True):
            assert_same_non_finite(g, e)


def test_empty(isa):
    w = np.ones((5, 3, 3, 3), bfloat16)
    x = np.ones((0, 3, 7, 7), bfloat16)
    y = ops.conv(x, w, padding=1)
    assert y.shape == (0, 5, 7, 7)
    dx, dw, db = ops.conv_backward(y, x, w, padding=1)
    assert dx.shape == x.shape and not dw.astype(np.float32).any() and not db.astype(np.float32).any()
    bias = np.arange(5).astype(bfloat16)
    y = ops.conv(np.ones((2, 0, 7, 7), bfloat16), np.ones((5, 0, 3, 3), bfloat16), bias)
    np.testing.assert_array_equal(
        y.astype(np.float32), np.broadcast_to(np.arange(5.0)[:, None, None], (2, 5, 5, 5))
    )
