"""Hopper's attention (csrc/cuda/attention_sm90_*.cuh): every problem is sent to it and compared with float64.
On the host executor where it was built (FASTDL_SIMT=ON), on a GPU of compute capability 9.0 with ``--device cuda``."""

import numpy as np
import pytest
from attention_case import BF16, F16, ROUNDOFF, Case, tiles_masked_whole
from hopper import kernel_choice
from tolerance import assert_same_bits

sm90, portable = kernel_choice("FASTDL_CUDA_ATTENTION")


def check_near(got, other, dtype):
    """Two kernels' results: both within a rounding or so of the truth."""
    for a, b in zip(got, other, strict=True):
        a, b = a.astype("f8"), b.astype("f8")
        allowed = 2 * ROUNDOFF[dtype] * max(1, np.abs(b[np.isfinite(b)]).max(initial=0))
        np.testing.assert_allclose(a, b, rtol=0, atol=allowed)


# Two blocks of queries and three tiles of keys, a tail of each, heads that share keys; every class of features.
@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
@pytest.mark.parametrize("e, ev", [(64, 64), (128, 128), (96, 96), (192, 192), (256, 256)])
def test_classes_of_features(rng, dtype, e, ev):
    Case(rng, (1, 2, 1, 200, 270, e, ev), dtype).check_forward()


@pytest.mark.parametrize("e, ev", [(1, 1), (40, 24), (8, 100), (72, 40), (192, 128), (200, 30)])
def test_features_between(rng, e, ev):
    Case(rng, (1, 2, 2, 70, 140, e, ev), BF16, causal=True).check_forward()


@pytest.mark.parametrize("e", [64, 128])
@pytest.mark.parametrize(
    "queries, keys", [(1, 1), (3, 200), (65, 3), (192, 128), (320, 270), (200, 500), (390, 64)]
)
def test_causal(rng, queries, keys, e):
    """Tiles beyond the diagonal are passed over, for each block of queries others."""
    Case(rng, (1, 1, 1, queries, keys, e, e), BF16, causal=True).check_forward()


@pytest.mark.parametrize("batch, heads, groups", [(2, 4, 4), (2, 6, 2), (1, 4, 1)])
def test_heads(rng, batch, heads, groups):
    Case(rng, (batch, heads, groups, 66, 130, 64, 64), BF16, causal=True, scale=0.3).check_forward()


def test_more_keys_than_the_cache_holds_of_all_heads(rng):
    """Blocks go over two heads, then over the third."""
    case = Case(rng, (1, 3, 1, 300, 300, 64, 64), BF16, causal=True)
    expected = case.forward().copy()
    far = np.zeros((1, 1, 60000, 64), BF16)  # beyond what any query sees
    k, v = far.copy(), far
    k[:, :, :300], v[:, :, :300] = case.k, case.v
    case.k, case.v = (np.broadcast_to(x, (1, 3, 60000, 64)) for x in (k, v))
    assert_same_bits(case.forward(), expected)


def test_same_as_the_portable_kernels(rng, portable):
    """Each backward pass takes the log-sum-exp of either forward pass."""
    case = Case(rng, (1, 2, 1, 200, 150, 64, 64), F16, causal=True)
    results = [case.forward().copy(), case.lse.copy(), *case.backward()]
    crossed = portable(case.backward)
    others = [portable(case.forward), case.lse, *portable(case.backward)]
    check_near([*results, *case.backward()], [*others, *crossed], F16)


@pytest.mark.parametrize("order", [(0, 2, 1, 3), (2, 0, 1, 3), (0, 1, 3, 2)], ids=str)
@pytest.mark.parametrize("padding", [0, 8, 3])
def test_layouts(rng, order, padding):
    """(B, S, H, D) and others in place; copied where rows are not aligned or not contiguous."""
    Case(rng, (2, 2, 2, 70, 90, 64, 48), BF16).check_layout(order, padding)


def test_repeated_operands(rng):
    """Along batch and heads; along the keys, and backwards, which the copy engine does not go."""
    case = Case(rng, (2, 2, 2, 70, 90, 64, 64), BF16)
    case.k = np.broadcast_to(case.k[:1, :1], case.k.shape)
    case.v = case.v[:, ::-1]
    case.check_forward()
    case.k = np.broadcast_to(case.k[:, :, :1], case.k.shape)
    case.check_forward()


def test_growing_scores_move_the_running_maximum(rng):
    case = Case(rng, (1, 1, 1, 20, 600, 64, 64), F16)
    case.q, case.k = np.abs(case.q), np.abs(case.k) * np.linspace(0, 2, 600)[:, None].astype("f2")
    case.check_forward()
    case.k = np.ascontiguousarray(case.k[:, :, ::-1])
    case.check_forward()


@pytest.mark.parametrize("e, ev", [(64, 64), (96, 80), (128, 128)])
@pytest.mark.parametrize("causal", [False, True])
def test_boolean_masks(rng, e, ev, causal):
    Case(rng, (2, 2, 1, 140, 270, e, ev), BF16, mask="bool", causal=causal).check()


@pytest.mark.parametrize("kind", ["lengths", "band", "heads"])
@pytest.mark.parametrize("e", [64, 128])
def test_tiles_masked_whole_are_passed_over(rng, portable, kind, e):
    """And queries that see nothing give zeros. What only such tiles hold does not show."""
    b = 4 if kind == "lengths" else 1
    case = Case(rng, (b, 2, 1, 130, 300, e, 8), BF16, causal=kind == "heads")
    case.mask = tiles_masked_whole(rng, b, 2, 130, 300, kind)
    results = [case.forward().copy(), case.lse.copy(), *case.backward()]
    check_near(results, [portable(case.forward), case.lse, *portable(case.backward)], BF16)
    assert (results[0][~np.isfinite(results[1])] == 0).all()
    if kind == "lengths":  # of 100 keys, 1, 0 and 300
        case.k[:3, :, 128:], case.v[:3, :, 128:] = np.nan, np.inf
        for got, want in zip([case.forward(), case.lse, *case.backward()], results, strict=True):
            assert_same_bits(got, want)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_stay_in_their_rows(rng, value):
    case = Case(rng, (1, 1, 1, 130, 200, 64, 64), BF16)
    plain = case.forward().copy()
    case.q[0, 0, 70, 5] = value
    case.forward()
    assert np.isnan(case.out[0, 0, 70].astype("f4")).all()
    rest = np.arange(130) != 70
    assert_same_bits(case.out[:, :, rest], plain[:, :, rest])


@pytest.mark.parametrize("value", [3e2, 1e4, 1e6, 4e17])
@pytest.mark.parametrize("e", [64, 256])
def test_large_scores(rng, value, e):
    """Beyond 2^31, where roundings are many powers of 2, and beyond float32 once they are scaled. Between rows and
    tiles that have some, others that have none; several near the largest."""
    case = Case(rng, (1, 1, 1, 70, 400, e, 64), BF16, scale=8.0)
    case.q[0, 0, 3], case.k[0, 0, 5], case.k[0, 0, 190], case.k[0, 0, 390] = value, value, 1.5 * value, -value
    case.q[0, 0, 40], case.k[0, 0, 191:195] = case.q[0, 0, 3], case.k[0, 0, 190]
    case.q[0, 0, 50] = -value
    np.testing.assert_allclose(case.forward().astype("f4"), case.expected()[0], rtol=0, atol=0.02)


@pytest.mark.parametrize("e", [64, 96, 128])
@pytest.mark.parametrize("options", [{"causal": True}, {"dropout": 0.2}], ids=str)
def test_same_bits_on_any_number_of_multiprocessors(rng, monkeypatch, options, e):
    """Blocks take one tile of queries after another: all of them, or one each. (A GPU has as many as it has.)"""
    case = Case(rng, (2, 3, 1, 300, 200, e, e), BF16, **options)
    results = []
    for processors in (1, 5, 64):
        monkeypatch.setenv("FASTDL_SIMT_PROCESSORS", str(processors))
        results.append([case.forward().copy(), case.lse.copy()])
    assert_same_bits(results[0][0], results[1][0])
    for got, want in zip(results[2], results[0], strict=True):
        assert_same_bits(got, want)
    case.check()


def test_more_tiles_than_a_gpu_has_multiprocessors(rng):
    """144 tiles of queries: blocks of 132 multiprocessors take one, a few of them another one."""
    Case(rng, (2, 36, 4, 140, 140, 64, 8), BF16, causal=True, dropout=0.2).check_forward()


def test_same_bits_again(rng):
    case = Case(rng, (1, 3, 1, 400, 300, 64, 64), BF16, causal=True)
    first = [case.forward().copy(), *case.backward()]
    for again, before in zip([case.forward(), *case.backward()], first, strict=True):
        assert_same_bits(again, before)
