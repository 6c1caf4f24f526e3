"""References of padding, resampling, patches and distances: one output element at a time, in float64."""

import itertools
import math

import numpy as np


def pad(x, widths, mode="constant", value=0.0):
    """np.pad says what every mode means; torch counts dimensions from the last, and cuts off negative widths."""
    pairs = [(0, 0)] * (x.ndim - len(widths) // 2) + [
        (widths[i], widths[i + 1]) for i in reversed(range(0, len(widths), 2))
    ]
    cut = tuple(slice(max(-lo, 0), n - max(-hi, 0)) for n, (lo, hi) in zip(x.shape, pairs, strict=True))
    pairs = [(max(lo, 0), max(hi, 0)) for lo, hi in pairs]
    name = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode]
    return np.pad(x[cut], pairs, name, **({"constant_values": value} if mode == "constant" else {}))


def _weights_nearest(i, n, step, exact):
    return {min(math.floor((i + 0.5) * step) if exact else math.floor(i * step), n - 1): 1.0}


def _weights_linear(source, n):
    source = max(source, 0.0)
    low = min(int(source), n - 1)
    part = min(source - low, 1.0)
    weights = {low: 1 - part}
    weights[min(low + 1, n - 1)] = weights.get(min(low + 1, n - 1), 0.0) + part
    return weights


def _weights_cubic(source, n, a=-0.75):
    """Keys 1981: the cubic convolution kernel at the distance of each of four neighbours."""

    def kernel(d):
        d = abs(d)
        if d <= 1:
            return (a + 2) * d**3 - (a + 3) * d**2 + 1
        return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a

    low = math.floor(source)
    weights = {}
    for k in range(low - 1, low + 3):
        j = min(max(k, 0), n - 1)
        weights[j] = weights.get(j, 0.0) + kernel(source - k)
    return weights


def _weights_area(i, n, out):
    window = range(i * n // out, -(-(i + 1) * n // out))
    return {j: 1 / len(window) for j in window}


def matrix(n, out, mode, align_corners=False, step=None):
    """The (out, n) matrix that resamples one axis."""
    m = np.zeros((out, n))
    if align_corners:
        step = (n - 1) / (out - 1) if out > 1 else 0.0
    elif step is None:
        step = n / out
    for i in range(out):
        source = i * step if align_corners else (i + 0.5) * step - 0.5
        weights = {
            "nearest": lambda i=i: _weights_nearest(i, n, step, False),
            "nearest-exact": lambda i=i: _weights_nearest(i, n, step, True),
            "linear": lambda s=source: _weights_linear(s, n),
            "cubic": lambda s=source: _weights_cubic(s, n),
            "area": lambda i=i: _weights_area(i, n, out),
        }[mode]()
        for j, w in weights.items():
            m[i, j] = w
    return m


def interpolate(x, sizes, mode, align_corners=False, steps=None):
    """Every spatial axis resampled by its matrix."""
    kind = {"bilinear": "linear", "trilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    for k, out in enumerate(sizes):
        m = matrix(x.shape[k + 2], out, kind, align_corners, None if steps is None else steps[k])
        x = np.moveaxis(np.tensordot(x, m, (k + 2, 1)), -1, k + 2)
    return x


def unfold(x, kernel, dilation=1, padding=0, stride=1):
    """(N, C, H, W) -> (N, C k k, L), one position after the other."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    span = dilation * (kernel - 1) + 1
    columns = []
    for i in range(0, x.shape[2] - span + 1, stride):
        for j in range(0, x.shape[3] - span + 1, stride):
            patch = x[:, :, i : i + span : dilation, j : j + span : dilation]
            columns.append(patch.reshape(len(x), -1))
    return np.stack(columns, -1)


def pixel_shuffle(x, r):
    """(N, C r r, H, W) -> (N, C, H r, W r)."""
    n, c, h, w = x.shape
    y = np.zeros((n, c // r**2, h * r, w * r))
    for k, i, j in itertools.product(range(c), range(h), range(w)):
        y[:, k // r**2, i * r + k % r**2 // r, j * r + k % r] = x[:, k, i, j]
    return y


def normalize(x, p, axis, eps=1e-12):
    """x / max(norm, eps)."""
    return x / np.maximum(np.linalg.norm(x, p, axis, keepdims=True), eps)


def cosine_similarity(a, b, axis, eps=1e-8):
    """a . b / (|a| |b|)."""
    norms = np.maximum(np.linalg.norm(a, axis=axis), eps) * np.maximum(np.linalg.norm(b, axis=axis), eps)
    return (a * b).sum(axis) / norms


def local_response_norm(x, size, alpha, beta, k):
    """Krizhevsky et al. 2012, section 3.3, one channel at a time; the window has size // 2 channels before."""
    y = np.zeros_like(x)
    for c in range(x.shape[1]):
        window = x[:, max(c - size // 2, 0) : c + (size - 1) // 2 + 1]
        y[:, c] = x[:, c] / (k + alpha / size * (window**2).sum(1)) ** beta
    return y


def bilinear(x1, x2, weight, bias):
    """x1^T W_o x2 + b_o."""
    return np.stack([((x1 @ w) * x2).sum(-1) for w in weight], -1) + bias
