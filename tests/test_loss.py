"""Losses against the references: values and gradients, every option, layout, ISA and thread count."""

import importlib
import math

import numpy as np
import pytest
from gradcheck import gradcheck
from layouts import strided_variants
from references import loss as ref
from tolerance import assert_close, assert_same_bits, unit_roundoff

import fastdl
import fastdl.nn.functional as F
from fastdl import _core

ops = importlib.import_module("fastdl.ops.loss")  # as an attribute the name may be a function

REDUCTIONS = ["none", "mean", "sum"]
SHAPES = [(5, 3), (32, 10), (33, 16), (2, 17), (3, 65), (40, 1), (2, 5, 3), (2, 4, 3, 5), (7,), (1, 10_001)]


def close(got, expected, n, size, dtype):
    """n terms of at most `size` are added; the logits themselves are rounded as well."""
    assert got.shape == np.shape(expected)
    allowed = unit_roundoff(dtype) * (16 + 12 * math.sqrt(n)) * size
    np.testing.assert_allclose(got, expected, rtol=0, atol=allowed)


def labels_for(rng, shape, dtype=np.int64):
    classes = shape[1] if len(shape) > 1 else shape[0]
    lead = shape[:1] + shape[2:] if len(shape) > 1 else ()
    return np.asarray(rng.integers(0, classes, lead)).astype(dtype), classes


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("soft", [False, True])
def test_cross_entropy(soft, smoothing, dtype, isa, rng):
    for shape in SHAPES:
        x = (2 * rng.standard_normal(shape)).astype(dtype)
        y, classes = labels_for(rng, shape, rng.choice([np.int64, np.int32]))
        w = rng.uniform(0.5, 1.5, classes).astype(dtype)
        if soft:
            y = rng.random(shape).astype(dtype)
        elif y.size > 2:
            y.flat[1] = -7
        for weight in (None, w):
            options = dict(weight=weight, ignore_index=-7, label_smoothing=smoothing)
            for reduction in REDUCTIONS:
                loss, grad = ops.cross_entropy(x, y, reduction=reduction, with_grad=True, **options)
                expected = ref.cross_entropy(x, y, reduction=reduction, **options)
                expected_grad = ref.cross_entropy_backward(1.0, x, y, reduction=reduction, **options)
                size = 8 * classes if soft else 15
                close(loss, expected, x.size, max(1, np.abs(expected).max()) + size, dtype)
                close(grad, expected_grad, classes, size, dtype)
                assert_same_bits(ops.cross_entropy(x, y, reduction=reduction, **options), loss)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nll_loss(dtype, isa, rng):
    for shape in SHAPES:
        x = rng.standard_normal(shape).astype(dtype)
        y, classes = labels_for(rng, shape)
        for weight in (None, rng.uniform(0.5, 1.5, classes).astype(dtype)):
            for reduction in REDUCTIONS:
                loss, grad = ops.nll_loss(x, y, weight, -100, reduction, with_grad=True)
                close(
                    loss, ref.nll_loss(x, y, weight, reduction=reduction), x.size, 5 * max(1, y.size), dtype
                )
                expected = ref.nll_loss_backward(1.0, x, y, weight, reduction=reduction)
                assert_close(grad, expected, rtol_u=16)


def test_cross_entropy_layouts(rng):
    x, y = rng.standard_normal((3, 5, 4, 2)).astype(np.float32), rng.integers(0, 5, (3, 4, 2))
    loss, grad = ops.cross_entropy(x, y, with_grad=True)
    for _, v in strided_variants(x):
        for _, labels in strided_variants(y):
            a, b = ops.cross_entropy(v, labels, with_grad=True)
            assert_same_bits(a, loss)
            assert_same_bits(b, grad)
    channels_last = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    assert ops.cross_entropy(channels_last, y, with_grad=True)[1].strides == channels_last.strides


@pytest.mark.parametrize("shape", [(3000, 10), (20, 5000)])
def test_cross_entropy_threads(shape, threads, rng):
    x, y = rng.standard_normal(shape).astype(np.float32), rng.integers(0, shape[1], shape[0])
    got = ops.cross_entropy(x, y, with_grad=True)
    _core.set_num_threads(1)
    for a, b in zip(got, ops.cross_entropy(x, y, with_grad=True), strict=True):
        assert_same_bits(a, b)


def test_cross_entropy_special_values(isa):
    huge = np.array(
        [[1e38, -1e38, 0.0], [-np.inf, 0.0, 0.0], [np.nan, 0.0, 0.0], [np.inf, 0.0, 0.0]], np.float32
    )
    y = np.array([0, 1, 1, 1])
    loss, grad = ops.cross_entropy(huge, y, reduction="none", with_grad=True)
    np.testing.assert_allclose(loss[:2], [0.0, math.log(2)], rtol=1e-6)
    assert np.isnan(loss[2:]).all() and np.isnan(grad[2:]).all() and np.isfinite(grad[:2]).all()
    assert ops.cross_entropy(huge[1:2], np.array([0]), reduction="sum") == np.inf
    # Everything ignored: 0 / 0, but no gradient.
    loss, grad = ops.cross_entropy(np.ones((3, 4)), np.full(3, -100), with_grad=True)
    assert np.isnan(loss) and (grad == 0).all()
    # Nothing at all.
    assert np.isnan(ops.cross_entropy(np.zeros((0, 4)), np.zeros(0, int)))
    assert ops.cross_entropy(np.zeros((0, 4)), np.zeros(0, int), reduction="sum") == 0
    assert ops.cross_entropy(np.zeros((2, 3, 0)), np.zeros((2, 0), int), reduction="none").shape == (2, 0)


@pytest.mark.cpu  # what a GPU reads it can only report afterwards
def test_bad_labels_write_nothing():
    x, y = np.zeros((4, 3), np.float32), np.array([0, 2, 3, -1])
    loss, grad = np.full((), 7, np.float32), np.full((4, 3), 7, np.float32)
    with pytest.raises(IndexError, match=r"cross_entropy: expected labels in \[0, 3\).*got 3 at position 2"):
        _core.cross_entropy(x, y, None, loss, grad, 1, -100, 0.0)
    with pytest.raises(IndexError, match=r"nll_loss.*got -1 at position 3"):
        _core.nll_loss(x, np.array([0, 0, 0, -1], np.int32), None, loss, grad, 1, -100)
    assert loss == 7 and (grad == 7).all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ops.cross_entropy(np.zeros((2, 3)), np.zeros(3, int)), ValueError, r"\(2,\).*\(3,\)"),
        (lambda: ops.cross_entropy(np.zeros((2, 3)), np.zeros((2, 2))), ValueError, "target"),
        (lambda: ops.cross_entropy(np.zeros((2, 3)), np.zeros(2, np.float32)), TypeError, "float32"),
        (lambda: ops.cross_entropy(np.zeros((2, 3)), np.zeros(2, int), np.ones(2)), ValueError, "weight"),
        (lambda: ops.cross_entropy(np.zeros((2, 3), int), np.zeros(2, int)), TypeError, "int64"),
        (
            lambda: ops.cross_entropy(np.zeros((2, 3)), np.zeros(2, int), label_smoothing=2.0),
            ValueError,
            "smoothing",
        ),
        (lambda: ops.cross_entropy(np.zeros((2, 3)), np.zeros(2, int), reduction="max"), ValueError, "'max'"),
        (lambda: ops.cross_entropy(np.zeros(()), np.zeros((), int)), ValueError, "scalar"),
        (lambda: ops.nll_loss(np.zeros((2, 3)), np.zeros((2, 3))), TypeError, "labels"),
        (lambda: ops.mse_loss(np.zeros(3), np.zeros(4)), ValueError, "target"),
        pytest.param(
            lambda: F.binary_cross_entropy(fastdl.tensor([1.5]), fastdl.ones(1)),
            ValueError,
            "between 0 and 1",
            marks=pytest.mark.cpu,
        ),
        (lambda: F.binary_cross_entropy_with_logits(fastdl.ones(2), fastdl.ones(3)), ValueError, "target"),
        (lambda: F.huber_loss(fastdl.ones(2), fastdl.ones(2), delta=0.0), ValueError, "delta"),
        (lambda: F.smooth_l1_loss(fastdl.ones(2), fastdl.ones(2), beta=-1.0), ValueError, "beta"),
        (lambda: F.mse_loss(fastdl.ones(2), fastdl.ones(3)), ValueError, "do not fit"),
        (
            lambda: F.multi_margin_loss(fastdl.ones(2, 3), fastdl.tensor([0, 3])),
            IndexError,
            "got 3 at position 1",
        ),
        (
            lambda: F.gaussian_nll_loss(fastdl.ones(2), fastdl.ones(2), fastdl.tensor([1.0, -1.0])),
            ValueError,
            "var",
        ),
        (lambda: F.triplet_margin_loss(*[fastdl.ones(2, 2)] * 3, margin=0.0), ValueError, "margin"),
        (lambda: F.cosine_embedding_loss(*[fastdl.ones(2, 2)] * 2, fastdl.ones(3, 3)), ValueError, "target"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


# ---- elementwise losses, through the calls on Tensors ----


def prob(rng, shape):
    return rng.uniform(0.05, 0.95, shape)


def sign(rng, shape):
    return rng.choice([-1.0, 1.0], shape)


def normal(rng, shape):
    return rng.standard_normal(shape)


# name, how input and target are drawn, options, whether the target is differentiated
ELEMENTWISE = [
    ("mse_loss", normal, normal, {}, True), ("l1_loss", normal, normal, {}, True),
    ("smooth_l1_loss", normal, normal, {"beta": 0.7}, True), ("smooth_l1_loss", normal, normal, {"beta": 0.0}, True),
    ("huber_loss", normal, normal, {"delta": 0.6}, True), ("binary_cross_entropy", prob, prob, {}, False),
    ("binary_cross_entropy_with_logits", normal, prob, {}, False), ("kl_div", normal, prob, {}, False),
    ("kl_div", normal, normal, {"log_target": True}, False), ("poisson_nll_loss", normal, prob, {}, False),
    ("poisson_nll_loss", prob, prob, {"log_input": False, "eps": 0.01}, False),
    ("poisson_nll_loss", normal, lambda r, s: 5 * prob(r, s), {"full": True}, False),
    ("hinge_embedding_loss", normal, sign, {"margin": 0.5}, False), ("soft_margin_loss", normal, sign, {}, False),
]  # fmt: skip
ELEMENTWISE_IDS = [f"{name}-{i}" for i, (name, *_) in enumerate(ELEMENTWISE)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "draw_x", "draw_t", "options", "both"), ELEMENTWISE, ids=ELEMENTWISE_IDS)
def test_elementwise(name, draw_x, draw_t, options, both, dtype, isa, rng):
    function, reference, backward = (getattr(F, name), getattr(ref, name), getattr(ref, name + "_backward"))
    for shape in ((), (1,), (16,), (3, 5), (2, 67), (9001,)):
        x, t = draw_x(rng, shape), draw_t(rng, shape)
        x, t = np.asarray(x, dtype), np.asarray(t, dtype)
        for reduction in REDUCTIONS:
            xt, tt = fastdl.tensor(x, requires_grad=True), fastdl.tensor(t, requires_grad=both)
            loss = function(xt, tt, reduction=reduction, **options)
            expected = reference(x, t, reduction=reduction, **options)
            n = x.size if reduction == "sum" else 1
            size = np.abs(reference(x, t, reduction="none", **options)).max() + 4
            close(loss.detach().numpy(), expected, n, size * math.sqrt(n), dtype)
            g = np.asarray(rng.standard_normal(expected.shape), dtype)
            loss.backward(fastdl.tensor(g))
            grads = backward(g, x, t, reduction=reduction, **options)
            grads = grads if isinstance(grads, tuple) else (grads,)
            assert_close(
                xt.grad.numpy(), grads[0], rtol_u=32, scale=np.abs(grads[0]) + 4 * np.abs(g).max(initial=1)
            )
            if both:
                assert_close(
                    tt.grad.numpy(), grads[1], rtol_u=32, scale=np.abs(grads[1]) + 4 * np.abs(g).max()
                )


def test_elementwise_layouts_and_weights(rng):
    x, t = rng.standard_normal((3, 4, 5)), rng.random((3, 4, 5))
    w, p = rng.random(5), rng.random((4, 1))
    expected = ref.binary_cross_entropy_with_logits(x, t, w, "none", p)
    for _, v in strided_variants(x):
        args = [fastdl.from_numpy(a) for a in (v, t)]
        got = F.binary_cross_entropy_with_logits(
            *args, fastdl.tensor(w), reduction="none", pos_weight=fastdl.tensor(p)
        )
        np.testing.assert_allclose(got.numpy(), expected, rtol=1e-12)
    y = prob(rng, (4, 5))
    got = F.binary_cross_entropy(fastdl.tensor(y), fastdl.tensor(t[0]), fastdl.tensor(w))
    np.testing.assert_allclose(got.item(), ref.binary_cross_entropy(y, t[0], w), rtol=1e-12)
    # x of exactly 0 and 1: the logarithm stops at -100.
    edge = F.binary_cross_entropy(fastdl.tensor([0.0, 1.0]), fastdl.tensor([1.0, 0.0]), reduction="none")
    assert edge.tolist() == [100.0, 100.0]


def test_weighted_differences(rng):
    x, t, w = (rng.random((3, 4)) for _ in range(3))
    for function, power in ((F.mse_loss, 2), (F.l1_loss, 1)):
        got = function(fastdl.tensor(x), fastdl.tensor(t), weight=fastdl.tensor(w))
        np.testing.assert_allclose(got.item(), (w * np.abs(x - t) ** power).sum() / w.sum())


def test_broadcasting_and_promotion(rng):
    x, t = rng.standard_normal((3, 4)), rng.standard_normal(4)
    gradcheck(F.mse_loss, x, t)
    mixed = F.mse_loss(fastdl.tensor(x), fastdl.tensor(t.astype(np.float32)))
    assert mixed.dtype == fastdl.float64
    np.testing.assert_allclose(mixed.item(), ((x - t.astype(np.float32)) ** 2).mean())


@pytest.mark.parametrize("kind", ["mse_loss", "binary_cross_entropy_with_logits"])
def test_elementwise_threads(kind, threads, rng):
    x, t = rng.standard_normal(200_001).astype(np.float32), rng.random(200_001).astype(np.float32)
    got = getattr(ops, kind)(x, t, with_grad=True)
    _core.set_num_threads(1)
    for a, b in zip(got, getattr(ops, kind)(x, t, with_grad=True), strict=True):
        assert_same_bits(a, b)


# ---- gradients ----


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_classification_gradients(reduction, rng):
    y = np.array([0, 2, -100, 1])
    w = fastdl.tensor(rng.random(3))
    for weight in (None, w):
        for smoothing in (0.0, 0.2):
            options = dict(weight=weight, reduction=reduction, label_smoothing=smoothing)
            gradcheck(
                lambda x, o=options: F.cross_entropy(x, fastdl.tensor(y), **o), rng.standard_normal((4, 3))
            )
            gradcheck(
                lambda x, t, o=options: F.cross_entropy(x, t, **o),
                rng.standard_normal((2, 3, 2)), rng.random((2, 3, 2)),
            )  # fmt: skip
        gradcheck(
            lambda x, v=weight: F.nll_loss(x, fastdl.tensor(y), weight=v, reduction=reduction),
            rng.standard_normal((4, 3)),
        )
    gradcheck(lambda x: F.cross_entropy(x, fastdl.tensor(1)), rng.standard_normal(3))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_other_gradients(reduction, rng):
    x, t, v = rng.standard_normal((3, 4)), rng.standard_normal((3, 4)), rng.uniform(0.5, 2, (3, 4))
    r = {"reduction": reduction}
    for full in (False, True):
        gradcheck(lambda *a, f=full: F.gaussian_nll_loss(*a, full=f, **r), x, t, v)
    gradcheck(lambda *a: F.gaussian_nll_loss(*a, **r), x, t, v[:, :1])
    s = fastdl.tensor(sign(rng, (3,)))
    gradcheck(lambda a, b: F.cosine_embedding_loss(a, b, s, margin=0.1, **r), x, t)
    s4 = fastdl.tensor(sign(rng, (3, 4)))
    gradcheck(lambda a, b: F.margin_ranking_loss(a, b, s4, 0.1, **r), x, t)
    for swap in (False, True):
        gradcheck(lambda *a, w=swap: F.triplet_margin_loss(*a, margin=4.0, swap=w, **r), x, t, v)
    gradcheck(lambda a: F.multi_margin_loss(a, fastdl.tensor([0, 3, 1]), p=2, **r), x)
    gradcheck(lambda a: F.multilabel_soft_margin_loss(a, fastdl.tensor((t > 0) * 1.0), **r), x)
    p = prob(rng, (3, 4))
    gradcheck(lambda a, b: F.binary_cross_entropy(a, b, **r), p, prob(rng, (3, 4)))
    gradcheck(lambda a, b: F.binary_cross_entropy_with_logits(a, b, **r), x, p)
    gradcheck(lambda a, b: F.kl_div(a, b, **r), x, p)


def test_margins_against_reference(rng):
    a, b, c = (rng.standard_normal((5, 4)) for _ in range(3))
    ta, tb, tc = map(fastdl.tensor, (a, b, c))
    s, s1 = sign(rng, (5, 4)), sign(rng, 5)
    for reduction in REDUCTIONS:
        pairs = [
            (F.margin_ranking_loss(ta, tb, fastdl.tensor(s), 0.2, reduction=reduction),
             ref.margin_ranking_loss(a, b, s, 0.2, reduction)),
            (F.cosine_embedding_loss(ta, tb, fastdl.tensor(s1), 0.2, reduction=reduction),
             ref.cosine_embedding_loss(a, b, s1, 0.2, reduction)),
            (F.triplet_margin_loss(ta, tb, tc, 0.8, p=3, swap=True, reduction=reduction),
             ref.triplet_margin_loss(a, b, c, 0.8, p=3, swap=True, reduction=reduction)),
            (F.gaussian_nll_loss(ta, tb, fastdl.tensor(np.abs(c)), full=True, reduction=reduction),
             ref.gaussian_nll_loss(a, b, np.abs(c), full=True, reduction=reduction)),
        ]  # fmt: skip
        for got, expected in pairs:
            np.testing.assert_allclose(got.numpy(), expected, rtol=1e-9)
    got = F.kl_div(ta, fastdl.tensor(np.abs(b)), reduction="batchmean")
    np.testing.assert_allclose(got.item(), ref.kl_div(a, np.abs(b), "batchmean"))


def test_upstream_gradient_and_legacy_reductions(rng):
    x, y = rng.standard_normal((4, 3)), np.array([0, 1, 2, 0])
    t = fastdl.tensor(x, requires_grad=True)
    loss = F.cross_entropy(t, fastdl.tensor(y)) * 3
    loss.backward(retain_graph=True)
    loss.backward()
    np.testing.assert_allclose(t.grad.numpy(), 6 * ref.cross_entropy_backward(1.0, x, y), rtol=1e-12)
    labels = fastdl.tensor(y)
    assert (
        F.cross_entropy(t, labels, size_average=False).item()
        == F.cross_entropy(t, labels, reduction="sum").item()
    )
    assert F.cross_entropy(t, labels, reduce=False).shape == (4,)
