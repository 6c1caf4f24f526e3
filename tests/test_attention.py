"""Scaled dot-product attention against the reference, in every layout, on every ISA and thread count."""

import os
import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from devices import thread_counts
from gradcheck import gradcheck
from layouts import strided_variants
from references import attention as ref
from references.dropout import dropout_mask
from tolerance import assert_same_bits, unit_roundoff

import fastdl
import fastdl.functional.attention as F
from fastdl import ops

BF16 = np.dtype(ml_dtypes.bfloat16)

# (B, H, G, L, S, E, Ev): around the block sizes of 128 queries and keys, and one row or key.
SHAPES = [
    (1, 1, 1, 1, 1, 1, 1),
    (2, 3, 3, 5, 7, 4, 6),
    (1, 2, 1, 63, 65, 17, 33),
    (2, 4, 2, 129, 64, 8, 16),
    (9, 2, 2, 65, 130, 5, 3),
    (1, 1, 1, 300, 200, 64, 64),
    (1, 2, 2, 1, 257, 128, 128),
    (1, 1, 1, 9, 11, 256, 256),
    # few queries: keys are read in place, the last in parts
    (3, 6, 2, 1, 130, 40, 72),
    (1, 4, 1, 2, 1600, 24, 40),
    # backward: the keys of few heads in shares
    (1, 2, 2, 140, 530, 20, 24),
]


def operands(shape, dtype, rng, mask=None):
    b, h, g, n, s, e, ev = shape
    arrays = [rng.standard_normal(x) for x in ((b, h, n, e), (b, g, s, e), (b, g, s, ev))]
    q, k, v = (x.astype(dtype) for x in arrays)
    if mask == "bool":
        return q, k, v, rng.random((n, s)) < 0.7
    if mask == "float":
        return q, k, v, rng.standard_normal((b, 1, n, s)).astype(dtype)
    return q, k, v, None


def close(got, expected, terms, dtype):
    """Weights sum to 1 and operands are of order 1: errors grow like the square root of the terms."""
    assert got.shape == expected.shape
    size = max(1.0, np.abs(expected).max(initial=0))
    allowed = 4 * unit_roundoff(dtype) * (6 * np.sqrt(terms) + 16) * size
    np.testing.assert_allclose(got, expected, rtol=0, atol=allowed)


def check(shape, dtype, rng, mask=None, causal=False, scale=None, dropout=0.0):
    q, k, v, m = operands(shape, dtype, rng, mask)
    gqa = shape[1] != shape[2]
    seed, offset = 7, 11
    options = dict(is_causal=causal, scale=scale, enable_gqa=gqa)
    drawn = dict(dropout_p=dropout, seed=seed, offset=offset)
    out, lse = ops.scaled_dot_product_attention(q, k, v, m, **options, **drawn)
    d = None
    if dropout:
        full = (*q.shape[:3], k.shape[2])
        d = dropout_mask(full, dropout, seed, offset)
    terms = shape[4] + shape[5] + shape[3]
    close(out, ref.scaled_dot_product_attention(q, k, v, m, d, causal, scale, gqa), terms, dtype)
    expected = ref.logsumexp_of_scores(q, k, m, causal, scale, gqa)
    seen = np.isfinite(expected)
    assert (lse[~seen] == expected[~seen]).all()
    close(lse[seen], expected[seen], terms, dtype)
    grad = rng.standard_normal(out.shape).astype(dtype)
    want_mask = mask == "float"
    got = ops.scaled_dot_product_attention_backward(
        grad, q, k, v, m, out, lse, **options, **drawn, needs_mask=want_mask
    )
    expected = ref.scaled_dot_product_attention_backward(grad, q, k, v, m, d, causal, scale, gqa)
    for a, b in zip(got, expected):
        assert (a is None) == (b is None)
        if b is not None:
            close(a, b, 2 * terms * shape[1] / shape[2], dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_reference(shape, dtype, isa, rng):
    check(shape, dtype, rng)
    check(shape, dtype, rng, causal=True, scale=0.3)
    check(shape, dtype, rng, mask="bool")
    check(shape, dtype, rng, mask="float")


@pytest.mark.parametrize("shape", [SHAPES[1], SHAPES[3], SHAPES[4]], ids=str)
def test_masks_together(shape, isa, rng):
    check(shape, np.float32, rng, mask="bool", causal=True)
    check(shape, np.float32, rng, mask="float", causal=True, scale=-0.5)
    check(shape, np.float32, rng, mask="bool", causal=True, scale=-0.5)
    check(shape, np.float32, rng, causal=True, scale=0.0)


@pytest.mark.parametrize("shape", [SHAPES[1], SHAPES[2], SHAPES[4]], ids=str)
def test_dropout(shape, isa, rng):
    check(shape, np.float32, rng, dropout=0.3)
    check(shape, np.float64, rng, mask="bool", dropout=0.5)


@pytest.mark.parametrize("shape", SHAPES[1:6] + SHAPES[7:] + [(2, 4, 4, 140, 300, 24, 40)], ids=str)
def test_bfloat16(shape, isa, rng):
    """Operands are exact. Weights and the gradients of scores are rounded before their products, results after: each
    adds at most one unit roundoff of the largest terms, and sums of many rounding errors grow more slowly than theirs.
    """
    q, k, v, mask = (
        x if x is None or x.dtype == bool else x.astype(BF16) for x in operands(shape, "f4", rng, "float")
    )
    gqa = shape[1] != shape[2]
    grad = rng.standard_normal((*q.shape[:3], shape[6])).astype(BF16)
    for m, options in (
        (None, {}),
        (None, dict(is_causal=True)),
        (mask, {}),
        (None, dict(dropout_p=0.3, seed=7)),
    ):
        wide = [x if x is None else x.astype(np.float64) for x in (grad, q, k, v, m)]
        d = dropout_mask((*q.shape[:3], shape[4]), 0.3, 7, 0) if "seed" in options else None
        rest = (d, options.get("is_causal", False), None, gqa)
        out, lse = ops.scaled_dot_product_attention(q, k, v, m, enable_gqa=gqa, **options)
        assert out.dtype == BF16 and lse.dtype == np.float32
        near(out, ref.scaled_dot_product_attention(*wide[1:], *rest))
        got = ops.scaled_dot_product_attention_backward(grad, q, k, v, m, out, lse, enable_gqa=gqa, **options)
        for a, b in zip(got[:3], ref.scaled_dot_product_attention_backward(*wide, *rest)):
            near(a, b)


def near(got, expected):
    allowed = 4 * 2.0**-8 * max(1.0, np.abs(expected).max(initial=0))
    np.testing.assert_allclose(got.astype(np.float64), expected, rtol=0, atol=allowed)


@pytest.mark.parametrize("heads, key_heads, features", [(2, 2, 32), (1, 1, 128), (4, 1, 64)])
@pytest.mark.parametrize("dtype", [np.float32, BF16])
def test_memory_does_not_grow_with_the_square_of_the_length(heads, key_heads, features, dtype, rng):
    status = Path("/proc/self/status")
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("needs Linux's resettable peak of resident memory")

    def kilobytes(name):
        return int(re.search(rf"{name}:\s*(\d+)", status.read_text()).group(1))

    q, k, v = (
        rng.standard_normal((1, n, 16384, features), np.float32).astype(dtype)
        for n in (heads, key_heads, key_heads)
    )
    options = dict(is_causal=True, enable_gqa=heads != key_heads)
    Path("/proc/self/clear_refs").write_text("5")
    before = kilobytes("VmRSS")
    out, lse = ops.scaled_dot_product_attention(q, k, v, **options)
    grads = ops.scaled_dot_product_attention_backward(out, q, k, v, None, out, lse, **options)
    results = (out.nbytes + lse.nbytes + sum(g.nbytes for g in grads[:3])) / 1024
    assert kilobytes("VmHWM") - before - results < 64 * 1024


def test_rows_that_may_attend_to_nothing(isa, rng):
    q, k, v, _ = operands((1, 1, 1, 3, 70, 4, 4), np.float32, rng)
    mask = np.ones((3, 70), bool)
    mask[1] = False
    mask[2, :66] = False  # nothing in the first block of keys
    out, lse = ops.scaled_dot_product_attention(q, k, v, mask)
    close(out, ref.scaled_dot_product_attention(q, k, v, mask), 80, np.float32)
    assert (out[0, 0, 1] == 0).all() and lse[0, 0, 1] == -np.inf
    for g in ops.scaled_dot_product_attention_backward(np.ones_like(out), q, k, v, mask, out, lse)[:3]:
        assert np.isfinite(g).all()


def test_parts_of_keys_without_any_to_see(isa, rng):
    q, k, v, _ = operands((1, 1, 1, 2, 1600, 4, 4), np.float32, rng)
    mask = np.ones((2, 1600), bool)
    mask[0, :1000] = False
    mask[1] = False
    out, lse = ops.scaled_dot_product_attention(q, k, v, mask)
    close(out, ref.scaled_dot_product_attention(q, k, v, mask), 1600, np.float32)
    assert (out[0, 0, 1] == 0).all() and lse[0, 0, 1] == -np.inf


def test_growing_scores_move_the_running_maximum(isa, rng):
    """Every block of keys exceeds the ones before by far more than the lag that is allowed."""
    q, k, v, _ = operands((1, 1, 1, 20, 600, 8, 8), np.float32, rng)
    q = np.abs(q)
    k = np.abs(k) * np.linspace(0, 30, 600, dtype=np.float32)[:, None]
    out, lse = ops.scaled_dot_product_attention(q, k, v)
    expected = ref.logsumexp_of_scores(q, k)
    np.testing.assert_allclose(lse, expected, rtol=1e-6)
    # Scores have an error of 1e-7 of themselves, which their exponentials show as a relative error.
    top = np.abs(expected).max()
    np.testing.assert_allclose(out, ref.scaled_dot_product_attention(q, k, v), rtol=0, atol=4e-7 * top)


def test_nan_stays_in_its_row(isa):
    q = np.ones((1, 1, 3, 4), np.float32)
    q[0, 0, 1, 2] = np.nan
    out, _ = ops.scaled_dot_product_attention(q, q[:, :, :1], q[:, :, :1])
    assert np.isnan(out[0, 0, 1]).all() and np.isfinite(out[0, 0, [0, 2]]).all()


def test_large_scores_do_not_overflow(isa):
    q = np.array([[[[300.0]]]], np.float32)
    k = np.array([[[[300.0], [299.0]]]], np.float32)
    v = np.array([[[[1.0], [5.0]]]], np.float32)
    assert ops.scaled_dot_product_attention(q, k, v)[0].item() == 1.0


@pytest.mark.parametrize("which", range(4))
def test_layouts(which, rng):
    arrays = list(operands((2, 2, 2, 5, 70, 6, 3), np.float32, rng, "float"))
    expected, lse = ops.scaled_dot_product_attention(*arrays)
    grad = rng.standard_normal(expected.shape).astype(np.float32)
    base = ops.scaled_dot_product_attention_backward(grad, *arrays, expected, lse, needs_mask=True)
    for _, variant in strided_variants(arrays[which]):
        changed = [*arrays[:which], variant, *arrays[which + 1 :]]
        out, lse = ops.scaled_dot_product_attention(*changed)
        close(out, expected.astype(np.float64), 80, np.float32)
        got = ops.scaled_dot_product_attention_backward(grad, *changed, out, lse, needs_mask=True)
        for a, b in zip(got, base):
            close(a, b.astype(np.float64), 80, np.float32)


@pytest.mark.parametrize("dtype", [np.float32, BF16])
@pytest.mark.parametrize(
    "batch, heads, queries, keys", [(1, 1, 300, 270), (5, 2, 300, 270), (1, 2, 2, 2000), (3, 2, 130, 1100)]
)
def test_same_bits_for_any_thread_count(batch, heads, queries, keys, dtype, rng):
    """The number of threads decides whether backward takes one pass or two; few queries or heads split the keys."""
    q, k, v = (x.astype(dtype) for x in operands((batch, heads, 1, queries, keys, 40, 40), "f4", rng)[:3])
    grad = rng.standard_normal(q.shape).astype(dtype)
    before = fastdl._core.get_num_threads()
    results = []
    for n in thread_counts():
        fastdl._core.set_num_threads(n)
        options = dict(is_causal=queries > 2, enable_gqa=True, dropout_p=0.1, seed=1)
        out, lse = ops.scaled_dot_product_attention(q, k, v, **options)
        back = ops.scaled_dot_product_attention_backward(grad, q, k, v, None, out, lse, **options)
        results.append((out, lse, *back[:3]))
    fastdl._core.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(other, results[0]):
            assert_same_bits(a, b)


def test_empty():
    q = np.ones((1, 2, 3, 4), np.float32)
    none = np.ones((1, 2, 0, 4), np.float32)
    out, lse = ops.scaled_dot_product_attention(q, none, none)
    assert (out == 0).all() and (lse == -np.inf).all()
    for g in ops.scaled_dot_product_attention_backward(out, q, none, none, None, out, lse)[:3]:
        assert (g == 0).all()
    out, lse = ops.scaled_dot_product_attention(none, q, q)
    assert out.shape == (1, 2, 0, 4)
    gq, gk, gv, _ = ops.scaled_dot_product_attention_backward(out, none, q, q, None, out, lse)
    assert gq.shape == none.shape and (gk == 0).all() and (gv == 0).all()


def test_batch_dimensions_broadcast(rng):
    q = rng.standard_normal((2, 3, 4, 5))
    k, v = rng.standard_normal((3, 6, 5)), rng.standard_normal((1, 1, 6, 2))
    expected = ref.scaled_dot_product_attention(
        q, np.broadcast_to(k, (2, 3, 6, 5)), np.broadcast_to(v, (2, 3, 6, 2))
    )
    out, _ = ops.scaled_dot_product_attention(q, k, v)
    close(out, expected, 20, np.float64)
    q5 = q.reshape(2, 1, 3, 4, 5)
    close(ops.scaled_dot_product_attention(q5, k, v)[0], expected.reshape(2, 1, 3, 4, 2), 20, np.float64)
    close(ops.scaled_dot_product_attention(q[0, 0], k[0], v[0, 0])[0], expected[0, 0], 20, np.float64)


def test_gradients(rng):
    q, k, v = (
        rng.standard_normal((2, 2, 3, 4)),
        rng.standard_normal((2, 1, 5, 4)),
        rng.standard_normal((2, 1, 5, 3)),
    )
    mask = rng.standard_normal((2, 1, 3, 5))
    attend = F.scaled_dot_product_attention
    gradcheck(lambda q, k, v: attend(q, k, v, enable_gqa=True), q, k, v)
    gradcheck(lambda q, k, v: attend(q, k, v, is_causal=True, scale=0.7), q, k, v)
    gradcheck(lambda q, k, v, m: attend(q, k, v, m), q, k, v, mask)

    def dropped(q, k, v):
        fastdl.manual_seed(3)
        return attend(q, k, v, dropout_p=0.4)

    gradcheck(dropped, q, k, v)


def test_bad_input():
    q = np.zeros((1, 2, 3, 4), np.float32)
    for message, args in {
        "same number of features": (q, q[..., :3], q),
        "same length": (q, q, q[:, :, :2]),
        "do not broadcast": (q, np.zeros((1, 5, 3, 4), np.float32), q),
        "attn_mask of shape": (q, q, q, np.zeros((7, 7), bool)),
        "features": (q[0, 0, 0], q, q),
    }.items():
        with pytest.raises(ValueError, match=message):
            ops.scaled_dot_product_attention(*args)
    with pytest.raises(TypeError, match="one dtype"):
        ops.scaled_dot_product_attention(q, q.astype(np.float64), q)
    with pytest.raises(TypeError, match="q to be float32"):
        ops.scaled_dot_product_attention(*(q.astype(np.int64),) * 3)
    with pytest.raises(TypeError, match="attn_mask to be bool or float32"):
        ops.scaled_dot_product_attention(q, q, q, np.zeros((3, 3)))
    with pytest.raises(ValueError, match="multiple"):
        ops.scaled_dot_product_attention(np.zeros((1, 3, 3, 4), np.float32), q, q, enable_gqa=True)
    t = fastdl.tensor(q)
    with pytest.raises(ValueError, match="is_causal"):
        F.scaled_dot_product_attention(t, t, t, fastdl.tensor(np.ones((3, 3), bool)), is_causal=True)
    with pytest.raises(ValueError, match="dropout_p"):
        F.scaled_dot_product_attention(t, t, t, dropout_p=1.0)
