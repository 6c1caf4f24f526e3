"""Properties of the kernels over random shapes, options and memory layouts, forward and backward, against the
references.
"""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from references import attention, conv, matmul, norm, pool, softmax
from strategies import broadcastable, few, laid_out, shapes
from tolerance import sum_bound

import fastdl
import fastdl.nn.functional as F
from fastdl import Tensor


def leaf(x):
    return Tensor(x, requires_grad=True)


def same(tensor, expected, terms=1, scale=1.0):
    """Within the rounding of a sum of `terms` terms of size `scale`, in float64 on both sides."""
    got = tensor.detach().numpy()
    assert got.shape == expected.shape
    size = max(1.0, scale, float(np.abs(expected).max(initial=0.0)))
    np.testing.assert_allclose(got, expected, rtol=0, atol=8 * sum_bound(terms, np.float64) * size)


def check(data, function, backward, inputs, expected, terms, scale=10.0):
    """function on Tensors against the expected value, and its gradients for a drawn cotangent."""
    leaves = [leaf(x) for x in inputs]
    out = function(*leaves)
    same(out, expected, terms, scale)
    g = data.draw(laid_out(expected.shape))
    out.backward(Tensor(g))
    for t, d in zip(leaves, backward(g), strict=True):
        same(t.grad, d, terms * 4, scale * 10)


sizes = st.one_of(st.integers(0, 9), st.sampled_from([15, 16, 17, 31, 33]))


@given(st.data())
@few
def test_matmul(data):
    m, k, n = data.draw(sizes), data.draw(sizes), data.draw(sizes)
    lead = data.draw(shapes(max_dims=2, max_side=3))
    a = data.draw(laid_out((*data.draw(broadcastable(lead)), m, k)))
    b = data.draw(laid_out((*data.draw(broadcastable(lead)), k, n)))
    if data.draw(st.integers(0, 4)) == 0:
        a = data.draw(laid_out((k,)))
    if data.draw(st.integers(0, 4)) == 0:
        b = data.draw(laid_out((k,)))
    check(
        data,
        fastdl.matmul,
        lambda g: matmul.matmul_backward(g, a, b),
        (a, b),
        matmul.matmul(a, b),
        max(m, k, n) * 9,
    )


@given(st.data())
@few
def test_linear(data):
    x = data.draw(laid_out((*data.draw(shapes(max_dims=2)), data.draw(sizes))))
    w, b = data.draw(laid_out((data.draw(sizes), x.shape[-1]))), None
    inputs = [x, w]
    if data.draw(st.booleans()):
        b = data.draw(laid_out(w.shape[:1]))
        inputs.append(b)
    backward = lambda g: matmul.linear_backward(g, x, w)[: len(inputs)]  # noqa: E731
    check(data, F.linear, backward, inputs, matmul.linear(x, w, b), 64)


@st.composite
def convolutions(draw, transposed=False):
    nd = draw(st.integers(1, 3))
    many = lambda low, high: tuple(draw(st.lists(st.integers(low, high), min_size=nd, max_size=nd)))  # noqa: E731
    groups, per_in, per_out = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    kernel, size = many(1, 3), many(1, 7 if nd < 3 else 4)
    options = {"stride": many(1, 3), "padding": many(0, 2), "dilation": many(1, 2), "groups": groups}
    if transposed:
        options["output_padding"] = tuple(
            draw(st.integers(0, max(s, d) - 1))
            for s, d in zip(options["stride"], options["dilation"], strict=True)
        )
        out = conv.conv_transpose_output_size(
            size,
            kernel,
            options["stride"],
            options["padding"],
            options["output_padding"],
            options["dilation"],
        )
        assume(min(out) >= 1)
        weight = draw(laid_out((groups * per_in, per_out, *kernel)))
    else:
        if draw(st.integers(0, 3)) == 0:
            options |= {"padding": "same", "stride": 1}
        else:
            effective = [d * (k - 1) + 1 for k, d in zip(kernel, options["dilation"], strict=True)]
            assume(all(n + 2 * p >= e for n, p, e in zip(size, options["padding"], effective, strict=True)))
        weight = draw(laid_out((groups * per_out, per_in, *kernel)))
    batch = () if draw(st.integers(0, 5)) == 0 else (draw(st.integers(0, 3)),)
    x = draw(laid_out((*batch, groups * per_in, *size)))
    return nd, x, weight, draw(laid_out((groups * per_out,))), options


@given(convolutions(), st.data())
@few
def test_conv(drawn, data):
    nd, x, w, b, options = drawn
    function = getattr(F, f"conv{nd}d")
    check(
        data,
        lambda x, w, b: function(x, w, b, **options),
        lambda g: conv.conv_backward(g, x, w, **options),
        (x, w, b),
        conv.conv(x, w, b, **options),
        1000,
    )


@given(convolutions(transposed=True), st.data())
@few
def test_conv_transpose(drawn, data):
    nd, x, w, b, options = drawn
    function = getattr(F, f"conv_transpose{nd}d")
    check(
        data,
        lambda x, w, b: function(x, w, b, **options),
        lambda g: conv.conv_transpose_backward(g, x, w, **options),
        (x, w, b),
        conv.conv_transpose(x, w, b, **options),
        1000,
    )


@given(st.data())
@few
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "softmin"])
def test_softmax(name, data):
    x = data.draw(laid_out((*data.draw(shapes(max_dims=3)), data.draw(sizes)), scale=3.0))
    dim = data.draw(st.integers(-x.ndim, x.ndim - 1))
    forward, backward = getattr(softmax, name), getattr(softmax, name + "_backward")
    function = getattr(F, name)
    out = check(data, lambda x: function(x, dim), lambda g: (backward(g, x, dim),), (x,), forward(x, dim), 40)
    if name == "softmax" and x.size:
        out = function(leaf(x), dim).detach().numpy()
        np.testing.assert_allclose(out.sum(axis=dim), 1, rtol=1e-13)
        # Adding a constant to a row changes nothing.
        np.testing.assert_allclose(function(leaf(x + 7.0), dim).detach().numpy(), out, rtol=1e-12, atol=1e-14)


@st.composite
def poolings(draw):
    nd = draw(st.integers(1, 3))
    many = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(nd))  # noqa: E731
    kernel = many(1, 4)
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    size = many(1, 9 if nd < 3 else 5)
    assume(all(n + 2 * p >= k for n, p, k in zip(size, padding, kernel, strict=True)))
    options = {
        "kernel_size": kernel,
        "stride": many(1, 4),
        "padding": padding,
        "ceil_mode": draw(st.booleans()),
    }
    batch = () if draw(st.integers(0, 4)) == 0 else (draw(st.integers(0, 3)),)
    return nd, draw(laid_out((*batch, draw(st.integers(1, 5)), *size))), options


@given(poolings(), st.data())
@few
def test_max_pool(drawn, data):
    nd, x, options = drawn
    y, indices = pool.max_pool(x, nd=nd, **options)
    check(
        data,
        lambda x: getattr(F, f"max_pool{nd}d")(x, **options),
        lambda g: (pool.max_pool_backward(g, indices, x.shape, nd),),
        (x,),
        y,
        16,
    )
    _out, got = getattr(F, f"max_pool{nd}d")(Tensor(x), return_indices=True, **options)
    np.testing.assert_array_equal(got.numpy(), indices)


@given(poolings(), st.data())
@few
def test_avg_pool(drawn, data):
    nd, x, options = drawn
    options["count_include_pad"] = data.draw(st.booleans())
    check(
        data,
        lambda x: getattr(F, f"avg_pool{nd}d")(x, **options),
        lambda g: (pool.avg_pool_backward(g, x.shape, nd=nd, **options),),
        (x,),
        pool.avg_pool(x, nd=nd, **options),
        64,
    )


@given(st.data())
@few
def test_adaptive_pool(data):
    nd = data.draw(st.integers(1, 3))
    x = data.draw(laid_out((2, 3, *(data.draw(st.integers(1, 6)) for _ in range(nd)))))
    out = tuple(data.draw(st.integers(1, 5)) for _ in range(nd))
    check(
        data,
        lambda x: getattr(F, f"adaptive_avg_pool{nd}d")(x, out),
        lambda g: (pool.adaptive_avg_pool_backward(g, x.shape, nd),),
        (x,),
        pool.adaptive_avg_pool(x, out, nd),
        64,
    )
    y, indices = pool.adaptive_max_pool(x, out, nd)
    check(
        data,
        lambda x: getattr(F, f"adaptive_max_pool{nd}d")(x, out),
        lambda g: (pool.max_pool_backward(g, indices, x.shape, nd),),
        (x,),
        y,
        64,
    )


@given(st.data())
@few
def test_layer_norm(data):
    shape = data.draw(shapes(min_dims=1, max_dims=3, min_side=1, max_side=9))
    normalized = shape[data.draw(st.integers(0, len(shape) - 1)) :]
    x, w, b = data.draw(laid_out(shape)), data.draw(laid_out(normalized)), data.draw(laid_out(normalized))
    check(
        data,
        lambda x, w, b: F.layer_norm(x, normalized, w, b, 0.1),
        lambda g: norm.layer_norm_backward(g, x, normalized, w, 0.1),
        (x, w, b),
        norm.layer_norm(x, normalized, w, b, 0.1),
        200,
    )


@given(st.data())
@few
def test_batch_norm(data):
    channels, spatial = data.draw(sizes.filter(bool)), data.draw(shapes(max_dims=3, min_side=1))
    x = data.draw(laid_out((data.draw(st.integers(2, 5)), channels, *spatial)))
    w, b = data.draw(laid_out((channels,))), data.draw(laid_out((channels,)))
    check(
        data,
        lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True, eps=0.1),
        lambda g: norm.batch_norm_backward(g, x, None, None, w, training=True, eps=0.1),
        (x, w, b),
        norm.batch_norm(x, None, None, w, b, training=True, eps=0.1)[0],
        500,
    )


@given(st.data())
@few
def test_attention(data):
    queries, keys, depth, width = (data.draw(sizes.filter(bool)) for _ in range(4))
    heads, batch = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 2))
    groups = data.draw(st.integers(1, 2))
    q = data.draw(laid_out((batch, heads * groups, queries, depth)))
    k, v = data.draw(laid_out((batch, heads, keys, depth))), data.draw(laid_out((batch, heads, keys, width)))
    options = {"enable_gqa": groups > 1}
    mask = None
    kind = data.draw(st.sampled_from(["none", "causal", "bool", "additive"]))
    if kind == "causal":
        options["is_causal"] = True
    elif kind != "none":
        mask = data.draw(laid_out(data.draw(broadcastable((batch, heads * groups, queries, keys)))))
        mask = mask > -0.5 if kind == "bool" else mask
    attend = F.scaled_dot_product_attention
    check(
        data,
        lambda q, k, v: attend(q, k, v, attn_mask=None if mask is None else Tensor(mask), **options),
        lambda g: attention.scaled_dot_product_attention_backward(g, q, k, v, mask, **options)[:3],
        (q, k, v),
        attention.scaled_dot_product_attention(q, k, v, mask, **options),
        200,
    )
