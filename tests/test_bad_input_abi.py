"""Hostile calls of every compiled function: wrong shapes, dtypes, strides, None, read-only and overlapping outputs.

A call either succeeds, and then no output keeps its poison, or raises, and then no output has changed.
"""

import os

import numpy as np
import pytest

from fastdl import _core

ERRORS = (ValueError, TypeError, IndexError, RuntimeError, MemoryError)
CALLS = 40  # per function and seed
FUNCTIONS_WITHOUT_ARRAYS = {
    "available_isas", "empty", "get_cpu_isa", "get_float32_precision", "get_num_threads", "measure_copy",
    "measure_peak", "pooled_bytes", "release_pool", "rnn_dropout_size", "rnn_reserve_size", "set_cpu_isa",
    "set_float32_precision", "set_num_threads", "version",
}  # fmt: skip


class Out:
    """Stands for an output (or an array updated in place, if it has values) in a builder's arguments."""

    def __init__(self, *shape, dtype=None, values=None):
        self.shape, self.dtype, self.values = shape, dtype, values


def conv_options(stride=1, padding=1, dilation=1, groups=1, kind=0):
    return _core.ConvOptions(
        [stride] * 3, [padding] * 3, [padding] * 3, [dilation] * 3, groups, kind, 0.0, 0.0
    )


def pool_options():
    return _core.PoolOptions([2] * 3, [2] * 3, [0] * 3, [1] * 3, False, True, 0)


class Cases:
    """One valid call per method, of random small sizes; empty dimensions among them."""

    def __init__(self, rng):
        self.rng = rng
        self.dtype = rng.choice([np.float32, np.float64])

    def size(self, low=1, high=9):
        return int(self.rng.integers(low, high))

    def sizes(self, n):
        return tuple(self.size() for _ in range(n))

    def x(self, *shape):
        return self.rng.standard_normal(shape).astype(self.dtype)

    def unit(self, *shape):
        return self.rng.uniform(0.1, 0.9, shape).astype(self.dtype)

    def labels(self, limit, *shape):
        return self.rng.integers(0, limit, shape).astype(self.rng.choice([np.int32, np.int64]))

    # matmul
    def matmul(self):
        m, n, k, b = self.size(0, 9), self.size(), self.size(0, 40), self.size()
        return [
            self.x(b, m, k),
            self.x(k, n),
            self.x(n),
            self.x(b, m, n),
            Out(b, m, n),
            1.0,
            0.0,
            1,
            0.0,
            0.0,
        ]

    def linear(self):
        m, n, k = self.sizes(3)
        return [self.x(m, k), self.x(n, k), self.x(n), Out(m, n), 0, 0.0, 0.0]

    def linear_backward(self):
        m, n, k = self.size(0, 5), self.size(), self.size()
        return [
            self.x(m, n),
            self.x(m, n),
            self.x(m, k),
            self.x(n, k),
            Out(m, k),
            Out(n, k),
            Out(n),
            1,
            0.0,
            0.0,
        ]

    def matmul_packed_b_size(self):
        return [self.x(*self.sizes(2))]

    def matmul_pack_b(self):
        b = self.x(*self.sizes(2))
        return [b, Out(_core.matmul_packed_b_size(b), values="packed")]

    def matmul_packed(self):
        m, n, k = self.sizes(3)
        b = self.x(k, n)
        packed = np.zeros(_core.matmul_packed_b_size(b), self.dtype)
        _core.matmul_pack_b(b, packed)
        return [self.x(m, k), packed, self.x(n), self.x(m, n), Out(m, n), 1.0, 0.0, 0, 0.0, 0.0]

    # conv
    def conv_forward(self, transposed=False):
        n, c, o, h, w = self.size(0, 4), self.size(), self.size(), self.size(2, 9), self.size(2, 9)
        return [self.x(n, c, h, w), self.x(*((c, o) if transposed else (o, c)), 3, 3), self.x(o), self.x(n, o, h, w),
                Out(n, o, h, w), conv_options(kind=self.size(0, 23))]  # fmt: skip

    def conv_transpose_forward(self):
        return self.conv_forward(True)

    def conv_backward_data(self, transposed=False):
        n, c, o, h, w = self.size(0, 4), self.size(), self.size(), self.size(2, 9), self.size(2, 9)
        weight = self.x(*((c, o) if transposed else (o, c)), 3, 3)
        return [self.x(n, o, h, w), self.x(n, o, h, w), weight, Out(n, c, h, w), conv_options(kind=1)]

    def conv_transpose_backward_data(self):
        return self.conv_backward_data(True)

    def conv_backward_weight(self, transposed=False):
        n, c, o, h, w = self.size(0, 4), self.size(0, 9), self.size(0, 9), self.size(2, 9), self.size(2, 9)
        weight = Out(*((c, o) if transposed else (o, c)), 3, 3)
        return [
            self.x(n, o, h, w),
            self.x(n, o, h, w),
            self.x(n, c, h, w),
            weight,
            Out(o),
            conv_options(kind=1),
        ]

    def conv_transpose_backward_weight(self):
        return self.conv_backward_weight(True)

    def unfold(self):
        n, c, h, w = self.sizes(4)
        return [self.x(n, c, h, w), [3, 3], Out(n, c * 9, h * w), conv_options()]

    def fold(self):
        n, c, h, w = self.sizes(4)
        return [self.x(n, c * 9, h * w), [3, 3], Out(n, c, h, w), conv_options()]

    # rnn
    def rnn(self):
        kind, t, b, i, h = self.size(0, 4), *self.sizes(4)
        gates = {2: 3, 3: 4}.get(kind, 1)
        options = _core.RnnOptions(kind, 2, True, True, False, 0.5, 1, 2)
        params = []
        for layer in range(2):
            for _ in range(2):
                width = i if layer == 0 else 2 * h
                params += [
                    self.x(gates * h, width),
                    self.x(gates * h, h),
                    self.x(gates * h),
                    self.x(gates * h),
                ]
        state = self.x(4, b, h)
        cell = self.x(4, b, h) if kind == 3 else None
        lengths = np.array([t] + [self.size(1, t + 1) for _ in range(b - 1)])
        rows = int(lengths.sum())
        reserve = _core.rnn_reserve_size(options, rows, h, h)
        return options, kind, (t, b, i, h), params, state, cell, lengths, reserve

    def rnn_forward(self):
        options, kind, (t, b, i, h), params, state, cell, lengths, reserve = self.rnn()
        return [self.x(t, b, i), state, cell, params, lengths, Out(t, b, 2 * h), Out(4, b, h),
                Out(4, b, h) if kind == 3 else None, Out(reserve, values="scratch"), options]  # fmt: skip

    def rnn_backward(self):
        options, kind, (t, b, i, h), params, state, cell, lengths, reserve = self.rnn()
        last = Out(4, b, h) if kind == 3 else None
        y = self.x(t, b, 2 * h)
        return [self.x(t, b, 2 * h), state, cell, self.x(t, b, i), state, cell, params, lengths, y, self.unit(reserve),
                Out(t, b, i), Out(4, b, h), last, [Out(*p.shape) for p in params], options]  # fmt: skip

    # attention
    def attention_forward(self):
        b, g, r, n, s, e = self.size(0, 3), *self.sizes(3), self.size(0, 9), self.size()
        mask = self.rng.random((b, g * r, n, s)) < 0.7 if self.size(0, 2) else self.x(b, g * r, n, s)
        return [self.x(b, g * r, n, e), self.x(b, g, s, e), self.x(b, g, s, e + 1), mask, Out(b, g * r, n, e + 1),
                Out(b, g * r, n, values="may be infinite"), None, bool(self.size(0, 2)), 0.25, 1, 2]  # fmt: skip

    def attention_backward(self):
        q, k, v, mask, out, _, *rest = self.attention_forward()
        result, lse = np.empty(out.shape, self.dtype), np.empty(q.shape[:3], self.dtype)
        _core.attention_forward(q, k, v, mask, result, lse, *rest)
        additive = Out(*mask.shape) if mask.dtype != bool else None
        return [self.x(*out.shape), q, k, v, mask, result, lse, Out(*q.shape), Out(*k.shape), Out(*v.shape), additive,
                *rest]  # fmt: skip

    # norm
    def layer_norm_forward(self):
        a, b, c = self.sizes(3)
        return [self.x(a, b, c), self.x(b, c), self.x(b, c), Out(a, b, c), Out(a), Out(a), 2, 1e-5]

    def layer_norm_backward(self):
        a, b, c = self.sizes(3)
        x = self.x(a, b, c)
        return [
            self.x(a, b, c),
            x,
            self.x(b, c),
            self.x(a),
            self.unit(a),
            Out(a, b, c),
            Out(b, c),
            Out(b, c),
            2,
        ]

    def rms_norm_forward(self):
        a, b, c = self.sizes(3)
        return [self.x(a, b, c), self.x(b, c), Out(a, b, c), Out(a), 2, 1e-5]

    def rms_norm_backward(self):
        a, b, c = self.sizes(3)
        return [self.x(a, b, c), self.x(a, b, c), self.x(b, c), self.unit(a), Out(a, b, c), Out(b, c), 2]

    def group_norm_forward(self):
        n, c, h = self.sizes(3)
        return [
            self.x(n, 2 * c, h),
            self.x(2 * c),
            self.x(2 * c),
            Out(n, 2 * c, h),
            Out(n, 2),
            Out(n, 2),
            2,
            1e-5,
        ]

    def group_norm_backward(self):
        n, c, h = self.sizes(3)
        return [self.x(n, 2 * c, h), self.x(n, 2 * c, h), self.x(2 * c), self.x(n, 2), self.unit(n, 2),
                Out(n, 2 * c, h), Out(2 * c), Out(2 * c), 2]  # fmt: skip

    def batch_norm_forward(self):
        n, c, h = self.sizes(3)
        training = bool(self.size(0, 2))
        return [self.x(n, c, h), self.x(c), self.x(c), Out(c, values=self.x(c)), Out(c, values=self.unit(c)),
                Out(n, c, h), Out(c), Out(c), training, 0.1, 1e-5]  # fmt: skip

    def batch_norm_backward(self):
        n, c, h = self.sizes(3)
        return [self.x(n, c, h), self.x(n, c, h), self.x(c), self.x(c), self.unit(c), Out(n, c, h), Out(c), Out(c),
                bool(self.size(0, 2))]  # fmt: skip

    # pool
    def max_pool_forward(self):
        n, c, h, w = self.size(0, 4), *self.sizes(3)
        shape = (n, c, h, w)
        indices = Out(*shape, dtype=self.rng.choice([np.int32, np.int64])) if self.size(0, 2) else None
        return [self.x(n, c, 2 * h, 2 * w), Out(*shape), indices, pool_options()]

    def max_pool_backward(self):
        n, c, h, w = self.sizes(4)
        return [
            self.x(n, c, h, w),
            self.labels(4 * h * w, n, c, h, w),
            Out(n, c, 2 * h, 2 * w),
            pool_options(),
        ]

    def avg_pool_forward(self):
        n, c, h, w = self.size(0, 4), *self.sizes(3)
        return [self.x(n, c, 2 * h, 2 * w), Out(n, c, h, w), pool_options()]

    def avg_pool_backward(self):
        n, c, h, w = self.sizes(4)
        return [self.x(n, c, h, w), Out(n, c, 2 * h, 2 * w), pool_options()]

    # elementwise
    def activation_forward(self):
        shape = self.sizes(3)
        return [self.x(*shape), Out(*shape), self.size(0, 23), 0.5, 1.0]

    def activation_backward(self):
        shape = self.sizes(3)
        return [self.x(*shape), self.x(*shape), Out(*shape), self.size(0, 23), 0.5, 1.0, False]

    def glu_forward(self):
        a, b, c = self.sizes(3)
        return [self.x(a, 2 * b, c), Out(a, b, c), 1]

    def glu_backward(self):
        a, b, c = self.sizes(3)
        return [self.x(a, b, c), self.x(a, 2 * b, c), Out(a, 2 * b, c), 1]

    def prelu_forward(self):
        a, b, c = self.size(0, 4), *self.sizes(2)
        return [self.x(a, b, c), self.x(b), Out(a, b, c)]

    def prelu_backward(self):
        a, b, c = self.size(0, 4), *self.sizes(2)
        return [self.x(a, b, c), self.x(a, b, c), self.x(b), Out(a, b, c), Out(b)]

    def elementary(self):
        shape = self.sizes(2)
        return [self.unit(*shape), Out(*shape), self.size(0, 6)]

    def dropout(self):
        shape = self.sizes(3)
        return [self.x(*shape), Out(*shape), 0.5, 1, 2]

    def convert(self):
        shape = self.sizes(3)
        self.dtype = np.float32
        return [self.x(*shape), Out(*shape, dtype=np.float16)]

    def softmax_forward(self):
        shape = self.sizes(3)
        return [self.x(*shape), Out(*shape), self.size(0, 3), self.size(0, 3)]

    def softmax_backward(self):
        shape = self.sizes(3)
        return [self.x(*shape), self.x(*shape), Out(*shape), self.size(0, 3), self.size(0, 3)]

    # loss
    def cross_entropy(self):
        n, c, d = self.sizes(3)
        return [self.x(n, c, d), self.labels(c, n, d), self.unit(c), Out(n, d), Out(n, c, d), 0, -100, 0.1]

    def nll_loss(self):
        n, c = self.sizes(2)
        return [self.x(n, c), self.labels(c, n), self.unit(c), Out(), Out(n, c), 1, -100]

    def loss(self):
        shape = self.sizes(2)
        operands = [self.unit(*shape) for _ in range(4)]
        return [*operands, Out(*shape), Out(*shape), self.size(0, 12), 0, 1.0]

    # embedding
    def embedding_forward(self):
        v, d, n = self.sizes(3)
        return [self.x(v, d), self.labels(v, n), Out(n, d)]

    def embedding_backward(self):
        v, d, n = self.sizes(3)
        return [self.x(n, d), self.labels(v, n), Out(v, d), -1, True]

    def embedding_renorm(self):
        v, d, n = self.sizes(3)
        return [Out(v, d, values=self.x(v, d)), self.labels(v, n), 1.0, 2.0]

    def embedding_bag_forward(self):
        v, d, n, b = self.sizes(4)
        offsets = np.sort(np.append(self.labels(n + 1, b - 1), 0)).astype(np.int64)
        mode = self.size(0, 3)
        return [self.x(v, d), self.labels(v, n), offsets, self.x(n) if mode == 0 else None, Out(b, d),
                Out(b, d, dtype=np.int64) if mode == 2 else None, mode, False, -1]  # fmt: skip

    def embedding_bag_backward(self):
        weight, indices, offsets, scales, out, _, mode, *_ = self.embedding_bag_forward()
        which = self.labels(weight.shape[0], *out.shape).astype(np.int64)
        return [self.x(*out.shape), weight, indices, offsets, scales, which, Out(*weight.shape),
                Out(*indices.shape) if mode == 0 else None, mode, False, False, -1]  # fmt: skip

    # optim
    def norm(self):
        return [[self.x(*self.sizes(2)), self.x(self.size())], 2.0]

    def scale(self):
        shape = self.sizes(2)
        return [[Out(*shape, values=self.x(*shape)), Out(3, values=self.x(3))], 0.5]


FUNCTIONS = sorted(
    n for n in dir(_core) if n not in FUNCTIONS_WITHOUT_ARRAYS and n[0] not in "_ABCDEFGHIJKLMNOPQRSTUVWXYZ"
)


def spaced(a, rng):
    """The same values in another layout: transposed memory, every second element, backwards."""
    if a.ndim == 0:
        return a.copy()
    order = rng.permutation(a.ndim)
    b = np.ascontiguousarray(a.transpose(order)).transpose(np.argsort(order))
    if rng.random() < 0.5:
        dim = int(rng.integers(a.ndim))
        wide = np.repeat(b, 2, axis=dim)
        b = wide[(slice(None),) * dim + (slice(None, None, 2),)]
    if rng.random() < 0.5:
        dim = int(rng.integers(a.ndim))
        b = np.flip(np.flip(b, dim).copy(), dim)
    return b


def wrong(a, rng):
    """Something that does not belong in a's place."""
    kind = rng.integers(12)
    if kind == 0:
        return None
    if kind == 1:
        return a.astype(rng.choice(["f2", "f4", "f8", "i4", "i8", "u1", "?", ">f4", "c8", "i2"]))
    if kind == 2:
        return np.broadcast_to(a.ravel()[:1].reshape((1,) * a.ndim) if a.size else a, a.shape)
    if kind == 3:
        b = a.copy()
        b.flags.writeable = False
        return b
    if kind == 4 and a.ndim:
        return a[(slice(None),) * int(rng.integers(a.ndim)) + (slice(0, 0),)]
    if kind == 5 and a.ndim:
        return np.concatenate([a, a], axis=int(rng.integers(a.ndim)))
    if kind == 6:
        return a[..., None] if rng.random() < 0.5 else a[None]
    if kind == 7 and a.ndim:
        return a[0] if a.shape[0] else a.reshape(-1)
    if kind == 8:
        raw = np.zeros(a.nbytes + 1, np.uint8)
        b = raw[1:].view(a.dtype).reshape(a.shape) if a.size else a
        b[...] = a
        return b
    if kind == 9:
        return rng.choice(np.array([3, 2.5, "text", [1, [2]], {}], dtype=object))
    if kind == 10 and a.size and a.ndim:  # elements that share memory in part, and may be written
        strides = (a.itemsize,) * a.ndim
        return np.lib.stride_tricks.as_strided(a.copy(), a.shape, strides)
    if kind == 11 and a.dtype.kind == "i":
        return a + rng.choice(np.array([-1, -200, 1000, 2**31 - 1, 2**40, -(2**62)])).astype(a.dtype)
    return a.reshape(-1)


def base_of(a):
    while isinstance(a.base, np.ndarray):
        a = a.base
    return a


def realise(argument, rng, dtype, outs):
    if isinstance(argument, list) and argument and isinstance(argument[0], (np.ndarray, Out)):
        return [realise(a, rng, dtype, outs) for a in argument]
    if not isinstance(argument, Out):
        return argument
    a = np.empty(argument.shape, argument.dtype or dtype)
    if isinstance(argument.values, np.ndarray):
        a[...] = argument.values
    else:
        a.fill(np.nan if a.dtype.kind == "f" else -77)
    outs.append((argument, a))
    return a


def mutate(arguments, outs, rng):
    """Changes up to two arrays; returns whether the call is still a right one."""
    slots = [(arguments, i) for i, a in enumerate(arguments) if isinstance(a, np.ndarray)]
    for a in arguments:
        if isinstance(a, list):
            slots += [(a, i) for i, item in enumerate(a) if isinstance(item, np.ndarray)]
    right = True
    for _ in range(rng.integers(0, 3)):
        where, i = slots[rng.integers(len(slots))]
        before = where[i]
        if not isinstance(before, np.ndarray):
            continue
        if rng.random() < 0.4:
            where[i] = spaced(before, rng)
        else:
            where[i] = wrong(before, rng)
            right = False
        for k, (spec, out) in enumerate(outs):
            if out is before:
                outs[k] = (spec, where[i])
    return right


@pytest.mark.parametrize("name", FUNCTIONS)
def test_hostile_calls(name, rng):
    function = getattr(_core, name)
    succeeded = 0
    with np.errstate(all="ignore"):
        for _ in range(CALLS):
            cases = Cases(rng)
            outs = []
            arguments = [realise(a, rng, cases.dtype, outs) for a in getattr(cases, name)()]
            right = mutate(arguments, outs, rng)
            arrays = [(spec, a) for spec, a in outs if isinstance(a, np.ndarray)]
            before = [base_of(a).tobytes() for _, a in arrays]
            try:
                function(*arguments)
            except ERRORS as error:
                assert str(error), "an error without a message"
                assert before == [base_of(a).tobytes() for _, a in arrays], (
                    f"{error}: but an output has changed"
                )
                continue
            if not right:
                continue
            succeeded += 1
            for spec, a in arrays:
                if isinstance(spec.values, str):
                    continue
                poison = np.isnan(a) if a.dtype.kind == "f" else a == -77
                assert not poison.any(), f"output {a.shape}, strides {a.strides}: not written"
    assert succeeded >= 5


def test_every_function_is_called():
    assert [n for n in FUNCTIONS if not hasattr(Cases, n)] == []


# What the fuzzer or a reader found, one by one.


def test_output_elements_share_memory():
    x, out = np.ones((3, 4), np.float32), np.zeros(4, np.float32)
    shared = np.lib.stride_tricks.as_strided(out, (3, 4), (0, 4))
    with pytest.raises(ValueError, match="share memory"):
        _core.activation_forward(x, shared, 1, 0.0, 0.0)
    with pytest.raises(ValueError, match="share memory"):
        _core.matmul(x, np.ones((4, 4), np.float32), None, None, shared, 1.0, 0.0, 0, 0.0, 0.0)
    assert not out.any()


@pytest.mark.parametrize("channels, outputs", [(0, 3), (3, 0), (0, 0)])
def test_conv_weight_gradient_without_channels(channels, outputs):
    out = np.full((outputs, channels, 3, 3), np.nan, np.float32)
    bias = np.full(outputs, np.nan, np.float32)
    x, grad = np.ones((2, channels, 5, 5), np.float32), np.ones((2, outputs, 5, 5), np.float32)
    _core.conv_backward_weight(grad, None, x, out, bias, conv_options())
    np.testing.assert_array_equal(bias, 50)


def test_conv_sizes_that_overflow():
    x, w, out = (
        np.ones((1, 1, 4, 4, 4), np.float32),
        np.ones((1, 1, 1, 1, 1), np.float32),
        np.zeros((1, 1, 3, 3, 3)),
    )
    big = 2**62
    for options in (conv_options(padding=big, stride=big), conv_options(padding=2**40, stride=2**40)):
        with pytest.raises(ValueError):
            _core.conv_forward(x, w, None, None, out.astype(np.float32), options)
        with pytest.raises(ValueError):
            _core.conv_backward_data(out.astype(np.float32), None, w, x.copy(), options)


def test_conv_data_gradient_with_a_huge_stride():
    grad, w, grad_x = (
        np.ones((1, 1, 1), np.float32),
        np.ones((1, 1, 1), np.float32),
        np.full((1, 1, 3), np.nan, "f4"),
    )
    _core.conv_backward_data(grad, None, w, grad_x, conv_options(stride=2**40, padding=0))
    np.testing.assert_array_equal(grad_x, [[[1, 0, 0]]])


def test_max_pool_window_without_elements():
    """Kernel 2 with dilation 3 and padding 1 straddles an input of 2 elements."""
    options = _core.PoolOptions([2] * 3, [1] * 3, [1] * 3, [3] * 3, False, True, 0)
    x, out = np.ones((1, 20, 2), np.float32), np.zeros((1, 20, 1), np.float32)
    _core.max_pool_forward(x, out, None, options)
    np.testing.assert_array_equal(out, -np.inf)
    indices = np.zeros(out.shape, np.int64)
    _core.max_pool_forward(x, out, indices, options)
    np.testing.assert_array_equal(out, -np.inf)
    np.testing.assert_array_equal(indices, -1)
    grad = np.full(x.shape, np.nan, np.float32)
    _core.max_pool_backward(np.ones_like(out), indices, grad, options)
    np.testing.assert_array_equal(grad, 0)


def test_pool_of_an_empty_plane():
    options = _core.PoolOptions([2] * 3, [2] * 3, [1] * 3, [1] * 3, False, True, 0)
    with pytest.raises(ValueError, match="empty"):
        _core.avg_pool_forward(np.zeros((1, 1, 0), np.float32), np.zeros((1, 1, 1), np.float32), options)


def test_pool_indices_beyond_int32_contribute_nothing():
    grad = np.full((1, 1, 4), np.nan, np.float32)
    indices = np.array([[[2**32, 2]]])
    _core.max_pool_backward(np.ones((1, 1, 2), np.float32), indices, grad, pool_options())
    np.testing.assert_array_equal(grad, [[[0, 0, 1, 0]]])


def test_group_norm_backward_without_statistics():
    x = np.ones((2, 4, 3), np.float32)
    with pytest.raises(ValueError, match="mean and rstd"):
        _core.group_norm_backward(x, x, None, None, None, x.copy(), None, None, 2)


def test_bag_backward_checks_what_it_follows():
    weight, grad = np.ones((3, 2), np.float32), np.ones((2, 2), np.float32)
    indices, offsets = np.array([0, 1, 2]), np.array([0, 1])
    out = np.zeros_like(weight)
    with pytest.raises(IndexError, match="max_indices"):
        _core.embedding_bag_backward(
            grad, weight, indices, offsets, None, np.full((2, 2), 1000), out, None, 2, False, False, -1
        )
    with pytest.raises(ValueError, match="per_sample_weights"):
        _core.embedding_bag_backward(
            grad, weight, indices, offsets, None, None, None, np.zeros((), "f4"), 0, False, False, -1
        )
    assert not out.any()


def test_bag_indices_behind_the_last_offset_count_for_nothing():
    weight, indices, offsets = np.ones((3, 2), np.float32), np.array([0, 1, 1, 2]), np.array([0, 2])
    grad = np.full((1, 2), 5, np.float32)
    out, scales = np.full_like(weight, np.nan), np.full(4, np.nan, np.float32)
    _core.embedding_bag_backward(
        grad, weight, indices, offsets, np.ones(4, "f4"), None, out, scales, 0, True, False, -1
    )
    np.testing.assert_array_equal(out, [[5, 5], [5, 5], [0, 0]])
    np.testing.assert_array_equal(scales, [10, 10, 0, 0])


def test_damaged_packed_operand():
    b = np.ones((3, 4), np.float32)
    packed = np.zeros(_core.matmul_packed_b_size(b), np.float32)
    _core.matmul_pack_b(b, packed)
    for k, n in ((-1, 4), (2**62, 2**62), (2**40, 2**40)):
        damaged = packed.copy()
        damaged[6:10].view(np.int64)[:] = k, n
        with pytest.raises(ValueError):
            _core.matmul_packed(
                np.ones((2, 3), "f4"), damaged, None, None, np.zeros((2, 4), "f4"), 1, 0, 0, 0, 0
            )


def test_rnn_reserve_size_overflow():
    with pytest.raises(ValueError, match="too many"):
        _core.rnn_reserve_size(_core.RnnOptions(3, 2, True, True, False, 0.0, 0, 0), 2**62, 2**40, 2**40)


@pytest.mark.parametrize("shape", [(2**61,), (2**60,), (2**63 - 1,), (2**62, 4), (2**40, 2**40)])
@pytest.mark.skipif(
    "libasan" in os.environ.get("LD_PRELOAD", ""),
    reason="AddressSanitizer ends a process that asks for so much",
)
def test_empty_of_an_impossible_size(shape):
    with pytest.raises((ValueError, MemoryError)):
        _core.empty(shape, np.dtype("f4"))


def test_empty_of_objects():
    assert _core.empty((1 << 17,), np.dtype(object))[-1] is None
