"""Right calls of every compiled function, of random small sizes: for the tests that go through all of them."""

import ml_dtypes
import numpy as np

from fastdl import _core

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FUNCTIONS_WITHOUT_ARRAYS = {
    "available_isas", "empty", "get_cpu_isa", "get_float32_precision", "get_num_threads", "measure_copy",
    "measure_peak", "measure_peak_bfloat16", "pooled_bytes", "release_pool", "rnn_dropout_size",
    "rnn_reserve_size", "set_cpu_isa", "set_float32_precision", "set_num_threads", "version",
}  # fmt: skip
FUNCTIONS = sorted(
    n for n in dir(_core) if n not in FUNCTIONS_WITHOUT_ARRAYS and n[0] not in "_ABCDEFGHIJKLMNOPQRSTUVWXYZ"
)


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

    def __init__(self, rng, dtype=None):
        self.rng = rng
        self.dtype = np.dtype(dtype or [np.float32, np.float64, BFLOAT16, np.float16][rng.integers(4)])
        # Of statistics, reserves and packed operands.
        self.wide = np.dtype(np.float32) if self.dtype.itemsize == 2 else self.dtype

    def size(self, low=1, high=9):
        return int(self.rng.integers(low, high))

    def sizes(self, n):
        return tuple(self.size() for _ in range(n))

    def x(self, *shape):
        return self.rng.standard_normal(shape).astype(self.dtype)

    def unit(self, *shape):
        return self.rng.uniform(0.1, 0.9, shape).astype(self.dtype)

    def wide_x(self, *shape):
        return self.rng.standard_normal(shape).astype(self.wide)

    def wide_unit(self, *shape):
        return self.rng.uniform(0.1, 0.9, shape).astype(self.wide)

    def labels(self, limit, *shape):
        return self.rng.integers(0, limit, shape).astype(self.rng.choice([np.int32, np.int64]))

    # matmul
    def matmul(self):
        m, n, k, b = self.size(0, 9), self.size(), self.size(0, 40), self.size()
        return [self.x(b, m, k), self.x(k, n), self.x(n), self.x(b, m, n), Out(b, m, n), 1.0, 0.0, 1, 0.0,
                0.0]  # fmt: skip

    def linear(self):
        m, n, k = self.sizes(3)
        return [self.x(m, k), self.x(n, k), self.x(n), Out(m, n), 0, 0.0, 0.0]

    def linear_to_new(self):
        m, n, k = self.sizes(3)
        return [self.x(m, k), self.x(n, k), self.x(n), 1, 0.0, 0.0, True]

    def linear_backward(self):
        m, n, k = self.size(0, 5), self.size(), self.size()
        return [self.x(m, n), self.x(m, n), self.x(m, k), self.x(n, k), Out(m, k), Out(n, k), Out(n), 1, 0.0,
                0.0]  # fmt: skip

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
        return [self.x(n, o, h, w), self.x(n, o, h, w), self.x(n, c, h, w), weight, Out(o),
                conv_options(kind=1)]  # fmt: skip

    def conv_pool_backward(self):
        n, c, o, h, w = self.size(0, 4), self.size(), self.size(), self.size(4, 11), self.size(4, 11)
        shape = (n, o, (h - 2) // 2, (w - 2) // 2)
        indices = self.rng.integers(-1, (h - 2) * (w - 2) + 1, shape).astype(np.int32)
        return [self.x(*shape), self.x(*shape), indices, self.x(n, c, h, w), self.x(o, c, 3, 3),
                Out(n, c, h, w), Out(o, c, 3, 3), Out(o), conv_options(kind=1, padding=0)]  # fmt: skip

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
                Out(4, b, h) if kind == 3 else None, Out(reserve, dtype=self.wide, values="scratch"),
                options]  # fmt: skip

    def saved(self, size):
        """What a forward pass could have left: parts of it are 16-bit numbers, two to a word."""
        if self.dtype != BFLOAT16:
            return self.wide_unit(size)
        return self.rng.uniform(0.1, 0.9, 2 * size).astype(BFLOAT16).view(np.float32)

    def rnn_backward(self):
        options, kind, (t, b, i, h), params, state, cell, lengths, reserve = self.rnn()
        last = Out(4, b, h) if kind == 3 else None
        y = self.x(t, b, 2 * h)
        return [self.x(t, b, 2 * h), state, cell, self.x(t, b, i), state, cell, params, lengths, y,
                self.saved(reserve), Out(t, b, i), Out(4, b, h), last,
                [Out(*p.shape) for p in params], options]  # fmt: skip

    # attention
    def attention_forward(self):
        b, g, r, n, s, e = self.size(0, 3), *self.sizes(3), self.size(0, 9), self.size()
        mask = self.rng.random((b, g * r, n, s)) < 0.7 if self.size(0, 2) else self.x(b, g * r, n, s)
        return [self.x(b, g * r, n, e), self.x(b, g, s, e), self.x(b, g, s, e + 1), mask, Out(b, g * r, n, e + 1),
                Out(b, g * r, n, dtype=self.wide, values="may be infinite"), None, bool(self.size(0, 2)), 0.25,
                1, 2]  # fmt: skip

    def attention_backward(self):
        q, k, v, mask, out, _, *rest = self.attention_forward()
        result, lse = np.empty(out.shape, self.dtype), np.empty(q.shape[:3], self.wide)
        _core.attention_forward(q, k, v, mask, result, lse, *rest)
        additive = Out(*mask.shape, dtype=mask.dtype) if mask.dtype != bool else None
        return [self.x(*out.shape), q, k, v, mask, result, lse, Out(*q.shape), Out(*k.shape), Out(*v.shape), additive,
                *rest]  # fmt: skip

    # norm
    def statistics(self, *shape):
        return Out(*shape, dtype=self.wide)

    def layer_norm_forward(self):
        a, b, c = self.sizes(3)
        return [self.x(a, b, c), self.x(b, c), self.x(b, c), Out(a, b, c), self.statistics(a),
                self.statistics(a), 2, 1e-5]  # fmt: skip

    def layer_norm_backward(self):
        a, b, c = self.sizes(3)
        x = self.x(a, b, c)
        return [self.x(a, b, c), x, self.x(b, c), self.wide_x(a), self.wide_unit(a), Out(a, b, c), Out(b, c),
                Out(b, c), 2]  # fmt: skip

    def rms_norm_forward(self):
        a, b, c = self.sizes(3)
        return [self.x(a, b, c), self.x(b, c), Out(a, b, c), self.statistics(a), 2, 1e-5]

    def rms_norm_backward(self):
        a, b, c = self.sizes(3)
        return [self.x(a, b, c), self.x(a, b, c), self.x(b, c), self.wide_unit(a), Out(a, b, c), Out(b, c), 2]

    def group_norm_forward(self):
        n, c, h = self.sizes(3)
        return [self.x(n, 2 * c, h), self.x(2 * c), self.x(2 * c), Out(n, 2 * c, h), self.statistics(n, 2),
                self.statistics(n, 2), 2, 1e-5]  # fmt: skip

    def group_norm_backward(self):
        n, c, h = self.sizes(3)
        return [self.x(n, 2 * c, h), self.x(n, 2 * c, h), self.x(2 * c), self.wide_x(n, 2), self.wide_unit(n, 2),
                Out(n, 2 * c, h), Out(2 * c), Out(2 * c), 2]  # fmt: skip

    def batch_norm_forward(self):
        n, c, h = self.sizes(3)
        training = bool(self.size(0, 2))
        return [self.x(n, c, h), self.x(c), self.x(c), Out(c, values=self.x(c)), Out(c, values=self.unit(c)),
                Out(n, c, h), self.statistics(c), self.statistics(c), training, 0.1, 1e-5]  # fmt: skip

    def batch_norm_backward(self):
        n, c, h = self.sizes(3)
        return [self.x(n, c, h), self.x(n, c, h), self.x(c), self.wide_x(c), self.wide_unit(c), Out(n, c, h), Out(c),
                Out(c), bool(self.size(0, 2))]  # fmt: skip

    # pool
    def max_pool_forward(self):
        n, c, h, w = self.size(0, 4), *self.sizes(3)
        shape = (n, c, h, w)
        indices = Out(*shape, dtype=self.rng.choice([np.int32, np.int64])) if self.size(0, 2) else None
        return [self.x(n, c, 2 * h, 2 * w), Out(*shape), indices, pool_options()]

    def max_pool_backward(self):
        n, c, h, w = self.sizes(4)
        return [self.x(n, c, h, w), self.labels(4 * h * w, n, c, h, w), Out(n, c, 2 * h, 2 * w),
                pool_options()]  # fmt: skip

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

    def arithmetic(self):
        shape = self.sizes(3)
        other = self.x(*shape) if self.rng.random() < 0.7 else None
        return [self.x(*shape), other, 1.5, Out(*shape), self.size(0, 4)]

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
        return [[self.x(*self.sizes(2)), self.x(self.size())], 2.0, Out(dtype=np.float64)]

    def scale(self):
        shape = self.sizes(2)
        return [[Out(*shape, values=self.x(*shape)), Out(3, values=self.x(3))], 0.5]

    def clip_norm(self):
        tensors, _ = self.scale()
        return [tensors, 0.5, np.array(self.rng.uniform(0.1, 3))]
