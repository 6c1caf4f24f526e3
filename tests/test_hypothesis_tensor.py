"""Properties of Tensors over random shapes and memory layouts: NumPy's results, gradients of the right shape
and value.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from references.common import unbroadcast
from strategies import broadcastable, few, laid_out, shapes

import fastdl
from fastdl import Tensor


def leaf(x):
    return Tensor(x, requires_grad=True)


def same(tensor, expected, rounding=1e-13):
    expected = np.asarray(expected)
    got = tensor.detach().numpy()
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=rounding, atol=rounding)


@given(st.data())
@few
@pytest.mark.parametrize("name", ["add", "sub", "mul", "div"])
def test_broadcast_arithmetic(name, data):
    shape = data.draw(shapes(max_dims=4))
    a = data.draw(laid_out(shape))
    b = data.draw(laid_out(data.draw(broadcastable(shape)))) + 5.0
    x, y = leaf(a), leaf(b)
    function = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}[name]
    out = getattr(fastdl, name)(x, y)
    same(out, function(a, b))
    g = data.draw(laid_out(out.shape))
    out.backward(Tensor(g))
    da = {"add": g, "sub": g, "mul": g * b, "div": g / b}[name]
    db = {"add": g, "sub": -g, "mul": g * a, "div": -g * a / (b * b)}[name]
    same(x.grad, unbroadcast(da, a.shape), 1e-12)
    same(y.grad, unbroadcast(db, b.shape), 1e-12)


@st.composite
def reductions(draw, min_side=0):
    x = draw(laid_out(draw(shapes(min_dims=0, max_dims=4, min_side=min_side))))
    axes = (
        draw(st.lists(st.integers(-x.ndim, x.ndim - 1), max_size=x.ndim, unique_by=lambda a: a % x.ndim))
        if x.ndim
        else []
    )
    return x, (tuple(axes) or None), draw(st.booleans())


@given(reductions(), st.data())
@few
def test_sum(drawn, data):
    x, dim, keepdim = drawn
    t = leaf(x)
    out = t.sum() if dim is None else t.sum(dim, keepdim)
    expected = x.sum() if dim is None else x.sum(axis=dim, keepdims=keepdim)
    same(out, expected)
    g = data.draw(laid_out(out.shape))
    out.backward(Tensor(g))
    spread = g if dim is None or keepdim else np.expand_dims(g, dim)
    same(t.grad, np.broadcast_to(spread, x.shape))


@given(reductions(min_side=1), st.data())
@few
def test_mean_var_and_extremes(drawn, data):
    x, dim, keepdim = drawn
    axes, keep = (None, False) if dim is None else (dim, keepdim)
    arguments = () if dim is None else (dim, keepdim)
    same(fastdl.mean(leaf(x), *arguments), x.mean(axis=axes, keepdims=keep))
    if dim is not None:
        same(fastdl.amax(leaf(x), *arguments), x.max(axis=axes, keepdims=keep))
        same(fastdl.amin(leaf(x), *arguments), x.min(axis=axes, keepdims=keep))
    t = leaf(x)
    fastdl.var(t, dim=dim, correction=0, keepdim=keep).sum().backward()
    same(fastdl.var(leaf(x), dim=dim, correction=0, keepdim=keep), x.var(axis=axes, keepdims=keep), 1e-12)
    count = x.size / max(1, x.sum(axis=axes).size)
    same(t.grad, 2 * (x - x.mean(axis=axes, keepdims=True)) / count, 1e-12)


@given(st.data())
@few
def test_cumsum(data):
    x = data.draw(laid_out(data.draw(shapes(min_dims=1))))
    dim = data.draw(st.integers(-x.ndim, x.ndim - 1))
    t = leaf(x)
    out = fastdl.cumsum(t, dim)
    same(out, x.cumsum(axis=dim))
    g = data.draw(laid_out(x.shape))
    out.backward(Tensor(g))
    same(t.grad, np.flip(np.flip(g, dim).cumsum(axis=dim), dim))


@given(st.data())
@few
def test_permute_reshape_and_back(data):
    x = data.draw(laid_out(data.draw(shapes(min_dims=1))))
    order = data.draw(st.permutations(range(x.ndim)))
    t = leaf(x)
    moved = t.permute(*order)
    same(moved, x.transpose(order))
    flat = moved.reshape(-1)
    same(flat, x.transpose(order).reshape(-1))
    g = data.draw(laid_out(flat.shape))
    flat.backward(Tensor(g))
    same(t.grad, g.reshape(x.transpose(order).shape).transpose(np.argsort(order)))


@st.composite
def basic_index(draw, shape):
    index = []
    for n in shape[: draw(st.integers(0, len(shape)))]:
        if n and draw(st.booleans()):
            index.append(draw(st.integers(-n, n - 1)))
        else:
            index.append(
                slice(
                    draw(st.integers(-n - 1, n + 1)),
                    draw(st.integers(-n - 1, n + 1)),
                    draw(st.integers(1, 3)),
                )
            )
    if draw(st.booleans()):
        index.insert(draw(st.integers(0, len(index))), None)
    return tuple(index)


@given(st.data())
@few
def test_index(data):
    x = data.draw(laid_out(data.draw(shapes())))
    index = data.draw(basic_index(x.shape))
    t = leaf(x)
    out = t[index]
    same(out, x[index])
    g = data.draw(laid_out(out.shape))
    out.backward(Tensor(g))
    expected = np.zeros(x.shape)
    expected[index] += g
    same(t.grad, expected)


@given(st.data())
@few
def test_index_by_arrays(data):
    x = data.draw(laid_out(data.draw(shapes(min_dims=1, min_side=1))))
    where = data.draw(st.lists(st.integers(-x.shape[0], x.shape[0] - 1), max_size=6))
    t = leaf(x)
    out = t[np.array(where, np.int64)]
    same(out, x[np.array(where, np.int64)])
    g = data.draw(laid_out(out.shape))
    out.backward(Tensor(g))
    expected = np.zeros(x.shape)
    np.add.at(expected, np.array(where, np.int64), g)  # an element picked twice receives both gradients
    same(t.grad, expected)
    mask = x > 0
    same(Tensor(x)[mask], x[mask])


@given(st.data())
@few
def test_cat_and_split(data):
    shape = list(data.draw(shapes(min_dims=1, max_dims=3)))
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    parts = []
    for n in data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=4)):
        shape[dim] = n
        parts.append(data.draw(laid_out(tuple(shape))))
    leaves = [leaf(p) for p in parts]
    joined = fastdl.cat(leaves, dim)
    same(joined, np.concatenate(parts, axis=dim))
    for piece, part in zip(fastdl.split(joined, [p.shape[dim] for p in parts], dim), parts, strict=True):
        same(piece, part)
    g = data.draw(laid_out(joined.shape))
    joined.backward(Tensor(g))
    start = 0
    for t, p in zip(leaves, parts, strict=True):
        same(t.grad, g.take(range(start, start + p.shape[dim]), axis=dim))
        start += p.shape[dim]
