"""Ops that CuPy lacks, in a few of its calls, as its users write them. ``xp`` is the library."""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any


def softmax(xp: Any, x: Any) -> Any:
    """Along the last axis."""
    e = xp.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def softmax_backward(xp: Any, grad: Any, y: Any) -> Any:
    """From the output's gradient and the output."""
    return y * (grad - (grad * y).sum(-1, keepdims=True))


def normalized(xp: Any, x: Any, weight: Any, bias: Any, axes: Any = -1) -> Any:
    """Layer norm; batch norm with the axes of a channel and weights of a fitting shape."""
    centered = x - x.mean(axes, keepdims=True)
    return centered / xp.sqrt((centered * centered).mean(axes, keepdims=True) + 1e-5) * weight + bias


def gelu(xp: Any, x: Any) -> Any:
    """With CuPy's own erf."""
    erf = import_module(f"{xp.__name__}x.scipy.special").erf
    return 0.5 * x * (1 + erf(x * math.sqrt(0.5)))


def cross_entropy(xp: Any, x: Any, labels: Any) -> Any:
    """The mean over the rows."""
    shifted = x - x.max(-1, keepdims=True)
    picked = shifted[xp.arange(len(x)), labels]
    return (xp.log(xp.exp(shifted).sum(-1)) - picked).mean()


def attention(xp: Any, q: Any, k: Any, v: Any, causal: bool) -> Any:
    """The scores in memory, keys and values repeated for grouped heads."""
    if q.shape[1] != k.shape[1]:
        k, v = (xp.repeat(a, q.shape[1] // k.shape[1], 1) for a in (k, v))
    scores = xp.matmul(q, k.swapaxes(-1, -2)) * q.dtype.type(q.shape[-1] ** -0.5)
    if causal:
        later = xp.arange(k.shape[2]) > xp.arange(q.shape[2])[:, None]
        scores = xp.where(later, q.dtype.type(-xp.inf), scores)
    return xp.matmul(softmax(xp, scores), v)


def pool(xp: Any, x: Any, kind: str) -> Any:
    """Windows of 2 x 2 with stride 2 on (N, C, H, W)."""
    n, c, h, w = x.shape
    parts = x[:, :, : h // 2 * 2, : w // 2 * 2].reshape(n, c, h // 2, 2, w // 2, 2)
    return parts.max((3, 5)) if kind == "max_pool" else parts.mean((3, 5))


def adam(xp: Any, p: Any, grad: Any, state: dict[str, Any]) -> Any:
    """A step in place."""
    if not state:
        state |= {"m": xp.zeros_like(p), "v": xp.zeros_like(p), "t": 0}
    m, v, state["t"] = state["m"], state["v"], state["t"] + 1
    m *= 0.9
    m += 0.1 * grad
    v *= 0.999
    v += 0.001 * grad * grad
    rate = 1e-3 / (1 - 0.9 ** state["t"])
    p -= rate * m / (xp.sqrt(v / (1 - 0.999 ** state["t"])) + 1e-8)
    return p
