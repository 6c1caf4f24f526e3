"""Embeddings against the references: rows, bags, their gradients, and what must not happen for bad indices."""

import importlib

import numpy as np
import pytest
from gradcheck import gradcheck
from layouts import strided_variants
from references import embedding as ref
from tolerance import assert_close, assert_close_sum, assert_same_bits

import fastdl
import fastdl.nn.functional as F
from fastdl import _core

ops = importlib.import_module("fastdl.ops.embedding")  # as an attribute the name may be a function

CASES = [  # (rows, columns, shape of indices)
    (1, 1, ()), (5, 3, (4,)), (7, 16, (3, 5)), (4, 17, (40,)), (1000, 33, (6, 7)), (3, 64, (200,)), (50, 67, (0,)),
    (6, 0, (3,)), (2, 130, (2, 0, 3)),
]  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("index_dtype", [np.int64, np.int32])
@pytest.mark.parametrize(("rows", "columns", "shape"), CASES)
def test_rows(rows, columns, shape, index_dtype, dtype, isa, rng):
    w = rng.standard_normal((rows, columns)).astype(dtype)
    indices = np.asarray(rng.integers(0, rows, shape)).astype(index_dtype)
    assert_same_bits(ops.embedding(w, indices), w[indices])
    g = rng.standard_normal((*shape, columns)).astype(dtype)
    for padding, by_freq in ((-1, False), (0, False), (rows - 1, True)):
        got = ops.embedding_backward(g, indices, rows, padding, by_freq)
        args = (indices, rows, None if padding < 0 else padding, by_freq)
        magnitude = ref.embedding_backward(np.abs(g), *args)
        assert_close_sum(got, ref.embedding_backward(g, *args), magnitude, k=max(indices.size, 1))


def test_layouts(rng):
    w, indices = rng.standard_normal((9, 5)), rng.integers(0, 9, (3, 4))
    g = rng.standard_normal((3, 4, 5))
    grad = ops.embedding_backward(g, indices, 9)
    for _, v in strided_variants(w):
        assert_same_bits(ops.embedding(v, indices), w[indices])
    for _, i in strided_variants(indices):
        assert_same_bits(ops.embedding(w, i), w[indices])
        assert_same_bits(ops.embedding_backward(g, i, 9), grad)
    for _, v in strided_variants(g):
        assert_same_bits(ops.embedding_backward(v, indices, 9), grad)


def test_threads_give_the_same_bits(threads, rng):
    indices = rng.integers(0, 300, 20_000) ** 2 // 300  # some rows far more often than others
    g = rng.standard_normal((20_000, 40)).astype(np.float32)
    grad = ops.embedding_backward(g, indices, 300)
    bag = ops.embedding_bag(g[:300], indices.reshape(-1, 10), mode="mean")[0]
    w = g[:300]
    bags = indices.reshape(-1, 10)
    mode = {}
    for name in ("mean", "max"):
        out, which = ops.embedding_bag(w, bags, mode=name)
        mode[name] = ops.embedding_bag_backward(out, w, bags, mode=name, max_indices=which)[0]
    _core.set_num_threads(1)
    assert_same_bits(grad, ops.embedding_backward(g, indices, 300))
    assert_same_bits(bag, ops.embedding_bag(w, bags, mode="mean")[0])
    for name, expected in mode.items():
        out, which = ops.embedding_bag(w, bags, mode=name)
        assert_same_bits(ops.embedding_bag_backward(out, w, bags, mode=name, max_indices=which)[0], expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags(mode, dtype, isa, rng):
    for rows, columns in ((6, 3), (40, 33)):
        w = rng.standard_normal((rows, columns)).astype(dtype)
        flat = rng.integers(0, rows, 23)
        for indices, offsets, last in (
            (flat[:20].reshape(5, 4), None, False),
            (flat, np.array([0, 3, 3, 10, 23]), False),
            (flat, np.array([0, 7, 7, 23], np.int32), True),
            (flat[:0].reshape(0, 4), None, False),
        ):
            for padding in (-1, int(flat[1])):
                pad = None if padding < 0 else padding
                scales = [None, rng.standard_normal(indices.shape).astype(dtype)] if mode == "sum" else [None]
                for s in scales:
                    out, which = ops.embedding_bag(w, indices, offsets, mode, s, last, padding)
                    expected = ref.embedding_bag(indices, w, offsets, mode, s, last, pad)
                    size = np.abs(w).max() * 23 * (1 if s is None else np.abs(s).max(initial=1))
                    assert_close(out, expected, rtol_u=30, scale=np.full(expected.shape, size))
                    g = rng.standard_normal(out.shape).astype(dtype)
                    for by_freq in (False, True) if mode != "max" else (False,):
                        got = ops.embedding_bag_backward(
                            g,
                            w,
                            indices,
                            offsets,
                            mode,
                            s,
                            which,
                            last,
                            padding,
                            by_freq,
                            True,
                            s is not None,
                        )
                        want = ref.embedding_bag_backward(g, indices, w, offsets, mode, s, last, pad, by_freq)
                        for a, b in zip(got, want, strict=True):
                            assert (a is None) == (b is None)
                            if a is not None:
                                scale = np.full(
                                    b.shape, 23 * 30 * (1 if s is None else np.abs(s).max(initial=1))
                                )
                                assert_close(a, b, rtol_u=8, scale=scale)


def test_max_norm(isa, rng):
    w = rng.standard_normal((6, 5)) * 3
    indices = np.array([[1, 4], [1, 0]])
    for p in (2.0, 1.0, 3.0):
        t = fastdl.tensor(w)
        out = F.embedding(fastdl.tensor(indices), t, max_norm=2.0, norm_type=p)
        expected = ref.renormalise(w, indices, 2.0, p)
        np.testing.assert_allclose(t.numpy(), expected, rtol=1e-12)
        np.testing.assert_allclose(out.numpy(), expected[indices], rtol=1e-12)
    view = np.asfortranarray(w)
    ops.renormalise(view, indices, 2.0)
    np.testing.assert_allclose(view, ref.renormalise(w, indices, 2.0), rtol=1e-12)


def test_gradients(rng):
    w, indices = rng.standard_normal((5, 3)), fastdl.tensor([[0, 2], [2, 4]])
    gradcheck(lambda t: F.embedding(indices, t), w)
    for mode in ("sum", "mean", "max"):
        gradcheck(lambda t, m=mode: F.embedding_bag(indices, t, mode=m), w)
    flat, offsets = fastdl.tensor([0, 2, 2, 4]), fastdl.tensor([0, 3])
    gradcheck(
        lambda t, s: F.embedding_bag(flat, t, offsets, mode="sum", per_sample_weights=s),
        w,
        rng.standard_normal(4),
    )
    t = fastdl.tensor(w, requires_grad=True)
    F.embedding(indices, t, padding_idx=-1).sum().backward()
    assert t.grad.numpy()[:, 0].tolist() == [1, 0, 2, 0, 0]


def test_one_hot():
    x = np.array([[0, 2], [1, 2]])
    assert (F.one_hot(fastdl.tensor(x)).numpy() == ref.one_hot(x)).all()
    assert (F.one_hot(fastdl.tensor(x), 5).numpy() == ref.one_hot(x, 5)).all()
    assert F.one_hot(fastdl.tensor(x)).dtype == fastdl.int64
    assert F.one_hot(fastdl.tensor(np.zeros((0, 2), int)), 3).shape == (0, 2, 3)


@pytest.mark.cpu  # what a GPU reads it can only report afterwards
def test_bad_indices_write_nothing():
    w, out = np.ones((3, 2), np.float32), np.full((2, 2), 7, np.float32)
    with pytest.raises(IndexError, match=r"embedding: expected indices in \[0, 3\), got 3 at position 1"):
        _core.embedding_forward(w, np.array([0, 3]), out)
    with pytest.raises(IndexError, match="got -1 at position 0"):
        _core.embedding_bag_forward(w, np.array([[-1], [0]]), None, None, out, None, 0, False, -1)
    grad = np.full((3, 2), 7, np.float32)
    with pytest.raises(IndexError, match="got 5"):
        _core.embedding_backward(out, np.array([0, 5], np.int32), grad, -1, False)
    assert (out == 7).all() and (grad == 7).all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda w, i: ops.embedding(w[0], i), ValueError, "2 dimensions"),
        (lambda w, i: ops.embedding(w, i.astype(float)), TypeError, "float64"),
        (
            lambda w, i: F.embedding(fastdl.tensor(i), fastdl.tensor(w), padding_idx=3),
            ValueError,
            "padding_idx",
        ),
        (lambda w, i: F.embedding(fastdl.tensor(i), fastdl.tensor(w), sparse=True), ValueError, "sparse"),
        (lambda w, i: ops.embedding_bag(w, i), ValueError, "2 dimensions"),
        pytest.param(
            lambda w, i: ops.embedding_bag(w, i, np.array([1, 2])),
            ValueError,
            "begin with 0",
            marks=pytest.mark.cpu,
        ),
        pytest.param(
            lambda w, i: ops.embedding_bag(w, i, np.array([0, 2, 1])),
            ValueError,
            "never fall",
            marks=pytest.mark.cpu,
        ),
        pytest.param(
            lambda w, i: ops.embedding_bag(w, i, np.array([0, 9])),
            IndexError,
            "offsets",
            marks=pytest.mark.cpu,
        ),
        (lambda w, i: ops.embedding_bag(w, i[None], mode="min"), ValueError, "'min'"),
        (lambda w, i: ops.embedding_bag(w, i[None], None, "mean", np.ones((1, 2))), ValueError, "mode sum"),
        (
            lambda w, i: ops.embedding_bag(w, i[None], None, "sum", np.ones((1, 3))),
            ValueError,
            "per_sample_weights",
        ),
        (lambda w, i: F.one_hot(fastdl.tensor(i), 1), IndexError, "got 1 at position 1"),
        (lambda w, i: F.one_hot(fastdl.tensor([0.5])), TypeError, "float32"),
        (lambda w, i: F.one_hot(fastdl.tensor(i), 0), ValueError, "num_classes"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call(np.ones((3, 2)), np.array([0, 1]))
