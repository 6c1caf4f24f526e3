"""Padding, resampling, patches, distances: values, gradients, layouts, bad input."""

import numpy as np
import pytest
from gradcheck import gradcheck
from hypothesis import given, settings
from hypothesis import strategies as st
from references import rearrange as ref

import fastdl
import fastdl.nn.functional as F

SHAPES = {1: (2, 3, 5), 2: (2, 3, 5, 4), 3: (1, 2, 4, 3, 5)}


def layouts(x):
    """The same values contiguous, channels-last, with negative strides, and as part of something larger."""
    yield x
    yield np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    yield np.ascontiguousarray(x[..., ::-1])[..., ::-1]
    larger = np.zeros(tuple(2 * n for n in x.shape), x.dtype)
    part = larger[tuple(slice(1, None, 2) for _ in x.shape)]
    part[...] = x
    yield part


# ---------------------------------------------------------------------------------------------------------- pad


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_pad(mode, dims, rng):
    x = rng.standard_normal(SHAPES[dims])
    for widths in ((1, 2), (1, 2, 3, 0), (2, 2, 0, 1, 3, 2), (0, 0) * dims):
        widths = widths[: 2 * dims]
        if mode != "constant" and len(widths) != 2 * dims:
            continue
        expected = ref.pad(x, widths, mode)
        for y in layouts(x):
            np.testing.assert_array_equal(F.pad(fastdl.from_numpy(y), widths, mode).numpy(), expected)
        gradcheck(lambda t, w=widths: F.pad(t, w, mode), x)


def test_pad_any_dimension_and_dtype(rng):
    x = rng.integers(0, 9, (3, 4, 2))
    for widths in ((), (1, 0), (0, 0, 0, 0, 2, 1), (-1, 2, 3, -2), (-1, -1)):
        np.testing.assert_array_equal(
            F.pad(fastdl.tensor(x), widths, value=7).numpy(), ref.pad(x, widths, value=7)
        )
    y = F.pad(fastdl.tensor(x > 4), (1, 1), value=True)
    assert y.dtype == fastdl.bool and y.numpy()[..., 0].all()
    gradcheck(lambda t: F.pad(t, (-1, 2, 3, -2)), rng.standard_normal((3, 4, 2)))
    assert F.pad(fastdl.ones(0, 3), (1, 1)).shape == (0, 5)
    assert F.pad(fastdl.ones(2, 0), (1, 2)).tolist() == [[0, 0, 0]] * 2
    assert F.pad(fastdl.ones(3), (-1, -2)).shape == (0,)


def test_pad_keeps_channels_last(rng):
    x = np.moveaxis(rng.standard_normal((2, 5, 4, 3)), -1, 1)
    y = F.pad(fastdl.from_numpy(x), (1, 1, 1, 1)).numpy()
    assert np.moveaxis(y, 1, -1).flags.c_contiguous


@given(
    st.integers(1, 7),
    st.integers(0, 6),
    st.integers(0, 6),
    st.sampled_from(["constant", "reflect", "replicate", "circular"]),
)
@settings(deadline=None, max_examples=60)
def test_pad_properties(n, before, after, mode):
    limit = {"reflect": n - 1, "circular": n}.get(mode, 99)
    before, after = min(before, limit), min(after, limit)
    x = np.arange(2.0 * n).reshape(1, 2, n)
    np.testing.assert_array_equal(
        F.pad(fastdl.tensor(x), (before, after), mode).numpy(), ref.pad(x, (before, after), mode)
    )


@pytest.mark.parametrize(
    "widths, mode, value, error, message",
    [
        ((1, 2, 3), "constant", None, ValueError, "even"),
        ((1, 1) * 4, "constant", None, ValueError, "at most 3 pairs"),
        ((-3, -3), "constant", None, ValueError, "cut more"),
        ((-6, 9), "constant", None, ValueError, "cut more"),
        ((1.5, 1), "constant", None, TypeError, "integers"),
        (None, "constant", None, TypeError, "integers"),
        (3, "constant", None, TypeError, "integers"),
        ((1, 1), "mirror", None, ValueError, "mirror"),
        ((1, 1), "reflect", 2.0, ValueError, "no value"),
        ((5, 0), "reflect", None, ValueError, "at most 4"),
        ((0, 6), "circular", None, ValueError, "at most 5"),
        ((1, 1, 1, 1, 1, 1), "reflect", None, ValueError, "dimensions"),
        ((), "replicate", None, ValueError, "dimensions"),
    ],
)
def test_pad_errors(widths, mode, value, error, message):
    with pytest.raises(error, match=message) as caught:
        F.pad(fastdl.ones(2, 3, 5), widths, mode, value)
    assert str(caught.value).startswith("pad:")


def test_pad_of_nothing():
    with pytest.raises(ValueError, match="empty"):
        F.pad(fastdl.ones(1, 2, 0), (1, 1), "replicate")


# -------------------------------------------------------------------------------------------------- interpolate


MODES = [(m, d) for m in ("nearest", "nearest-exact", "area") for d in (1, 2, 3)]
MODES += [("linear", 1), ("bilinear", 2), ("bicubic", 2), ("trilinear", 3)]


@pytest.mark.parametrize("mode, dims", MODES)
def test_interpolate(mode, dims, rng):
    x = rng.standard_normal(SHAPES[dims])
    smooth = mode.endswith(("linear", "cubic"))
    for sizes in ((7, 6, 2), (1, 3, 8), x.shape[2:], (10, 8, 9)):
        for corners in (False, True) if smooth else (None,):
            sizes = sizes[:dims]
            expected = ref.interpolate(x, sizes, mode, bool(corners))
            for y in layouts(x):
                got = F.interpolate(fastdl.from_numpy(y), sizes, mode=mode, align_corners=corners).numpy()
                np.testing.assert_allclose(got, expected, 1e-12, 1e-13)
    sizes = (3, 7, 2)[:dims]
    gradcheck(lambda t: F.interpolate(t, sizes, mode=mode), x)
    if smooth:
        gradcheck(lambda t: F.interpolate(t, sizes, mode=mode, align_corners=True), x)


def test_interpolate_by_factor(rng):
    x = rng.standard_normal((1, 2, 5, 6))
    t = fastdl.tensor(x)
    for factor, sizes in (((2, 1.5), (10, 9)), (0.7, (3, 4))):
        factors = factor if isinstance(factor, tuple) else (factor,) * 2
        expected = ref.interpolate(x, sizes, "bilinear", steps=[1 / f for f in factors])
        np.testing.assert_allclose(
            F.interpolate(t, scale_factor=factor, mode="bilinear").numpy(), expected, 1e-12, 1e-13
        )
        got = F.interpolate(t, scale_factor=factor, mode="bilinear", recompute_scale_factor=True).numpy()
        np.testing.assert_allclose(got, ref.interpolate(x, sizes, "bilinear"), 1e-12, 1e-13)
    assert F.upsample(t, scale_factor=2).shape == (1, 2, 10, 12)
    assert F.interpolate(fastdl.ones(0, 2, 5), size=3).shape == (0, 2, 3)
    y = F.interpolate(fastdl.tensor([[[1, 2, 3]]]), scale_factor=2)
    assert y.tolist() == [[[1, 1, 2, 2, 3, 3]]] and y.dtype == fastdl.int64


def test_interpolate_float32(rng):
    x = rng.standard_normal((2, 3, 9, 7))
    for mode in ("bilinear", "bicubic", "area"):
        got = F.interpolate(fastdl.tensor(x, dtype=fastdl.float32), (13, 5), mode=mode)
        assert got.dtype == fastdl.float32
        np.testing.assert_allclose(got.numpy(), ref.interpolate(x, (13, 5), mode), 1e-5, 1e-5)


@pytest.mark.parametrize(
    "kwargs, error, message",
    [
        ({}, ValueError, "exactly one"),
        ({"size": 3, "scale_factor": 2}, ValueError, "exactly one"),
        ({"size": (3,)}, ValueError, "2 sizes"),
        ({"size": (0, 3)}, ValueError, "positive"),
        ({"size": (-1, 3)}, ValueError, "positive"),
        ({"size": 2.5}, TypeError, "integers"),
        ({"scale_factor": 0.01}, ValueError, "positive"),
        ({"scale_factor": -2}, ValueError, "positive"),
        ({"scale_factor": "2"}, ValueError, "factor"),
        ({"size": 3, "mode": "cubic"}, ValueError, "cubic"),
        ({"size": 3, "mode": "linear"}, ValueError, "3 dimensions"),
        ({"size": 3, "align_corners": True}, ValueError, "align_corners"),
        ({"size": 3, "mode": "bilinear", "antialias": True}, NotImplementedError, "antialias"),
    ],
)
def test_interpolate_errors(kwargs, error, message):
    with pytest.raises(error, match=message) as caught:
        F.interpolate(fastdl.ones(1, 2, 4, 5), **kwargs)
    assert str(caught.value).startswith("interpolate:")
    with pytest.raises(TypeError, match="floating-point"):
        F.interpolate(fastdl.tensor([[[1, 2]]]), size=3, mode="linear")


# ----------------------------------------------------------------------------------------------- rearrangements


def test_pixel_shuffle(rng):
    x = rng.standard_normal((2, 12, 3, 2))
    for r in (1, 2):
        y = F.pixel_shuffle(fastdl.tensor(x), r)
        np.testing.assert_array_equal(y.numpy(), ref.pixel_shuffle(x, r))
        np.testing.assert_array_equal(F.pixel_unshuffle(y, r).numpy(), x)
    gradcheck(lambda t: F.pixel_shuffle(t, 2), x)
    gradcheck(lambda t: F.pixel_unshuffle(t, 2), rng.standard_normal((1, 2, 4, 6)))
    y = F.channel_shuffle(fastdl.tensor(x), 3).numpy()
    np.testing.assert_array_equal(y[:, :4], x[:, [0, 4, 8, 1]])
    for act, error in (
        (lambda: F.pixel_shuffle(fastdl.ones(1, 3, 2, 2), 2), ValueError),
        (lambda: F.pixel_shuffle(fastdl.ones(4, 2), 2), ValueError),
        (lambda: F.pixel_shuffle(fastdl.ones(4, 2, 2), 0), ValueError),
        (lambda: F.pixel_shuffle(fastdl.ones(4, 2, 2), 2.0), TypeError),
        (lambda: F.pixel_unshuffle(fastdl.ones(4, 3, 2), 2), ValueError),
        (lambda: F.channel_shuffle(fastdl.ones(1, 4, 2), 3), ValueError),
    ):
        with pytest.raises(error):
            act()


@pytest.mark.parametrize("how", [(2,), (3, 1, 1, 2), (2, 2, 1, 1), (2, 3, 2, 3)], ids=str)
def test_unfold_and_fold(how, rng):
    x = rng.standard_normal((2, 3, 6, 5))
    columns = ref.unfold(x, *how)
    for y in layouts(x):
        np.testing.assert_array_equal(F.unfold(fastdl.from_numpy(y), *how).numpy(), columns)
    g = rng.standard_normal(columns.shape)  # fold is the transpose: <unfold x, g> = <x, fold g>
    folded = F.fold(fastdl.tensor(g), (6, 5), *how).numpy()
    np.testing.assert_allclose((columns * g).sum(), (x * folded).sum(), 1e-12)
    gradcheck(lambda t: F.unfold(t, *how), x)
    gradcheck(lambda t: F.fold(t, (6, 5), *how), g)
    np.testing.assert_array_equal(F.unfold(fastdl.tensor(x[0]), *how).numpy(), columns[0])
    np.testing.assert_array_equal(F.fold(fastdl.tensor(g[0]), (6, 5), *how).numpy(), folded[0])


@pytest.mark.parametrize(
    "act",
    [
        lambda: F.unfold(fastdl.ones(2, 3), 2),
        lambda: F.unfold(fastdl.ones(1, 1, 2, 2), 3),
        lambda: F.unfold(fastdl.ones(1, 1, 4, 4), 2, stride=0),
        lambda: F.unfold(fastdl.ones(1, 1, 4, 4), 2, padding=-1),
        lambda: F.unfold(fastdl.ones(1, 1, 4, 4), (2, 2, 2)),
        lambda: F.fold(fastdl.ones(1, 5, 4), (3, 3), 2),
        lambda: F.fold(fastdl.ones(1, 4, 5), (3, 3), 2),
        lambda: F.fold(fastdl.ones(4), (3, 3), 2),
    ],
)
def test_unfold_errors(act):
    with pytest.raises(ValueError, match=r"^(un)?fold:"):
        act()


# ---------------------------------------------------------------------------------------------------- distances


@pytest.mark.parametrize("p", [1, 2, 3, np.inf])
def test_normalize(p, rng):
    x = rng.standard_normal((3, 4, 5))
    for axis in (0, 1, -1):
        for y in layouts(x):
            got = F.normalize(fastdl.from_numpy(y), p, axis).numpy()
            np.testing.assert_allclose(got, ref.normalize(x, p, axis), 1e-12)
    gradcheck(lambda t: F.normalize(t, p), x)
    assert F.normalize(fastdl.zeros(2, 3)).tolist() == [[0] * 3] * 2


def test_normalize_below_eps_has_the_gradient_of_a_division():
    x = fastdl.tensor([[1e-3, 0.0]], requires_grad=True, dtype=fastdl.float64)
    F.normalize(x, eps=0.5).sum().backward()
    assert x.grad.tolist() == [[2.0, 2.0]]
    z = fastdl.zeros(1, 3, requires_grad=True)
    (F.normalize(z).sum() + F.pairwise_distance(z, z, eps=0.0).sum()).backward()
    assert np.isfinite(z.grad.numpy()).all()


def test_similarities(rng):
    a, b = rng.standard_normal((3, 4, 5)), rng.standard_normal((3, 4, 5))
    for axis in (0, 1, -1):
        got = F.cosine_similarity(fastdl.tensor(a), fastdl.tensor(b), axis).numpy()
        np.testing.assert_allclose(got, ref.cosine_similarity(a, b, axis), 1e-12)
    got = F.cosine_similarity(fastdl.tensor(a[:, :1]), fastdl.tensor(b[:1]), -1)
    np.testing.assert_allclose(got.numpy(), ref.cosine_similarity(a[:, :1] + 0 * b, b[:1] + 0 * a, -1), 1e-12)
    gradcheck(lambda x, y: F.cosine_similarity(x, y), a, b)
    gradcheck(lambda x, y: F.cosine_similarity(x, y, -1), a[:, :1], b[:1])
    for p in (1, 2, 3, np.inf):
        got = F.pairwise_distance(fastdl.tensor(a), fastdl.tensor(b), p)
        np.testing.assert_allclose(got.numpy(), np.linalg.norm(a - b + 1e-6, p, -1), 1e-12)
        gradcheck(lambda x, y, p=p: F.pairwise_distance(x, y, p, keepdim=True), a, b)
    with pytest.raises(IndexError, match="dim 3"):
        F.normalize(fastdl.ones(2, 3), dim=3)
    with pytest.raises(TypeError, match="floating-point"):
        F.cosine_similarity(fastdl.tensor([1, 2]), fastdl.tensor([1, 2]), 0)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 9])
def test_local_response_norm(size, rng):
    x = rng.standard_normal((2, 5, 3, 2))
    how = (size, 0.3, 0.75, 1.5)
    for y in layouts(x):
        got = F.local_response_norm(fastdl.from_numpy(y), *how).numpy()
        np.testing.assert_allclose(got, ref.local_response_norm(x, *how), 1e-12)
    gradcheck(lambda t: F.local_response_norm(t, *how), x)
    with pytest.raises(ValueError, match="3 or more"):
        F.local_response_norm(fastdl.ones(2, 3), 2)
    with pytest.raises(ValueError, match="positive"):
        F.local_response_norm(fastdl.ones(2, 3, 4), 0)


def test_bilinear(rng):
    x1, x2, w, b = (rng.standard_normal(s) for s in ((2, 3, 4), (2, 3, 5), (6, 4, 5), (6,)))
    got = F.bilinear(*map(fastdl.tensor, (x1, x2, w, b)))
    np.testing.assert_allclose(got.numpy(), ref.bilinear(x1, x2, w, b), 1e-12)
    gradcheck(F.bilinear, x1, x2, w, b)
    gradcheck(lambda *a: F.bilinear(*a), x1[0, 0], x2[0, 0], w)
    for args, error in (
        ((x1[:1], x2, w), ValueError),
        ((x1, x2, w[:, :3]), ValueError),
        ((x1, x2, w, b[:3]), ValueError),
        ((x1.astype("f"), x2, w), TypeError),
    ):
        with pytest.raises(error, match="bilinear"):
            F.bilinear(*map(fastdl.tensor, args))


def test_unpool_and_lp_pool(rng):
    x = rng.standard_normal((2, 3, 6, 4))
    y, where = F.max_pool2d(fastdl.tensor(x), 2, return_indices=True)
    restored = F.max_unpool2d(y, where, 2).numpy()
    np.testing.assert_array_equal(np.sort(restored[restored != 0]), np.sort(y.numpy().ravel()))
    assert (restored[restored != 0] == x[restored != 0]).all()
    gradcheck(lambda t: F.max_unpool2d(t, where, 2), y.numpy())
    blocks = x.reshape(2, 3, 3, 2, 2, 2) ** 2
    np.testing.assert_allclose(
        F.lp_pool2d(fastdl.tensor(x), 2, 2).numpy(), np.sqrt(blocks.sum((3, 5))), 1e-12
    )
    gradcheck(lambda t: F.lp_pool2d(t, 2, 2), x)
    gradcheck(lambda t: F.lp_pool1d(t, 3, 2), np.abs(x[0]) + 0.1)
    with pytest.raises(IndexError, match="max_unpool2d"):
        F.max_unpool2d(y, where + 99, 2)
    with pytest.raises(ValueError, match="max_unpool2d"):
        F.max_unpool2d(y, where[:1], 2)
    with pytest.raises(ValueError, match="output_size"):
        F.max_unpool2d(y, where, 2, output_size=(20, 20))
    with pytest.raises(TypeError, match="integer"):
        F.max_unpool2d(y, y, 2)
