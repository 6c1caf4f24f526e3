"""Few queries on Hopper (csrc/cuda/attention_sm90_decode.cuh): every problem is sent there and compared with float64.
On the host executor where it was built (FASTDL_SIMT=ON), on a GPU of compute capability 9.0 with ``--device cuda``."""

import numpy as np
import pytest
from attention_case import BF16, F16, Case, laid_out
from hopper import kernel_choice
from tolerance import assert_same_bits

sm90, portable = kernel_choice("FASTDL_CUDA_ATTENTION")


# A tile has 64 keys, a block 64 rows: of the queries of all heads that share keys.
@pytest.mark.parametrize("queries", [1, 2, 5, 8, 16, 33, 63])
@pytest.mark.parametrize("heads, groups", [(1, 1), (4, 2), (5, 1)])
def test_rows(rng, queries, heads, groups):
    case = Case(rng, (1, heads, groups, queries, 333, 64, 64), BF16)
    case.check_forward()


@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
@pytest.mark.parametrize("e, ev", [(64, 64), (96, 96), (128, 128), (192, 192), (256, 256)])
def test_classes_of_features(rng, dtype, e, ev):
    """And more tiles than a ring has stages."""
    Case(rng, (2, 4, 2, 3, 1000, e, ev), dtype, mask="bool").check_forward()


@pytest.mark.parametrize("e, ev", [(1, 1), (40, 24), (8, 100), (72, 40), (192, 128), (200, 30)])
def test_features_between(rng, e, ev):
    Case(rng, (1, 3, 1, 4, 140, e, ev), BF16, scale=0.3).check_forward()


@pytest.mark.parametrize("keys", [1, 2, 63, 64, 65, 128, 129, 4000])
def test_numbers_of_keys(rng, keys):
    case = Case(rng, (1, 4, 2, 2, keys, 64, 64), BF16)
    case.check_forward()


@pytest.mark.parametrize("e, batch", [(128, 264), (256, 132)])
def test_one_part(rng, e, batch):
    """Samples enough that nobody cuts the keys, which go round the ring of stages."""
    lengths = np.zeros(batch, int)
    lengths[[0, 7]] = 520, 390
    whole = Case(rng, (1, 2, 1, 1, 520, e, 64), BF16)
    case = Case(rng, (1, 2, 1, 1, 1, e, 64), BF16)
    case.q, case.k, case.v = (np.broadcast_to(x, (batch, *x.shape[1:])) for x in (whole.q, whole.k, whole.v))
    case.mask = np.broadcast_to((np.arange(520) < lengths[:, None])[:, None, None], (batch, 2, 1, 520))
    case.forward()
    for b in (0, 7):
        whole.mask = case.mask[b : b + 1]
        whole.check_forward()
        np.testing.assert_allclose(case.out[b].astype("f4"), whole.out[0].astype("f4"), rtol=0, atol=2.0**-9)
        np.testing.assert_allclose(case.lse[b], whole.lse[0], rtol=1e-6)
    assert (case.out[lengths == 0] == 0).all() and (case.lse[lengths == 0] == -np.inf).all()


@pytest.mark.parametrize(
    "queries, keys", [(1, 1), (1, 200), (3, 200), (20, 7), (63, 64), (63, 40), (40, 300)]
)
def test_causal(rng, queries, keys):
    """What keys hold that no query sees does not show."""
    case = Case(rng, (1, 4, 2, queries, keys, 64, 64), BF16, causal=True)
    case.check_forward()
    want = [case.out.copy(), case.lse.copy()]
    case.k[:, :, queries:], case.v[:, :, queries:] = np.nan, np.inf
    for got, before in zip([case.forward(), case.lse], want, strict=True):
        assert_same_bits(got, before)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("e", [64, 256])
def test_boolean_masks(rng, e, causal):
    case = Case(rng, (2, 6, 2, 5, 500, e, 64), F16, mask="bool", causal=causal)
    case.check_forward()
    case.mask = rng.random(case.mask.shape) < 0.5  # of each head others
    case.check_forward()


@pytest.mark.parametrize("dtype, terms", [(BF16, BF16), (F16, "f4")], ids=str)
@pytest.mark.parametrize("e", [64, 128, 256])
def test_added_masks(rng, dtype, terms, e):
    """Some terms are -infinity, and all of one row; whatever their strides."""
    case = Case(rng, (2, 6, 2, 5, 300, e, 64), dtype, causal=e == 128)
    case.mask = rng.standard_normal((2, 6, 5, 300)).astype(terms)
    case.mask[rng.random(case.mask.shape) < 0.3] = -np.inf
    case.mask[1, 3, 2] = -np.inf
    case.check_forward()
    assert (case.out[1, 3, 2] == 0).all()
    want = case.out.copy()
    case.mask = np.asfortranarray(case.mask)
    assert_same_bits(case.forward(), want)
    case.mask = np.broadcast_to(case.mask[:1, :1, :1], case.mask.shape)
    case.check_forward()


@pytest.mark.parametrize("scale", [-0.3, 0.0, 1e-60])
@pytest.mark.parametrize("mask", [None, "bool", "float"])
def test_scales_that_are_not_positive(rng, scale, mask):
    Case(rng, (1, 4, 2, 3, 200, 64, 64), BF16, mask=mask, scale=scale).check_forward()


def test_lengths(rng):
    """What keys beyond them hold does not show if they fill tiles; parts without any key add nothing; a length of 0
    gives zeros."""
    lengths = np.array([500, 64, 1, 0, 321])
    case = Case(rng, (5, 4, 2, 3, 500, 64, 64), BF16)
    mask = np.arange(500) < lengths[:, None]
    case.mask = np.broadcast_to(mask[:, None, None], (5, 4, 3, 500))
    case.check_forward()
    assert (case.out[3] == 0).all() and (case.lse[3] == -np.inf).all()
    want = [case.out.copy(), case.lse.copy()]
    for b, length in enumerate(lengths):
        whole = -(-length // 64) * 64
        case.k[b, :, whole:], case.v[b, :, whole:] = np.nan, np.inf
    for got, before in zip([case.forward(), case.lse], want, strict=True):
        assert_same_bits(got, before)


def test_tiles_that_one_head_sees(rng):
    """Of a group, and one query of it; the other rows see nothing at all."""
    case = Case(rng, (1, 8, 2, 4, 700, 64, 64), BF16)
    case.mask = np.zeros((1, 8, 4, 700), bool)
    case.mask[0, 2, 3, 130:140] = True
    case.mask[0, 7, 0, [0, 699]] = True
    case.check_forward()
    assert (case.out[~case.mask.any(3)] == 0).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_stay_in_their_rows(rng, value):
    case = Case(rng, (1, 6, 2, 5, 400, 64, 64), BF16)
    plain, lse = case.forward().copy(), case.lse.copy()
    case.q[0, 1, 3, 5] = value
    case.forward()
    assert np.isnan(case.out[0, 1, 3].astype("f4")).all() and np.isnan(case.lse[0, 1, 3])
    case.out[0, 1, 3], case.lse[0, 1, 3] = plain[0, 1, 3], lse[0, 1, 3]
    assert_same_bits(case.out, plain)
    assert_same_bits(case.lse, lse)


def test_large_scores(rng):
    """Of each row the largest wins, whichever part has it."""
    case = Case(rng, (1, 4, 1, 2, 500, 64, 64), BF16, scale=1e9)
    case.check_forward()


def test_growing_scores_move_the_running_maximum(rng):
    case = Case(rng, (1, 2, 1, 2, 600, 64, 64), F16)
    case.q, case.k = np.abs(case.q), np.abs(case.k) * np.linspace(0, 2, 600)[:, None].astype("f2")
    case.check_forward()
    case.k = np.ascontiguousarray(case.k[:, :, ::-1])
    case.check_forward()


@pytest.mark.parametrize("order", [(0, 2, 1, 3), (2, 0, 1, 3), (0, 1, 3, 2)], ids=str)
@pytest.mark.parametrize("padding", [0, 8, 3])
def test_layouts(rng, order, padding):
    """(B, S, H, D) and others in place; keys and values copied where rows are not aligned or not contiguous."""
    Case(rng, (2, 4, 2, 5, 190, 64, 48), BF16).check_layout(order, padding)


def test_repeated_operands(rng):
    case = Case(rng, (2, 2, 2, 3, 150, 64, 64), BF16)
    case.k = np.broadcast_to(case.k[:1, :1], case.k.shape)
    case.v = case.v[:, ::-1]  # which the copy engine does not go
    case.check_forward()
    case.v = np.broadcast_to(case.v[:, :1], case.v.shape)
    case.q = case.q[:, :, ::-1]
    case.check_forward()


def test_gradients_take_its_results(rng, portable):
    case = Case(rng, (1, 4, 2, 5, 300, 64, 64), BF16)
    case.check()
    got = [g.copy() for g in case.backward()]
    portable(case.forward)
    for a, b in zip(got, case.backward(), strict=True):
        np.testing.assert_allclose(a.astype("f4"), b.astype("f4"), rtol=0, atol=2.0**-6)


@pytest.mark.parametrize("mask", [None, "bool", "float"])
def test_more_queries_of_few_heads(rng, mask):
    """Which would leave most of a device idle if keys were whole."""
    Case(rng, (1, 1, 1, 100, 2100, 64, 64), BF16, mask=mask).check_forward()


def test_who_gets_it_by_itself(rng, monkeypatch, portable):
    """Few queries of heads that share keys, and not one query and few keys, which multiply-adds begin sooner; nor keys
    that would have to be copied first."""
    for heads, padding, kernel in ((4, 0, "sm90"), (1, 0, "portable"), (4, 3, "portable")):
        case = Case(rng, (1, heads, 1, 1, 200, 64, 64), BF16)
        case.k = laid_out(case.k, (0, 1, 2, 3), padding)
        want = case.forward().copy() if kernel == "sm90" else portable(case.forward).copy()
        monkeypatch.delenv("FASTDL_CUDA_ATTENTION")
        assert_same_bits(case.forward(), want)
        monkeypatch.setenv("FASTDL_CUDA_ATTENTION", "sm90")


def test_dropout_is_left_to_other_kernels(rng):
    Case(rng, (1, 4, 2, 5, 80, 64, 64), BF16, dropout=0.3).check_forward()


def test_same_bits_again(rng):
    case = Case(rng, (2, 8, 2, 3, 2000, 128, 128), BF16)
    first = [case.forward().copy(), case.lse.copy()]
    for again, before in zip([case.forward(), case.lse], first, strict=True):
        assert_same_bits(again, before)
