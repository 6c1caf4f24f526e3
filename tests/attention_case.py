"""A problem of attention for the tests of its CUDA kernels: its operands, both passes over them, and what they have to
give."""

import devices
import ml_dtypes
import numpy as np
from references import attention as ref
from references.dropout import dropout_mask
from tolerance import assert_same_bits

sim = devices.cuda_kernels()

BF16, F16 = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16)
#: Of results of order 1: the roundings of weights, of gradients of scores, and of results.
ROUNDOFF = {BF16: 2.0**-8, F16: 2.0**-11, np.dtype("f4"): 2.0**-24, np.dtype("f8"): 2.0**-53}


class Case:
    """Operands (batch, heads, groups, queries, keys, E, Ev), and both passes over them."""

    def __init__(self, rng, shape, dtype="f4", mask=None, causal=False, dropout=0.0, scale=None):
        b, h, g, n, s, e, ev = shape
        make = rng.standard_normal
        shapes = ((b, h, n, e), (b, g, s, e), (b, g, s, ev), (b, h, n, ev))
        self.dtype = np.dtype(dtype)
        self.q, self.k, self.v, self.grad = (make(x).astype(dtype) for x in shapes)
        self.mask = None
        if mask == "bool":
            self.mask = np.broadcast_to(rng.random((n, s)) < 0.7, (b, h, n, s))
        elif mask == "float":
            self.mask = np.broadcast_to(make((b, 1, n, s)).astype(dtype), (b, h, n, s))
        self.options = (scale, causal, dropout, 7, 11)
        self.wide = "f4" if self.dtype.itemsize == 2 else self.dtype

    def forward(self):
        shape = (*self.q.shape[:3], self.v.shape[3])
        self.out = np.full(shape, np.nan, self.dtype)
        self.lse = np.full(shape[:3], np.nan, self.wide)
        sim.attention_forward(self.q, self.k, self.v, self.mask, self.out, self.lse, *self.options)
        return self.out

    def backward(self):
        self.grads = [np.full(x.shape, np.nan, x.dtype) for x in (self.q, self.k, self.v)]
        additive = self.mask is not None and self.mask.dtype != bool
        grad_mask = np.full(self.mask.shape, np.nan, self.dtype) if additive else None
        sim.attention_backward(
            *(self.grad, self.q, self.k, self.v, self.mask, self.out, self.lse),
            *(*self.grads, grad_mask, *self.options),
        )
        if additive:
            self.grads.append(grad_mask)
        return self.grads

    def expected(self):
        scale, causal, p, seed, offset = self.options
        q, k, v, grad = (x.astype("f8") for x in (self.q, self.k, self.v, self.grad))
        mask = self.mask if self.mask is None or self.mask.dtype == bool else self.mask.astype("f8")
        d = dropout_mask((*q.shape[:3], k.shape[2]), p, seed, offset) if p else None
        rest = (mask, d, causal, scale, True)
        out = ref.scaled_dot_product_attention(q, k, v, *rest)
        return out, ref.scaled_dot_product_attention_backward(grad, q, k, v, *rest)

    def check(self, factor=8.0):
        out, grads = self.expected()
        results = [self.forward(), *self.backward()]
        for got, want in zip(results, [out, *(g for g in grads if g is not None)]):
            # Sums of gradients go over many terms, whose errors mostly cancel.
            terms = np.sqrt(max(self.q.shape[2] * self.q.shape[1] / self.k.shape[1], self.k.shape[2]))
            unit = ROUNDOFF[self.dtype] * (1 if self.dtype.itemsize == 2 else terms)
            allowed = factor * unit * max(1.0, np.abs(want).max(initial=0))
            np.testing.assert_allclose(got.astype("f8"), want, rtol=0, atol=allowed)

    def check_forward(self):
        """And the log-sum-exp."""
        want = self.expected()[0]
        allowed = 4 * ROUNDOFF[self.dtype] * max(1.0, np.abs(want).max(initial=0))
        np.testing.assert_allclose(self.forward().astype("f8"), want, rtol=0, atol=allowed)
        scale, causal, *_ = self.options
        q, k = self.q.astype("f8"), self.k.astype("f8")
        lse = ref.logsumexp_of_scores(q, k, self.mask, causal, scale, True)
        np.testing.assert_allclose(self.lse, lse, rtol=1e-6, atol=1e-5)

    def check_layout(self, order, padding):
        """Operands and results laid out in another order give the same bits."""
        expected = self.forward().copy()
        q, k, v = (laid_out(x, order, padding) for x in (self.q, self.k, self.v))
        out = laid_out(np.full_like(self.out, np.nan), order, padding)
        sim.attention_forward(q, k, v, None, out, None, *self.options)
        assert_same_bits(np.ascontiguousarray(out), expected)


def laid_out(x, order, padding=0):
    """x with its dims in another order in memory, rows further apart."""
    whole = np.zeros([x.shape[i] for i in order[:-1]] + [x.shape[order[-1]] + padding], x.dtype)
    whole[..., : x.shape[order[-1]]] = x.transpose(order)
    return whole[..., : x.shape[order[-1]]].transpose(np.argsort(order))


def tiles_masked_whole(rng, b, h, n, s, kind):
    """Masks that leave some tiles of the kernels nothing, others little, and some queries nothing at all."""
    if kind == "lengths":  # of keys, the same for all queries and heads
        mask = np.arange(s) < np.array([s // 3, 1, 0, s])[np.arange(b) % 4, None]
        return np.broadcast_to(mask[:, None, None], (b, h, n, s))
    mask = rng.random((b, h, n, s)) < 0.02
    near = np.abs(np.arange(n)[:, None] * s // n - np.arange(s)) < s // 8  # a band along the diagonal
    mask = np.where(near, mask, False)
    mask[:, :, n // 2 : n // 2 + 3] = False
    return mask if kind == "heads" else np.broadcast_to(mask[:1, :1], (b, h, n, s))
