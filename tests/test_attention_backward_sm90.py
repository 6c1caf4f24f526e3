"""The backward pass of Hopper's attention (csrc/cuda/attention_sm90_one_pass.cuh, attention_sm90_two_passes.cuh): every
problem is sent to one, then to the other, and compared with float64."""

import numpy as np
import pytest
from attention_case import BF16, F16, Case, laid_out, sim, tiles_masked_whole
from hopper import kernel_choice
from tolerance import assert_same_bits

sm90, _ = kernel_choice("FASTDL_CUDA_ATTENTION")
backward, _ = kernel_choice("FASTDL_CUDA_ATTENTION_BACKWARD", "one-pass")


@pytest.fixture(params=["one-pass", "two-passes"])
def way(request, monkeypatch):
    monkeypatch.setenv("FASTDL_CUDA_ATTENTION_BACKWARD", request.param)


# Tiles of 128 rows that are owned, of 32 to 128 that are gone over.
@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
@pytest.mark.parametrize("features", [64, 96, 128])
def test_gradients(rng, way, dtype, features):
    Case(rng, (1, 2, 1, 200, 270, features, features), dtype).check()


@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
@pytest.mark.parametrize("features", [192, 256])
def test_gradients_of_many_features(rng, dtype, features):
    Case(rng, (1, 2, 1, 200, 270, features, features), dtype).check()


@pytest.mark.parametrize("features", [192, 256])
def test_gradients_of_many_features_causal(rng, features):
    Case(rng, (1, 2, 1, 70, 140, features, features), BF16, causal=True).check()


@pytest.mark.parametrize("e, ev", [(1, 1), (40, 24), (8, 100), (72, 40), (192, 128), (30, 200)])
def test_gradients_of_features_between(rng, way, e, ev):
    Case(rng, (1, 2, 2, 70, 140, e, ev), BF16, causal=True).check()


@pytest.mark.parametrize("e", [64, 128])
@pytest.mark.parametrize("queries, keys", [(1, 1), (3, 200), (65, 3), (192, 128), (320, 270), (140, 500)])
def test_gradients_causal(rng, way, queries, keys, e):
    """Keys that no query sees get zeros."""
    Case(rng, (1, 1, 1, queries, keys, e, e), BF16, causal=True).check()


@pytest.mark.parametrize("batch, heads, groups", [(2, 4, 4), (2, 6, 2), (1, 4, 1)])
@pytest.mark.parametrize("scale", [0.3, -0.1])
def test_gradients_of_heads(rng, way, batch, heads, groups, scale):
    Case(rng, (batch, heads, groups, 66, 130, 64, 64), BF16, causal=True, scale=scale).check()


@pytest.mark.parametrize("order, padding", [((0, 2, 1, 3), 8), ((2, 0, 1, 3), 3), ((0, 1, 3, 2), 0)], ids=str)
def test_layouts_of_gradients(rng, way, order, padding):
    case = Case(rng, (2, 2, 2, 70, 90, 64, 48), BF16)
    case.forward()
    expected = [g.copy() for g in case.backward()]
    arrays = [laid_out(x, order, padding) for x in (case.grad, case.q, case.k, case.v)]
    grads = [laid_out(np.full_like(x, np.nan), order, padding) for x in (case.q, case.k, case.v)]
    sim.attention_backward(*arrays, None, case.out, case.lse, *grads, None, *case.options)
    for got, want in zip(grads, expected, strict=True):
        assert_same_bits(np.ascontiguousarray(got), want)


# What follows is about one pass: tests of the whole (test_attention_sm90.py) are too small for it to be chosen.


@pytest.mark.parametrize("e, ev", [(64, 64), (96, 80), (128, 128)])
@pytest.mark.parametrize("causal", [False, True])
def test_boolean_masks(rng, e, ev, causal):
    Case(rng, (2, 2, 1, 140, 270, e, ev), BF16, mask="bool", causal=causal).check()


@pytest.mark.parametrize("kind", ["lengths", "band", "heads"])
@pytest.mark.parametrize("e", [64, 128])
def test_tiles_masked_whole_are_passed_over(rng, kind, e):
    """Blocks of keys add to some tiles of queries and not to others. What only such tiles hold does not show."""
    b = 4 if kind == "lengths" else 1
    case = Case(rng, (b, 4, 2, 200, 400, e, 8), BF16, causal=kind == "heads")
    case.mask = tiles_masked_whole(rng, b, 4, 200, 400, kind)
    case.check()
    results = [g.copy() for g in case.grads]
    assert (results[0][~np.isfinite(case.lse)] == 0).all()
    if kind == "lengths":  # of 133 keys, 1, 0 and 400
        case.k[1:3, :, 128:], case.v[1:3, :, 128:] = np.nan, np.inf
        case.k[0, :, 256:], case.v[0, :, 256:] = np.nan, np.inf
        for got, want in zip(case.backward(), results, strict=True):
            assert_same_bits(got, want)


@pytest.mark.parametrize("masked", [False, True])
def test_turns_of_many_blocks(rng, masked):
    """More than run at the same time on a GPU of 132 multiprocessors. Masked: tiles of queries see 138 and 35 of 140
    blocks of keys, and who is whose turn is looked up in long lists."""
    case = Case(rng, (1, 1, 1, 70, 17920, 16, 8), BF16)
    if masked:
        case.mask = np.ones((1, 1, 70, 17920), bool)
        case.mask[:, :, :64, 384:512] = case.mask[:, :, :64, 17664:17792] = False
        case.mask[:, :, 64:] &= np.arange(17920) // 128 % 4 == 1
    case.check()


def test_a_mask_that_leaves_nothing(rng):
    case = Case(rng, (1, 1, 1, 70, 140, 64, 64), BF16)
    case.mask = np.zeros((1, 1, 70, 140), bool)
    case.forward()
    for grad in case.backward():
        assert (grad == 0).all()


def test_keys_that_do_not_exist_have_no_weight(rng):
    """Beside scores so low that 2 to the power of the log-sum-exp is 0."""
    case = Case(rng, (1, 1, 1, 70, 140, 64, 64), BF16)
    case.q, case.k = case.q + BF16.type(6), case.k - BF16.type(6)
    case.check()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_queries_that_are_not_finite_do_not_spoil_others(rng, value):
    case = Case(rng, (1, 1, 1, 130, 200, 64, 64), BF16)
    case.forward()
    plain = case.backward()[0]
    case.q[0, 0, 70, 5] = value
    case.forward()
    got = case.backward()[0]
    assert np.isnan(got[0, 0, 70].astype("f4")).all()
    rest = np.arange(130) != 70
    assert_same_bits(got[:, :, rest], plain[:, :, rest])


@pytest.mark.parametrize("causal, mask", [(False, None), (True, None), (True, "bool")])
def test_same_bits_whatever_the_order_of_blocks(rng, monkeypatch, causal, mask):
    """Five blocks of keys add to every tile of queries; of several heads and by turns of threads that the seed says."""
    case = Case(rng, (1, 4, 2, 130, 600, 64, 64), BF16, causal=causal, mask=mask)
    case.forward()
    expected = None
    for seed, threads in ((1, 1), (2, 3), (3, 8), (4, 8)):  # of the host executor
        monkeypatch.setenv("FASTDL_SIMT_SEED", str(seed))
        monkeypatch.setenv("FASTDL_SIMT_THREADS", str(threads))
        got = case.backward()
        for a, b in zip(got, expected or got, strict=True):
            assert_same_bits(a, b)
        expected = got
