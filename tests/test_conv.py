"""Convolution, its transpose and their gradients against the references, in every layout, on every ISA and thread
count.
"""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from devices import thread_counts
from gradcheck import gradcheck
from layouts import strided_variants
from references import activation as act_ref
from references import conv as ref
from tolerance import assert_close, assert_close_sum, assert_same_bits, assert_same_non_finite

import fastdl
import fastdl.functional.conv as F
from fastdl import _core, ops
from fastdl.ops.activation import resolve_activation

# (x, weight, options). Channels and lines stand around the block boundaries: tiles of 4 to 14 positions, panels of 4
# to 32 output channels, lines under 7 positions, groups from depthwise to wide.
CASES = [
    ((2, 1, 28, 28), (33, 1, 3, 3), {}),
    ((3, 32, 13, 13), (64, 32, 3, 3), {}),
    ((9, 16, 5, 5), (40, 16, 3, 3), {}),
    ((2, 3, 17, 19), (16, 3, 7, 7), {"stride": 2, "padding": 3}),
    ((2, 17, 9, 15), (5, 17, 3, 3), {"padding": "same"}),
    ((2, 16, 8, 29), (31, 16, 1, 1), {}),
    ((2, 5, 9, 8), (6, 5, 1, 1), {"stride": 2}),
    ((1, 8, 16, 14), (8, 8, 4, 2), {"padding": "same", "dilation": (1, 3)}),
    ((2, 6, 11, 12), (9, 2, 3, 3), {"padding": (2, 0), "stride": (3, 2), "dilation": (1, 2), "groups": 3}),
    ((2, 40, 6, 7), (80, 20, 3, 3), {"padding": 1, "groups": 2}),
    ((2, 37, 12, 10), (37, 1, 3, 3), {"padding": 1, "groups": 37}),
    ((2, 16, 9, 9), (16, 1, 5, 5), {"padding": 2, "stride": 2, "groups": 16}),
    ((2, 5, 8, 8), (15, 1, 3, 3), {"groups": 5, "dilation": 2}),
    ((2, 16, 7, 8), (12, 4, 3, 3), {"padding": 1, "groups": 4}),
    ((1, 3, 4, 4), (2, 3, 3, 3), {"padding": 5}),
    ((2, 3, 31), (7, 3, 5), {"stride": 3, "padding": 4, "dilation": 2}),
    ((4, 9), (6, 2, 4), {"padding": "same", "groups": 2}),
    ((2, 3, 5, 6, 7), (18, 3, 3, 2, 3), {"stride": (2, 1, 2), "padding": (1, 0, 2)}),
    ((1, 16, 4, 3, 5), (4, 16, 2, 3, 2), {"padding": "same", "dilation": (2, 1, 1)}),
    ((2, 8, 3, 4, 4), (8, 1, 2, 2, 2), {"groups": 8, "stride": 2, "padding": 1}),
]
# (x, weight, options): the weight is (in, out / groups, ...)
TRANSPOSES = [
    ((2, 16, 7, 7), (16, 33, 4, 4), {"stride": 2, "padding": 1}),
    ((2, 5, 9, 8), (5, 3, 3, 3), {}),
    (
        (2, 6, 5, 4),
        (6, 3, 3, 2),
        {"stride": (3, 2), "padding": (0, 1), "output_padding": (2, 1), "groups": 3},
    ),
    ((3, 33, 3, 3), (33, 17, 2, 2), {"stride": 2}),
    ((2, 19, 6, 6), (19, 1, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1, "groups": 19}),
    ((1, 3, 5, 4), (3, 2, 2, 3), {"dilation": (2, 3), "output_padding": (1, 2), "stride": 1}),
    ((2, 3, 4, 4), (3, 4, 1, 1), {"stride": 3, "output_padding": 2}),
    ((2, 7, 9), (7, 5, 5), {"stride": 4, "padding": 2, "output_padding": 3}),
    ((4, 9), (4, 6, 3), {"groups": 2}),
    ((1, 2, 3, 4, 3), (2, 18, 2, 3, 2), {"stride": (2, 1, 2), "padding": (1, 0, 0)}),
]


def operands(case, transposed, dtype, rng):
    """x, weight, bias and the options of a case."""
    x, w, options = case
    out = w[1] * options.get("groups", 1) if transposed else w[0]
    return (*(rng.standard_normal(s).astype(dtype) for s in (x, w, (out,))), options)


def functions(transposed):
    if transposed:
        return (
            ops.conv_transpose,
            ops.conv_transpose_backward,
            ref.conv_transpose,
            ref.conv_transpose_backward,
        )
    return ops.conv, ops.conv_backward, ref.conv, ref.conv_backward


def check_backward(got, expected, sizes, terms):
    for g, e, s, k in zip(got, expected, sizes, terms, strict=True):
        assert_close_sum(g, e, s, k)


def check(case, transposed, dtype, rng, activation=None, layout=lambda a: a, residual=False):
    """Forward and backward against the reference."""
    forward, backward, ref_forward, ref_backward = functions(transposed)
    x, w, b, options = operands(case, transposed, dtype, rng)
    z = ref_forward(x, w, b, **options)
    size = ref_forward(np.abs(x), np.abs(w), np.abs(b), **options)
    r = None
    if residual:
        r = rng.standard_normal(z.shape).astype(dtype)
        z, size, r = z + r, size + np.abs(r), layout(r)
    a = resolve_activation(activation)
    y = forward(layout(x), layout(w), layout(b), **options, activation=activation, residual=r)
    terms = w[0].size + 2
    # Activations here do not stretch: the error of their argument is the error of the result.
    expected = z if activation is None else getattr(act_ref, activation)(z)
    assert_close_sum(y, expected, 1.2 * size + 1, terms, extra=4)

    grad = rng.standard_normal(z.shape).astype(dtype)
    saved, through = None, grad
    if activation is not None:
        saved = y if a.from_output else z.astype(dtype)
        # relu's derivative is taken where the kernel's own output says
        at = y if activation == "relu" else z
        through = getattr(act_ref, activation + "_backward")(grad, at)
        saved = layout(saved)
    got = backward(layout(grad), layout(x), layout(w), **options, activation=activation, saved=saved)
    sizes = ref_backward(np.maximum(np.abs(through), np.abs(grad)), np.abs(x), np.abs(w), **options)
    count = grad.size // grad.shape[-w.ndim + 1]
    check_backward(
        got, ref_backward(through, x, w, **options), sizes, (w[:, 0].size * 4, count + 4, count + 4)
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_conv(case, isa, rng):
    check(case, False, np.float32, rng)
    check(case, False, np.float64, rng, "relu")


@pytest.mark.parametrize("case", TRANSPOSES, ids=str)
def test_conv_transpose(case, isa, rng):
    check(case, True, np.float32, rng, "relu")
    check(case, True, np.float64, rng)


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu", "hardswish"])
@pytest.mark.parametrize("index", [1, 2, 9, 10])
def test_fused_ending(activation, index, rng):
    check(CASES[index], False, np.float32, rng, activation, residual=True)
    if index == 1:
        for transposed in TRANSPOSES[:3]:
            check(transposed, True, np.float64, rng, activation, residual=True)


@pytest.mark.parametrize("index", [0, 4, 8, 9, 10, 13, 15, 17])
def test_layouts(index, rng):
    names = [name for name, _ in strided_variants(np.zeros((2, 3, 4, 4)))]
    for name in names:

        def layout(a, name=name):
            return dict(strided_variants(a)).get(name, a)

        check(CASES[index], False, np.float32, rng, "relu", layout)
        if index == 8:
            for transposed in TRANSPOSES[2:5]:
                check(transposed, True, np.float32, rng, "relu", layout)


def test_broadcast_and_strided_output(rng):
    x = np.broadcast_to(rng.standard_normal((1, 1, 9, 9)), (2, 4, 9, 9))
    w = rng.standard_normal((3, 4, 3, 3))
    expected = ref.conv(x, w)
    assert_close_sum(ops.conv(x, w), expected, ref.conv(np.abs(x), np.abs(w)), 36)
    options = _core.ConvOptions((1, 1, 1), (0, 0, 0), (0, 0, 0), (1, 1, 1), 1, 0, 0, 0)
    for name, out in strided_variants(np.full(expected.shape, np.nan)):
        if out.flags.writeable:
            _core.conv_forward(x, w, None, None, out, options)
            np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.parametrize(
    "case",
    [((8, 16, 20, 21), (40, 16, 3, 3), {"padding": 1}), ((20, 32, 5, 5), (64, 32, 3, 3), {}),
     ((4, 64, 24, 24), (64, 1, 3, 3), {"padding": 1, "groups": 64}), ((16, 1, 28, 28), (32, 1, 3, 3), {}),
     ((4, 32, 17, 17), (32, 32, 3, 3), {"stride": 2, "padding": 1})],
    ids=str,
)  # fmt: skip
def test_same_bits_for_any_number_of_threads(case, rng):
    x, w, b, options = operands(case, False, np.float32, rng)
    xt = operands((*case[:2], {}), True, np.float32, rng)[0]
    groups = options.get("groups", 1)
    results = []
    before = fastdl.get_num_threads()
    for threads in thread_counts():
        fastdl.set_num_threads(threads)
        y = ops.conv(x, w, b, **options)
        results.append([y, *ops.conv_backward(np.cos(y), x, w, **options, activation="relu", saved=y)])
        if groups == 1:
            results[-1].append(ops.conv_transpose(xt, w.swapaxes(0, 1), None, stride=2))
    fastdl.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert_same_bits(a, b)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "x, w, options",
    [((2, 3, 8, 9), (5, 3, 3, 3), {"padding": 1}), ((2, 8, 4, 5), (8, 8, 3, 3), {"padding": 2, "stride": 2}),
     ((2, 6, 6, 6), (6, 1, 3, 3), {"padding": 1, "groups": 6}), ((2, 16, 5, 5), (16, 16, 3, 3), {"padding": 1})],
)  # fmt: skip
def test_nan_and_inf_reach_what_they_take_part_in(value, x, w, options, isa, rng):
    x, w = rng.standard_normal(x), rng.standard_normal(w)

    def check_kinds(got, expected):
        for g, e in zip(got, expected, strict=True):
            assert_same_non_finite(g, e)

    with np.errstate(invalid="ignore"):
        for where in ("x", "w", "grad"):
            xv, wv, grad = x.copy(), w.copy(), rng.standard_normal(ref.conv(x, w, **options).shape)
            {"x": xv, "w": wv, "grad": grad}[where].flat[7] = value
            check_kinds([ops.conv(xv, wv, **options)], [ref.conv(xv, wv, **options)])
            relu = ops.conv(xv, wv, **options, activation="relu")
            check_kinds([relu], [act_ref.relu(ref.conv(xv, wv, **options))])
            check_kinds(
                ops.conv_backward(grad, xv, wv, **options), ref.conv_backward(grad, xv, wv, **options)
            )


def test_empty(isa):
    w = np.ones((5, 3, 3, 3), np.float32)
    x = np.ones((0, 3, 7, 7), np.float32)
    y = ops.conv(x, w, padding=1)
    assert y.shape == (0, 5, 7, 7)
    dx, dw, db = ops.conv_backward(y, x, w, padding=1)
    assert dx.shape == x.shape and not dw.any() and not db.any() and dw.shape == w.shape
    assert ops.conv(np.ones((2, 3, 7, 7), np.float32), w[:0]).shape == (2, 0, 5, 5)
    no_channels = ops.conv(
        np.ones((2, 0, 7, 7), np.float32), np.ones((5, 0, 3, 3), np.float32), np.arange(5, dtype=np.float32)
    )
    np.testing.assert_array_equal(no_channels, np.broadcast_to(np.arange(5.0)[:, None, None], (2, 5, 5, 5)))
    y = ops.conv_transpose(np.ones((0, 4, 3, 3), np.float32), np.ones((4, 2, 2, 2), np.float32))
    assert y.shape == (0, 2, 4, 4)


def test_needs(rng):
    x, w = rng.standard_normal((2, 3, 6, 6)), rng.standard_normal((4, 3, 3, 3))
    grad = rng.standard_normal((2, 4, 4, 4))
    dx, dw, db = ref.conv_backward(grad, x, w)
    for needs in [(True, False, False), (False, True, False), (False, False, True), (False, False, False)]:
        got = ops.conv_backward(grad, x, w, needs=needs)
        for g, e, need in zip(got, (dx, dw, db), needs, strict=True):
            assert (g is not None) == need
            if need:
                np.testing.assert_allclose(g, e, rtol=1e-12, atol=1e-12)
    got = ops.conv_transpose_backward(x, grad, w, padding=0, needs=(False, False, True))
    np.testing.assert_allclose(got[2], x.sum((0, 2, 3)))


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
@hypothesis.given(st.data())
def test_any_geometry(data):
    """Shapes and options at random, forward and backward, both directions."""
    draw = lambda lo, hi: data.draw(st.integers(lo, hi))  # noqa: E731
    nd, transposed, groups = draw(1, 3), data.draw(st.booleans()), data.draw(st.sampled_from([1, 1, 2, 3]))
    c, o, n = groups * draw(1, 5), draw(1, 9), draw(1, 3)
    kernel, stride, dilation = ([draw(1, 3) for _ in range(nd)] for _ in range(3))
    padding = [draw(0, 3) for _ in range(nd)]
    size = [
        max(draw(1, 7), d * (k - 1) + 1 - 2 * p) for k, d, p in zip(kernel, dilation, padding, strict=True)
    ]
    options = {
        "stride": tuple(stride),
        "padding": tuple(padding),
        "dilation": tuple(dilation),
        "groups": groups,
    }
    if transposed:
        extra = [draw(0, max(s, d) - 1) for s, d in zip(stride, dilation, strict=True)]
        out = ref.conv_transpose_output_size(size, kernel, stride, padding, extra, dilation)
        hypothesis.assume(min(out) >= 1)
        case = ((n, c, *size), (c, o, *kernel), options | {"output_padding": tuple(extra)})
    else:
        case = ((n, c, *size), (groups * o, c // groups, *kernel), options)
    check(case, transposed, np.float32, np.random.default_rng(draw(0, 99)))


# ---- Tensor level ----


@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
@pytest.mark.parametrize("case", [CASES[i] for i in (7, 8, 12, 14, 16)], ids=str)
def test_gradients(case, activation, rng):
    (x, w, b, options) = operands(case, False, np.float64, rng)
    function = getattr(F, f"conv{w.ndim - 2}d")
    r = rng.standard_normal(ref.conv(x, w, **options).shape)
    gradcheck(lambda x, w, b, r: function(x, w, b, **options, activation=activation, residual=r), x, w, b, r)


@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
@pytest.mark.parametrize("case", [TRANSPOSES[i] for i in (2, 5, 8, 9)], ids=str)
def test_transpose_gradients(case, activation, rng):
    (x, w, b, options) = operands(case, True, np.float64, rng)
    function = getattr(F, f"conv_transpose{w.ndim - 2}d")
    gradcheck(lambda x, w, b: function(x, w, b, **options, activation=activation), x, w, b)


def test_no_data_gradient_for_data(rng, monkeypatch):
    """The first layer's input asks for no gradient, and none is calculated."""
    x = fastdl.tensor(rng.standard_normal((2, 1, 8, 8)).astype(np.float32))
    w = fastdl.tensor(rng.standard_normal((4, 1, 3, 3)).astype(np.float32), requires_grad=True)

    def fail(*args):
        raise AssertionError("conv_backward_data was called")

    monkeypatch.setattr(_core, "conv_backward_data", fail)
    F.conv2d(x, w, activation="relu").sum().backward()
    assert w.grad is not None and x.grad is None


@pytest.mark.parametrize(
    "options", [{}, {"dilation": 2, "padding": (1, 2)}, {"stride": (2, 3), "padding": 1}]
)
def test_unfold_and_fold(options, rng):
    x, kernel = rng.standard_normal((2, 3, 9, 8)), (3, 2)
    columns = ops.unfold(x, kernel, **options)
    # A convolution is the product of the weights with the columns.
    w = rng.standard_normal((4, 3, *kernel))
    y = ref.conv(x, w, **options)
    np.testing.assert_allclose(
        np.einsum("ok,nkl->nol", w.reshape(4, -1), columns), y.reshape(2, 4, -1), rtol=1e-12, atol=1e-12
    )
    # <unfold(x), c> = <x, fold(c)>
    c = rng.standard_normal(columns.shape)
    image = ops.fold(c, x.shape[2:], kernel, **options)
    np.testing.assert_allclose(np.sum(columns * c), np.sum(x * image), rtol=1e-12)
    for _, v in strided_variants(x):
        assert_same_bits(ops.unfold(v, kernel, **options), columns)
    assert_same_bits(ops.unfold(x[0], kernel, **options), columns[0])
    gradcheck(lambda x: F.unfold(x, kernel, **options), x[:1])
    gradcheck(lambda c: F.fold(c, (9, 8), kernel, **options), c[:1])


# ---- bad input ----

X, W = np.zeros((2, 4, 8, 8), np.float32), np.zeros((6, 4, 3, 3), np.float32)


@pytest.mark.parametrize(
    "error, words, call",
    [
        (ValueError, "channels", lambda: ops.conv(X[:, :3], W)),
        (ValueError, "groups", lambda: ops.conv(X, W[:, :2], groups=3)),
        (ValueError, "groups", lambda: ops.conv(X, W, groups=0)),
        (TypeError, "groups", lambda: ops.conv(X, W, groups="2")),
        (ValueError, "bias", lambda: ops.conv(X, W, np.zeros(5, np.float32))),
        (ValueError, "residual", lambda: ops.conv(X, W, residual=X)),
        (TypeError, "float64", lambda: ops.conv(X, W.astype(np.float64))),
        (TypeError, "bias", lambda: ops.conv(X, W, np.zeros(6))),
        (TypeError, "int64", lambda: ops.conv(X.astype(np.int64), W)),
        (ValueError, "stride", lambda: ops.conv(X, W, stride=0)),
        (ValueError, "dilation", lambda: ops.conv(X, W, dilation=0)),
        (ValueError, "padding", lambda: ops.conv(X, W, padding=-1)),
        (ValueError, "same", lambda: ops.conv(X, W, padding="SAME")),
        (ValueError, "same", lambda: ops.conv(X, W, padding="same", stride=2)),
        (TypeError, "stride", lambda: ops.conv(X, W, stride=1.5)),
        (ValueError, "stride", lambda: ops.conv(X, W, stride=(1, 2, 3))),
        (ValueError, "kernel", lambda: ops.conv(X, W, dilation=4)),
        (ValueError, "kernel", lambda: ops.conv(X, np.zeros((6, 4, 0, 3), np.float32))),
        (ValueError, "dimensions", lambda: ops.conv(X[0, 0], W)),
        (ValueError, "dimensions", lambda: ops.conv(X, W[0, 0])),
        (TypeError, "ndarray", lambda: ops.conv(None, W)),
        (TypeError, "ndarray", lambda: ops.conv([[1.0]], W)),
        (ValueError, "grad_out", lambda: ops.conv_backward(np.repeat(X, 3, 1)[:, :6], X, W)),
        (ValueError, "saved", lambda: ops.conv_backward(X[:, :, :6, :6], X, W, activation="relu")),
        (ValueError, "activation", lambda: ops.conv(X, W, activation="rely")),
        (ValueError, "output_padding", lambda: ops.conv_transpose(X, W[:4], output_padding=1)),
        (ValueError, "output size", lambda: ops.conv_transpose(X, W[:4], padding=5)),
        (ValueError, "padding", lambda: ops.conv_transpose(X, W[:4], padding="same")),
        (ValueError, "channels", lambda: ops.conv_transpose(X, W)),
        (ValueError, "unfold", lambda: ops.unfold(X, 9)),
        (ValueError, "fold", lambda: ops.fold(X[:, 0], (8, 8), 2)),
        (TypeError, "conv2d", lambda: F.conv2d(X, W)),
        (ValueError, "conv1d", lambda: F.conv1d(fastdl.tensor(X), fastdl.tensor(W))),
    ],
)  # fmt: skip
def test_bad_input(error, words, call):
    with pytest.raises(error, match=words):
        call()


def test_failed_call_writes_nothing():
    options = _core.ConvOptions((1, 1, 1), (0, 0, 0), (0, 0, 0), (1, 1, 1), 1, 0, 0, 0)
    out = np.full((2, 6, 6, 7), 7.0, np.float32)
    with pytest.raises(ValueError, match="extent 6"):
        _core.conv_forward(X, W, None, None, out, options)
    assert (out == 7).all()
    with pytest.raises(ValueError, match="read-only"):
        out.flags.writeable = False
        _core.conv_forward(X, W, None, None, out, options)


def test_channels_last_strides(rng):
    x, w = rng.standard_normal((2, 3, 6, 5)), rng.standard_normal((4, 3, 3, 3))
    y = ops.conv(x, w)
    assert y.shape == (2, 4, 4, 3)
    assert y.transpose(0, 2, 3, 1).flags.c_contiguous
    dx, dw, _ = ops.conv_backward(y, x, w)
    assert dx.transpose(0, 2, 3, 1).flags.c_contiguous and dw.flags.c_contiguous
    assert_close(ops.conv(x[0], w), y[0], scale=1)
