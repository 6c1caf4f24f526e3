"""Masks, dropout and scales of Hopper's attention (csrc/cuda/attention_sm90_mask.cuh): every problem is sent to its
kernels and compared with float64. Gradients are made by whichever kernels take them, of the log-sum-exp left here."""

import numpy as np
import pytest
from attention_case import BF16, F16, Case, tiles_masked_whole
from hopper import kernel_choice
from references import attention as ref
from tolerance import assert_same_bits

sm90, _ = kernel_choice("FASTDL_CUDA_ATTENTION")

FEATURES = pytest.mark.parametrize("e, ev", [(64, 64), (96, 80), (128, 128), (192, 136), (256, 256)])


def check(case):
    """Results, gradients and the log-sum-exp."""
    case.check()
    scale, causal, *_ = case.options
    mask = case.mask if case.mask is None or case.mask.dtype == bool else case.mask.astype("f8")
    want = ref.logsumexp_of_scores(case.q.astype("f8"), case.k.astype("f8"), mask, causal, scale, True)
    np.testing.assert_allclose(case.lse, want, rtol=1e-6, atol=1e-5)


def check_layout(case, mask):
    """The same bits from a mask that lies otherwise."""
    case.mask = np.ascontiguousarray(np.broadcast_to(mask, mask.shape))
    expected = [case.forward().copy(), case.lse.copy()]
    case.mask = mask
    for got, want in zip([case.forward(), case.lse], expected, strict=True):
        assert_same_bits(got, want)
    assert np.isfinite(expected[0].astype("f4")).all()


def layouts(mask):
    """The same mask, or one repeated along some dims, in other strides."""
    b, h, n, s = mask.shape
    yield mask.transpose(0, 1, 3, 2).copy().transpose(0, 1, 3, 2)
    yield mask.transpose(2, 0, 3, 1).copy().transpose(1, 3, 0, 2)
    for padding in (0, 1, 8):  # rows that the copy engine can read, and others
        whole = np.zeros((b, h, n, (s + 7) // 8 * 8 + padding), mask.dtype)
        whole[..., :s] = mask
        yield whole[..., :s]
    yield np.broadcast_to(mask[:, :, :1], mask.shape)
    yield np.broadcast_to(mask[:1, :, :, :1], mask.shape)
    yield np.broadcast_to(mask[:, :1], mask.shape)
    yield np.broadcast_to(mask[:1, :1, :1], mask.shape)
    if mask.dtype == bool:
        yield np.ascontiguousarray(mask[:, :, ::-1])[:, :, ::-1]


@FEATURES
@pytest.mark.parametrize("causal", [False, True])
def test_boolean_masks(rng, e, ev, causal):
    check(Case(rng, (2, 2, 1, 140, 270, e, ev), BF16, mask="bool", causal=causal))


@pytest.mark.parametrize("queries, keys", [(1, 1), (65, 3), (130, 128), (3, 400)])
@pytest.mark.parametrize("mask", ["bool", "float"])
def test_few(rng, queries, keys, mask):
    case = Case(rng, (1, 2, 2, queries, keys, 64, 64), F16, mask=mask)
    if mask == "bool":
        case.mask = case.mask | (np.arange(keys) == 0)
    check(case)


@FEATURES
@pytest.mark.parametrize("dtype", [BF16, np.dtype("f4")], ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_masks_that_are_added(rng, e, ev, dtype, causal):
    case = Case(rng, (2, 2, 1, 140, 270, e, ev), BF16, causal=causal)
    case.mask = np.broadcast_to(3 * rng.standard_normal((2, 1, 140, 270)), (2, 2, 140, 270)).astype(dtype)
    check(case)


def test_masks_of_float16(rng):
    check(Case(rng, (1, 3, 1, 200, 130, 64, 64), F16, mask="float"))


@pytest.mark.parametrize("dtype", [bool, BF16, np.dtype("f4")], ids=str)
def test_layouts_of_masks(rng, dtype):
    case = Case(rng, (2, 2, 1, 70, 203, 64, 64), BF16)
    mask = rng.standard_normal((2, 2, 70, 203))
    mask = mask < 1 if dtype is bool else mask.astype(dtype)
    mask[..., 0] = 1  # no query without keys
    for layout in layouts(mask):
        check_layout(case, layout)


def test_masks_that_lie_backwards_are_left_to_the_portable_kernels(rng):
    case = Case(rng, (1, 2, 2, 70, 80, 64, 64), BF16, mask="float")
    case.mask = np.ascontiguousarray(case.mask[:, :, ::-1])[:, :, ::-1]
    check(case)


@pytest.mark.parametrize("e", [64, 192])
def test_what_is_forbidden(rng, e):
    """Minus infinity is as a boolean mask, also for products that are NaN; queries of nothing give zeros."""
    case = Case(rng, (1, 2, 1, 140, 270, e, 64), BF16)
    seen = np.broadcast_to(rng.random((140, 270)) < 0.7, (1, 2, 140, 270)).copy()
    seen[:, :, 20:30], seen[..., 50] = False, False
    case.k[:, :, 50] = np.nan
    results = []
    for mask in (seen, np.where(seen, 0, -np.inf).astype("f4"), np.where(seen, 0, -np.inf).astype(BF16)):
        case.mask = mask
        case.forward()
        results.append((case.out.astype("f4"), case.lse.copy()))
        assert (results[-1][0][:, :, 20:30] == 0).all() and np.isneginf(case.lse[:, :, 20:30]).all()
    for out, lse in results[1:]:
        np.testing.assert_allclose(out, results[0][0], rtol=0, atol=2.0**-8)
        np.testing.assert_allclose(lse, results[0][1], rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("kind", ["lengths", "band", "heads"])
@pytest.mark.parametrize("e", [192, 256])
def test_tiles_masked_whole_of_many_features(rng, kind, e):
    b = 4 if kind == "lengths" else 1
    case = Case(rng, (b, 2, 1, 130, 300, e, 8), BF16, causal=kind == "heads")
    case.mask = tiles_masked_whole(rng, b, 2, 130, 300, kind)
    check(case)


def test_terms_of_any_size(rng):
    """Slopes along the keys, as of positions, and what programs write for minus infinity."""
    case = Case(rng, (1, 2, 2, 140, 270, 64, 64), BF16)
    slopes = np.array([0.5, -40.0])[:, None, None] * (np.arange(270) - np.arange(140)[:, None])
    case.mask = slopes[None].astype("f4")
    check(case)
    case.mask = np.where(rng.random((1, 2, 140, 270)) < 0.5, -1e9, 0).astype("f4")
    check(case)


# Four weights share a block of random words: rows whose elements begin with one, in its middle, anywhere.
@pytest.mark.parametrize("keys", [272, 270, 269, 267])
@pytest.mark.parametrize("mask", [None, "bool", "float"])
def test_dropout(rng, keys, mask):
    case = Case(rng, (2, 2, 1, 130, keys, 64, 64), BF16, mask=mask, dropout=0.3, causal=keys == 267)
    check(case)


@FEATURES
@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
def test_dropout_of_features(rng, e, ev, dtype):
    check(Case(rng, (1, 2, 1, 140, 200, e, ev), dtype, dropout=0.6))


@FEATURES
@pytest.mark.parametrize("scale", [-0.1, 0.0])
@pytest.mark.parametrize("mask", [None, "bool", "float"])
def test_scales_that_are_not_positive(rng, e, ev, scale, mask):
    check(Case(rng, (1, 2, 1, 140, 200, e, ev), BF16, scale=scale, mask=mask, causal=mask is None))


def test_scale_that_float32_has_no_room_for(rng):
    check(Case(rng, (1, 2, 1, 70, 80, 64, 64), BF16, scale=1e-60, causal=True))


def test_same_bits_again(rng):
    case = Case(rng, (1, 3, 1, 400, 300, 64, 64), BF16, mask="float", dropout=0.1, causal=True)
    first = [case.forward().copy(), case.lse.copy()]
    for again, before in zip([case.forward(), case.lse], first, strict=True):
        assert_same_bits(again, before)
