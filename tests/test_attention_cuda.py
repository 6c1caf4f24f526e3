"""What is special to the portable CUDA attention kernels: tiles, classes of features, pieces of float32, parts of the
keys, values that do not split. On the host executor where it was built (FASTDL_SIMT=ON), else skipped."""

import numpy as np
import pytest
from attention_case import BF16, F16, ROUNDOFF, Case, sim, tiles_masked_whole
from references import attention as ref
from tolerance import assert_same_bits

HIGHEST, HIGH, MEDIUM = range(3)


@pytest.fixture(autouse=True)
def portable(monkeypatch):
    """Hopper's kernels have tests/test_attention_sm90.py."""
    monkeypatch.setenv("FASTDL_CUDA_ATTENTION", "portable")


@pytest.fixture
def precision():
    """Sets the precision of float32 products for one test."""
    yield sim.set_float32_precision
    sim.set_float32_precision(HIGHEST)


# Several blocks of queries and of keys, a tail of each, heads that share keys; every class of features.
TILES = (1, 2, 1, 140, 150, 40, 24)


@pytest.mark.parametrize("dtype", ["f4", BF16, F16, "f8"], ids=str)
@pytest.mark.parametrize(
    "options", [{}, {"causal": True}, {"mask": "bool"}, {"mask": "float"}, {"dropout": 0.3}]
)
def test_tiles(rng, dtype, options):
    Case(rng, TILES, dtype, **options).check()


@pytest.mark.parametrize("dtype", ["f4", BF16, F16], ids=str)
@pytest.mark.parametrize(
    "e, ev", [(64, 64), (100, 72), (128, 128), (72, 256), (200, 30), (300, 20), (8, 260)]
)
def test_classes_of_features(rng, dtype, e, ev):
    Case(rng, (1, 1, 1, 20, 70, e, ev), dtype, causal=True).check()


@pytest.mark.parametrize("dtype", ["f4", BF16], ids=str)
@pytest.mark.parametrize("queries, keys", [(65, 3), (3, 200), (64, 64), (129, 33), (130, 65)])
def test_causal_edges(rng, dtype, queries, keys):
    Case(rng, (1, 4, 2, queries, keys, 16, 16), dtype, causal=True, mask="bool").check()


@pytest.mark.parametrize("dtype", ["f4", BF16, F16, "f8"], ids=str)
@pytest.mark.parametrize("heads, queries", [(1, 1), (4, 1), (2, 4), (3, 2)])
def test_few_queries(rng, dtype, heads, queries):
    """Parts of the keys, put together in their order."""
    for options in ({}, {"mask": "float", "causal": queries > 1}, {"mask": "bool", "dropout": 0.2}):
        case = Case(rng, (1, heads, 1, queries, 700, 40, 24), dtype, **options)
        expected = case.expected()[0]
        case.forward()
        terms = 1 if case.dtype.itemsize == 2 else np.sqrt(700)
        np.testing.assert_allclose(
            case.out.astype("f8"), expected, rtol=0, atol=8 * ROUNDOFF[case.dtype] * terms
        )
        whole = ref.logsumexp_of_scores(case.q, case.k, case.mask, case.options[1], None, True)
        np.testing.assert_allclose(case.lse, whole, rtol=0, atol=1e-5 if case.wide == "f4" else 1e-12)


@pytest.mark.parametrize("level, bound", [(HIGHEST, 2.0**-20), (HIGH, 2.0**-13), (MEDIUM, 2.0**-6)])
def test_precisions(rng, precision, level, bound):
    precision(level)
    case = Case(rng, (1, 1, 1, 70, 130, 64, 64), scale=0.125)
    out, grads = case.expected()
    errors = [
        np.abs(got - want).max() / max(1, np.abs(want).max())
        for got, want in zip([case.forward(), *case.backward()], [out, *grads[:3]])
    ]
    assert max(errors) <= bound
    if level != HIGHEST:
        assert max(errors) > bound / 64  # a kernel of its own


@pytest.mark.parametrize(
    "which, value",
    [(which, value) for which in ("q", "k", "v", "grad") for value in (np.inf, -np.inf, np.nan, 1e-35)]
    + [("v", 3.395e38), ("grad", 3.395e38)],  # of scores it would make infinities
)
def test_values_that_cannot_be_split(rng, which, value):
    """One in the second sample: its group is computed by multiply-adds, the first keeps its bits."""
    case = Case(rng, (2, 2, 1, 12, 20, 8, 8))
    first = [case.forward().copy(), *(g.copy() for g in case.backward())]
    getattr(case, which)[1, 0, 3, 2] = value
    with np.errstate(invalid="ignore", over="ignore"):
        want = case.expected()
        results = [case.forward(), *case.backward()]
    for got, before, expected in zip(results, first, [want[0], *want[1][:3]]):
        assert_same_bits(got[0], before[0])
        finite = np.isfinite(expected[1]) & (np.abs(expected[1]) < 1e30)
        if which != "grad" and got is not results[0]:
            continue  # gradients of an overflow are what the order of operations makes of it
        np.testing.assert_allclose(got[1][finite], expected[1][finite], rtol=1e-4, atol=1e-4)
        if which == "v" and np.isnan(value):
            assert np.isnan(got[1][..., 2]).all()


@pytest.mark.parametrize("dtype", ["f4", BF16], ids=str)
def test_layouts_that_need_copies(rng, dtype):
    """Rows that cp.async cannot read, operands repeated along batch and heads, results of any strides."""
    plain = Case(rng, (2, 2, 2, 20, 30, 24, 16), dtype)
    plain.k = np.ascontiguousarray(np.broadcast_to(plain.k[:1, :1], plain.k.shape))
    expected = [plain.forward(), *plain.backward()]
    other = Case(rng, (2, 2, 2, 20, 30, 24, 16), dtype)
    other.k = np.broadcast_to(plain.k[:1, :1], plain.k.shape)
    padded = np.zeros((2, 2, 20, 25), plain.q.dtype)
    padded[..., 1:] = plain.q
    other.q, other.v, other.grad = padded[..., 1:], np.asfortranarray(plain.v), plain.grad[:, ::-1][:, ::-1]
    out = np.full((2, 2, 16, 20), np.nan, plain.q.dtype).swapaxes(2, 3)
    other.lse = np.empty((2, 2, 20), "f4")
    sim.attention_forward(other.q, other.k, other.v, None, out, other.lse, *other.options)
    assert_same_bits(out, expected[0])
    other.out = out
    for a, b in zip(other.backward(), expected[1:]):
        assert_same_bits(a, b)


def test_same_bits_again(rng):
    case = Case(rng, (1, 2, 1, 80, 90, 40, 40), causal=True, dropout=0.1)
    first = [case.forward().copy(), *case.backward()]
    for a, b in zip([case.forward(), *case.backward()], first):
        assert_same_bits(a, b)


def test_more_than_tensor_dtypes(rng):
    """A mask of float32, and its gradient, beside 16-bit operands."""
    case = Case(rng, (1, 1, 1, 20, 20, 16, 16), BF16, mask="float", causal=True)
    case.mask = case.mask.astype("f4") + np.float32(1e-3)
    out = np.empty_like(case.grad)
    lse = np.empty((1, 1, 20), "f4")
    sim.attention_forward(case.q, case.k, case.v, case.mask, out, lse, *case.options)
    grads, grad_mask = (
        [np.empty_like(x) for x in (case.q, case.k, case.v)],
        np.full((1, 1, 20, 20), np.nan, "f4"),
    )
    sim.attention_backward(
        case.grad, case.q, case.k, case.v, case.mask, out, lse, *grads, grad_mask, *case.options
    )
    want_out, want = case.expected()
    for got, expected in zip([out, *grads, grad_mask], [want_out, *want]):
        allowed = 4 * 2.0**-8 * max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(got.astype("f8"), expected, rtol=0, atol=allowed)


@pytest.mark.parametrize("kind", ["lengths", "band", "heads"])
@pytest.mark.parametrize("dtype, e", [("f4", 24), (BF16, 64), (BF16, 128), (F16, 136), ("f8", 8)], ids=str)
def test_tiles_masked_whole_are_passed_over(rng, dtype, e, kind):
    """To the bit what an additive mask of zeros and -infinity gives, for which no tile is passed over."""
    b = 2 if kind == "lengths" else 1
    case = Case(rng, (b, 2, 1, 130, 200, e, 8), dtype, causal=kind == "heads", dropout=0.1)
    case.mask = tiles_masked_whole(rng, b, 2, 130, 200, kind)
    results = [case.forward(), case.lse, *case.backward()]
    case.mask = np.where(case.mask, 0, -np.inf).astype(dtype)
    for got, want in zip(results, [case.forward(), case.lse, *case.backward()[:3]], strict=True):
        assert_same_bits(got, want)


@pytest.mark.parametrize("dtype", [BF16, "f8"], ids=str)
def test_what_only_masked_tiles_hold_does_not_show(rng, dtype):
    case = Case(rng, (1, 1, 1, 70, 150, 16, 8), dtype)
    case.mask = np.broadcast_to(np.arange(150) < 50, (1, 1, 70, 150))
    want = [case.forward(), *case.backward()]
    case.k[:, :, 128:], case.v[:, :, 128:] = np.nan, np.inf
    for got, expected in zip([case.forward(), *case.backward()], want, strict=True):
        assert_same_bits(got, expected)
