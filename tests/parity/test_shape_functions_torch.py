"""pad, interpolate, pixel_shuffle, unfold, distances: outputs and gradients against PyTorch's."""

import numpy as np
import pytest

import fastdl
import fastdl.nn.functional as F
from fastdl.functional import distance, pad, resample

torch = pytest.importorskip("torch")
TF = torch.nn.functional


def check(ours, theirs, *shapes, rng, dtype=np.float64, rtol=1e-12):
    """Both functions on the same random inputs: values, and gradients for the same random cotangent."""
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    a = [fastdl.tensor(x, requires_grad=True) for x in arrays]
    b = [torch.tensor(x, requires_grad=True) for x in arrays]
    y, z = ours(*a), theirs(*b)
    assert tuple(y.shape) == tuple(z.shape)
    scale = max(1.0, float(z.detach().abs().max())) if z.numel() else 1.0
    np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy(), rtol, rtol * scale)
    w = rng.standard_normal(z.shape).astype(dtype)
    y.backward(fastdl.tensor(w))
    z.backward(torch.tensor(w))
    for p, q in zip(a, b, strict=True):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol, 10 * rtol)


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
@pytest.mark.parametrize(
    "shape, widths",
    [
        ((2, 3, 5), (1, 2)),
        ((3, 5), (4, 0)),
        ((2, 3, 5, 4), (1, 2, 3, 0)),
        ((2, 3, 4, 3, 5), (1, 2, 0, 2, 3, 1)),
        ((2, 3, 5, 4), (-1, 2, 1, -2)),
        ((2, 3, 1, 1), (0, 0, 0, 0)),
    ],
)
def test_pad(mode, shape, widths, rng):
    if mode == "reflect" and min(widths) < 0:
        pytest.skip("torch reads outside the input there")
    check(lambda x: pad.pad(x, widths, mode), lambda x: TF.pad(x, widths, mode), shape, rng=rng)


@pytest.mark.parametrize("widths", [(), (1, 1), (0, 0, 2, 1, 1, 3), (-2, -1, 3, -1)])
def test_pad_constant_any_dimensions(widths, rng):
    check(lambda x: pad.pad(x, widths, value=2.5), lambda x: TF.pad(x, widths, value=2.5), (4, 3, 5), rng=rng)


SIZES = [
    {"size": 7},
    {"size": 2},
    {"size": 5},
    {"scale_factor": 2},
    {"scale_factor": 1.7},
    {"scale_factor": 0.6},
]
SIZES += [{"scale_factor": 1.7, "recompute_scale_factor": True}]


@pytest.mark.parametrize("how", SIZES, ids=str)
@pytest.mark.parametrize(
    "mode, dims, corners",
    [(m, d, None) for m in ("nearest", "nearest-exact", "area") for d in (1, 2, 3)]
    + [
        (m, d, c)
        for m, d in (("linear", 1), ("bilinear", 2), ("bicubic", 2), ("trilinear", 3))
        for c in (0, 1)
    ],
)
def test_interpolate(mode, dims, corners, how, rng):
    corners = None if corners is None else bool(corners)
    check(
        lambda x: resample.interpolate(x, mode=mode, align_corners=corners, **how),
        lambda x: TF.interpolate(x, mode=mode, align_corners=corners, **how),
        (2, 3, 5, 6, 4)[: 2 + dims],
        rng=rng,
        rtol=1e-10,
    )


def test_interpolate_float32_and_sizes(rng):
    for out in (1, 3, 10, 31):
        for mode in ("nearest", "nearest-exact"):
            check(
                lambda x, out=out, mode=mode: resample.interpolate(x, size=(out, 2 * out), mode=mode),
                lambda x, out=out, mode=mode: TF.interpolate(x, size=(out, 2 * out), mode=mode),
                (1, 2, 17, 9),
                rng=rng,
                dtype=np.float32,
                rtol=1e-6,
            )


def test_rearranging(rng):
    check(lambda x: resample.pixel_shuffle(x, 2), lambda x: TF.pixel_shuffle(x, 2), (2, 8, 3, 4), rng=rng)
    check(lambda x: resample.pixel_shuffle(x, 3), lambda x: TF.pixel_shuffle(x, 3), (9, 3, 4), rng=rng)
    check(lambda x: resample.pixel_unshuffle(x, 2), lambda x: TF.pixel_unshuffle(x, 2), (2, 2, 6, 4), rng=rng)
    check(lambda x: resample.channel_shuffle(x, 3), lambda x: TF.channel_shuffle(x, 3), (2, 6, 3, 4), rng=rng)


@pytest.mark.parametrize("how", [(2,), ((2, 3), 1, (0, 1), 2), (3, 2, 2, (2, 1))], ids=str)
def test_unfold_and_fold(how, rng):
    check(lambda x: F.unfold(x, *how), lambda x: TF.unfold(x, *how), (2, 3, 6, 7), rng=rng)
    check(lambda x: F.unfold(x, *how), lambda x: TF.unfold(x, *how), (3, 6, 7), rng=rng)
    columns = TF.unfold(torch.zeros(2, 3, 6, 7), *how).shape
    check(lambda x: F.fold(x, (6, 7), *how), lambda x: TF.fold(x, (6, 7), *how), columns, rng=rng)


@pytest.mark.parametrize("p", [1, 2, 3.5, float("inf")])
def test_distances(p, rng):
    for dim in (0, 1, -1):
        check(
            lambda x, dim=dim: distance.normalize(x, p, dim),
            lambda x, dim=dim: TF.normalize(x, p, dim),
            (3, 4, 5),
            rng=rng,
        )
    check(
        lambda x, y: distance.pairwise_distance(x, y, p, keepdim=True),
        lambda x, y: TF.pairwise_distance(x, y, p, keepdim=True),
        *((3, 4), (3, 4)),
        rng=rng,
    )


def test_cosine_similarity(rng):
    for a, b, dim in (
        ((3, 4), (3, 4), 1),
        ((3, 4, 5), (4, 5), -1),
        ((3, 1, 5), (1, 4, 5), 2),
        ((6,), (6,), 0),
    ):
        check(
            lambda x, y, dim=dim: distance.cosine_similarity(x, y, dim),
            lambda x, y, dim=dim: TF.cosine_similarity(x, y, dim),
            *(a, b),
            rng=rng,
        )


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
def test_local_response_norm(size, rng):
    check(
        lambda x: distance.local_response_norm(x, size, 0.3, 0.75, 1.5),
        lambda x: TF.local_response_norm(x, size, 0.3, 0.75, 1.5),
        (2, 6, 3, 4),
        rng=rng,
    )
