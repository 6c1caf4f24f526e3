"""Gradients of a convolution whose output goes through max pooling, formed from the maxima's products alone."""

import numpy as np
import pytest
from devices import thread_counts
from references import conv as ref
from references import pool as pool_ref
from tolerance import assert_close_sum, assert_same_bits, assert_same_non_finite

import fastdl
import fastdl.nn.functional as F
from fastdl import ops

# (x, output channels, kernel, pool (kernel, stride, padding), stride, padding, dilation): channels that fill vectors
# and not, few enough to be unfolded, windows that overlap, outputs over 64, planes whose padding nothing reaches.
CASES = [
    ((3, 32, 13, 13), 64, (3, 3), (2,), 1, 0, 1),
    ((4, 1, 12, 15), 32, (3, 3), (2,), 1, 0, 1),
    ((2, 3, 12, 13), 20, (5, 5), (2,), 1, 2, 1),
    ((9, 20, 13, 14), 70, (3, 3), (3, 2, 1), (2, 1), 1, 1),
    ((2, 40, 9, 9), 130, (1, 3), (2,), 1, 0, 1),
    ((2, 5, 30), 7, (4,), (3,), 1, 1, 1),
    ((2, 4, 6, 7, 8), 6, (3, 3, 3), (2,), 1, 1, 1),
    ((2, 4, 16, 17), 6, (3, 3), (2,), 1, 1, (2, 1)),
    ((2, 96, 8, 8), 8, (3, 3), (2,), 1, 0, 1),
    ((2, 6, 9, 9), 8, (3, 3), (2,), 1, 2, 2),
    ((1, 2, 8, 8), 3, (2, 2), (3, 1), 1, 0, 1),
]


def make(case, dtype, rng, relu=True):
    """x, weight, the pooled output's gradient, that output, the maxima's positions, and the whole gradient."""
    shape, out, kernel, pool, stride, padding, dilation = case
    x = rng.standard_normal(shape).astype(dtype)
    weight = rng.standard_normal((out, shape[1], *kernel)).astype(dtype)
    y = ref.conv(x, weight, stride=stride, padding=padding, dilation=dilation)
    y = (np.maximum(y, 0) if relu else y).astype(dtype)
    pooled, where = ops.max_pool(y, *pool, return_indices=True)
    grad = rng.standard_normal(pooled.shape).astype(dtype)
    full = pool_ref.max_pool_backward(grad, where, y.shape, x.ndim - 2)
    size = pool_ref.max_pool_backward(np.abs(grad), where, y.shape, x.ndim - 2)
    return x, weight, grad, pooled, where, full * (y > 0) if relu else full, size


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_reference(case, relu, dtype, isa, rng):
    options = dict(zip(("stride", "padding", "dilation"), case[4:], strict=True))
    x, weight, grad, pooled, where, full, size = make(case, dtype, rng, relu)
    got = ops.conv_pool_backward(
        grad, pooled, where, x, weight, **options, activation="relu" if relu else None
    )
    expected = ref.conv_backward(full, x, weight, **options)
    sizes = ref.conv_backward(size, np.abs(x), np.abs(weight), **options)
    terms = (weight[:, 0].size, grad[:, 0].size, grad[:, 0].size)
    for g, e, s, k in zip(got, expected, sizes, terms, strict=True):
        assert_close_sum(g, e, s, k, extra=4)
    for i in range(3):  # each alone, in any layout
        needs = [j == i for j in range(3)]
        one = ops.conv_pool_backward(
            np.ascontiguousarray(grad), pooled, where, np.asfortranarray(x), weight, **options,
            activation="relu" if relu else None, needs=needs,
        )  # fmt: skip
        assert [g is not None for g in one] == needs
        assert_close_sum(one[i], expected[i], sizes[i], terms[i], extra=4)


@pytest.mark.parametrize("case", [CASES[0], CASES[1], CASES[3]], ids=str)
def test_same_bits_for_any_number_of_threads(case, rng):
    options = dict(zip(("stride", "padding", "dilation"), case[4:], strict=True))
    x, weight, grad, pooled, where, *_ = make(case, np.float32, rng)
    results = []
    before = fastdl.get_num_threads()
    for threads in thread_counts():
        fastdl.set_num_threads(threads)
        results.append(ops.conv_pool_backward(grad, pooled, where, x, weight, **options, activation="relu"))
    fastdl.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert_same_bits(a, b)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", ["x", "weight", "grad"])
def test_special_values_reach_what_they_take_part_in(place, value, isa, rng):
    """What meets a gradient that is zero as well: zero times Inf is NaN."""
    for case in CASES[:2]:
        x, weight, grad, pooled, where, *_ = make(case, np.float32, rng, relu=False)
        {"x": x, "weight": weight, "grad": grad}[place][1, 0, 2, 2] = value
        y_shape = ref.conv(x, weight).shape
        full = pool_ref.max_pool_backward(grad, where, y_shape, 2)
        got = ops.conv_pool_backward(grad, pooled, where, x, weight)
        with np.errstate(invalid="ignore"):
            expected = ref.conv_backward(full, x, weight)
        for g, e in zip(got, expected, strict=True):
            assert_same_non_finite(g, e)


def test_relu_passes_nan_as_elsewhere(isa, rng):
    x, weight, grad, pooled, where, *_ = make(CASES[0], np.float32, rng)
    pooled[0, 5, 1, 1] = np.nan
    got = ops.conv_pool_backward(grad, pooled, where, x, weight, activation="relu")[2]
    expected = np.where(pooled <= 0, 0, grad).astype(np.float64).sum((0, 2, 3))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", CASES[:2], ids=str)
def test_foreign_indices_contribute_nothing(case, isa, rng):
    x, weight, grad, pooled, where, *_ = make(case, np.float32, rng, relu=False)
    foreign, kept = where.copy(), grad.copy()
    where[:2, :3, 2, 2] = 0
    for bad, value in zip(np.ndindex(2, 3), (-1, 130, 2**31 - 1, -(2**31), 1000, -7), strict=True):
        foreign[bad[0], bad[1], 2, 2] = value
        kept[bad[0], bad[1], 2, 2] = 0
    for g, e in zip(
        ops.conv_pool_backward(grad, pooled, foreign, x, weight),
        ops.conv_pool_backward(kept, pooled, where, x, weight),
        strict=True,
    ):
        np.testing.assert_array_equal(g, e)


def test_bad_calls(rng):
    x, weight, grad, pooled, where, *_ = make(CASES[0], np.float32, rng)
    with pytest.raises(ValueError, match="does not fit"):
        ops.conv_pool_backward(grad[:2], pooled[:2], where[:2], x, weight)
    with pytest.raises(ValueError, match="no activation or ReLU"):
        ops.conv_pool_backward(grad, pooled, where, x, weight, activation="gelu")
    with pytest.raises(ValueError, match="needs out"):
        ops.conv_pool_backward(grad, None, where, x, weight, activation="relu")
    with pytest.raises(TypeError, match="int32"):
        ops.conv_pool_backward(grad, pooled, where.astype(np.int64), x, weight)


# ------------------------------------------------------------------------------------------ through autograd


def chain(x, w, b, activation, variant):
    """conv, ReLU, pool in several ways, some of which need the whole gradient."""
    z = F.conv2d(x, w, b, padding=1, activation=activation)
    if variant == "relu":
        z = F.relu(z)
    if variant == "in place":
        out = F.max_pool2d(z, 2)
        out.mul_(2.0)
        return (out * 1.5).sum()
    if variant == "used twice":
        return (F.max_pool2d(z, 2) ** 2).sum() + (z * 0.25).sum()
    if variant == "two pools":
        return (F.max_pool2d(z, 2) ** 2).sum() + F.max_pool2d(z, 3).sum()
    if variant == "indices":
        out, _ = F.max_pool2d(z, 2, return_indices=True)
        return (out**2).sum()
    if variant == "residual":
        z = F.conv2d(x, w, b, padding=1, activation=activation, residual=z)
    return (F.max_pool2d(z, 2) ** 2).sum()


VARIANTS = ["plain", "relu", "in place", "used twice", "two pools", "indices", "residual"]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("activation", [None, "relu", "tanh"])
def test_autograd(activation, variant, rng, monkeypatch):
    arrays = [rng.standard_normal(s) for s in ((2, 3, 7, 8), (4, 3, 3, 3), (4,))]

    def gradients():
        tensors = [fastdl.tensor(a, requires_grad=True) for a in arrays]
        chain(*tensors, activation, variant).backward()
        return [t.grad.numpy() for t in tensors]

    got = gradients()
    monkeypatch.setattr("fastdl.functional.conv.Conv.takes_pooled", lambda ctx, grad: False)
    for a, b in zip(got, gradients(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_gradients_between_are_formed(rng):
    x = fastdl.tensor(rng.standard_normal((2, 3, 8, 8)), requires_grad=True)
    w = fastdl.tensor(rng.standard_normal((4, 3, 3, 3)), requires_grad=True)
    z = F.conv2d(x, w)
    z.retain_grad()
    y = F.relu(z)
    y.retain_grad()
    F.max_pool2d(y, 2).sum().backward(retain_graph=True)
    first = [t.grad.numpy().copy() for t in (z, y, x, w)]
    assert first[0].sum() <= first[1].sum() == 4 * 2 * 9
    np.testing.assert_array_equal(first[0], first[1] * (y.detach().numpy() > 0))
    (again,) = fastdl.autograd.grad([F.max_pool2d(F.relu(z), 2).sum()], [z])
    np.testing.assert_array_equal(again.numpy(), first[0])


def test_unbatched(rng):
    x = fastdl.tensor(rng.standard_normal((3, 9, 9)), requires_grad=True)
    w = fastdl.tensor(rng.standard_normal((4, 3, 3, 3)), requires_grad=True)
    F.max_pool2d(F.conv2d(x, w, activation="relu"), 2).sum().backward()
    one = fastdl.tensor(x.detach().numpy()[None], requires_grad=True)
    v = fastdl.tensor(w.detach().numpy(), requires_grad=True)
    F.max_pool2d(F.conv2d(one, v, activation="relu"), 2).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), one.grad.numpy()[0])
    np.testing.assert_allclose(w.grad.numpy(), v.grad.numpy())


# -------------------------------------------------------------------------------- weights of a first layer


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", [None, "relu", "tanh"])
@pytest.mark.parametrize(
    "shape, out, options",
    [
        ((3, 1, 12, 15), 32, {}),
        ((1, 1, 9, 7), 37, {"padding": 1}),
        ((2, 1, 11, 14), 5, {"padding": (2, 1), "stride": (2, 1), "dilation": (1, 2)}),
        ((40, 1, 4, 5), 70, {"stride": 2, "padding": 1}),
    ],
)
def test_weights_of_one_channel(shape, out, options, activation, dtype, isa, rng):
    x = rng.standard_normal(shape).astype(dtype)
    weight = rng.standard_normal((out, 1, 3, 3)).astype(dtype)
    y = ref.conv(x, weight, activation=activation, **options).astype(dtype)
    grad = rng.standard_normal(y.shape).astype(dtype)
    slope = {None: np.ones_like(y), "relu": y > 0, "tanh": 1 - y.astype(np.float64) ** 2}[activation]
    expected = ref.conv_backward(grad * slope, x, weight, **options)
    sizes = ref.conv_backward(np.abs(grad * slope), np.abs(x), np.abs(weight), **options)
    for g in (grad, np.ascontiguousarray(np.moveaxis(grad, 1, -1)).transpose(0, 3, 1, 2)):
        got = ops.conv_backward(
            g, x, weight, **options, activation=activation, saved=None if activation is None else y,
            needs=(False, True, True),
        )  # fmt: skip
        for i in (1, 2):
            assert_close_sum(got[i], expected[i], sizes[i], grad[:, 0].size, extra=12)
