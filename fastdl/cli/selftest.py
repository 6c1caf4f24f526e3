"""``python -m fastdl --selftest``: every family of kernels against NumPy in float64, on every instruction set here."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

#: Largest error of a float32 result, relative to the largest value; sums here are at most some 300 terms long, whose
#: rounding adds up to less than 300 * 2^-24 = 1.8e-5.
FORWARD = 2e-5
#: Of a central difference in float64 with step h = 1e-6: rounding 2^-53 / h and curvature h^2 stay below.
BACKWARD = 1e-6


@dataclass(frozen=True)
class Case:
    """A function of Tensors, the same of float64 arrays, and the shapes of their arguments."""

    family: str
    shapes: tuple[tuple[int, ...], ...]
    ours: Callable[..., Any]
    reference: Callable[..., np.ndarray]
    has_gradient: bool = True


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _conv(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))[:, :, ::2, ::2]
    return np.einsum("nchwij,ocij->nohw", windows, w) + b[:, None, None]


def _lstm(x: np.ndarray, w: np.ndarray, r: np.ndarray, bw: np.ndarray, br: np.ndarray) -> np.ndarray:
    h = c = np.zeros((x.shape[1], r.shape[1]))
    steps = []
    for step in x:
        i, f, g, o = np.split(step @ w.T + bw + h @ r.T + br, 4, -1)
        c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        h = np.tanh(c) / (1 + np.exp(-o))
        steps.append(h)
    return np.stack(steps)


def _attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    return _softmax(np.where(np.tri(*scores.shape[-2:]) > 0, scores, -np.inf)) @ v


def _layer_norm(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * w + b


def _max_pool(x: np.ndarray) -> np.ndarray:
    return x.reshape(*x.shape[:2], x.shape[2] // 2, 2, x.shape[3] // 2, 2).max((3, 5))


def _dropout(x: np.ndarray) -> np.ndarray:
    """Philox4x32-10 (Salmon et al. 2011): element i has word i % 4 of counter i // 4; seed 7, p = 1/4."""
    mask32, count = np.uint64(0xFFFFFFFF), -(-x.size // 4)
    words = [np.arange(count, dtype=np.uint64), *(np.zeros(count, np.uint64) for _ in range(3))]
    keys = [7, 0]
    for _ in range(10):
        a, b = words[0] * np.uint64(0xD2511F53), words[2] * np.uint64(0xCD9E8D57)
        high_a, high_b = a >> np.uint64(32), b >> np.uint64(32)
        words = [
            high_b ^ words[1] ^ np.uint64(keys[0]),
            b & mask32,
            high_a ^ words[3] ^ np.uint64(keys[1]),
            a & mask32,
        ]
        keys = [(keys[0] + 0x9E3779B9) % 2**32, (keys[1] + 0xBB67AE85) % 2**32]
    kept = np.stack(words, 1).ravel()[: x.size] >= 2**30
    return x * kept.reshape(x.shape) / 0.75


def _adam(p: np.ndarray, g: np.ndarray) -> np.ndarray:
    """The first step: both averages are what they are averages of."""
    return p - 0.1 * g / (np.abs(g) + 1e-8)


def cases() -> list[Case]:
    """One for each family of kernels."""
    import fastdl
    import fastdl.nn.functional as F

    from .. import ops

    labels = np.arange(33) * 7 % 50

    def adam(p: Any, g: Any) -> Any:
        parameter = fastdl.nn.Parameter(p)
        parameter.grad = g
        fastdl.optim.Adam([parameter], lr=0.1).step()
        return parameter.detach()

    def lstm(x: Any, *params: Any) -> Any:
        zeros = fastdl.zeros(1, x.shape[1], params[1].shape[1], dtype=x.dtype)
        return fastdl.functional.rnn.lstm(x, (zeros, zeros), params)[0]

    return [
        Case("matmul", ((33, 129), (65, 129), (65,)), F.linear, lambda x, w, b: x @ w.T + b),
        Case(
            "conv",
            ((2, 5, 17, 19), (7, 5, 3, 3), (7,)),
            lambda x, w, b: F.conv2d(x, w, b, stride=2, padding=1),
            _conv,
        ),
        Case("rnn", ((5, 3, 11), (52, 11), (52, 13), (52,), (52,)), lstm, _lstm),
        Case(
            "attention",
            ((2, 3, 37, 24), (2, 3, 37, 24), (2, 3, 37, 16)),
            lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
            _attention,
        ),
        Case("softmax", ((21, 131),), lambda x: F.softmax(x, -1), _softmax),
        Case("norm", ((21, 131), (131,), (131,)), lambda x, w, b: F.layer_norm(x, (131,), w, b), _layer_norm),
        Case("pool", ((2, 5, 14, 18),), lambda x: F.max_pool2d(x, 2), _max_pool),
        Case("activation", ((7, 131),), F.silu, lambda x: x / (1 + np.exp(-x))),
        Case("arithmetic", ((7, 131), (7, 131)), lambda a, b: a * b - a, lambda a, b: a * b - a),
        Case(
            "loss",
            ((33, 50),),
            lambda x: F.cross_entropy(x, fastdl.tensor(labels), reduction="none"),
            lambda x: -np.log(_softmax(x)[np.arange(33), labels]),
        ),
        Case(
            "embedding",
            ((50, 23),),
            lambda w: F.embedding(fastdl.tensor(labels), w),
            lambda w: w[labels],
        ),
        Case(
            "dropout", ((7, 131),), lambda x: fastdl.tensor(ops.dropout(x.numpy(), 0.25, 7)), _dropout, False
        ),
        Case("optim", ((7, 131), (7, 131)), adam, _adam, False),
    ]


def error_forward(case: Case, rng: np.random.Generator) -> float:
    """Of float32 results, relative to the largest."""
    import fastdl

    arrays = [rng.standard_normal(shape, dtype=np.float32) for shape in case.shapes]
    expected = case.reference(*(a.astype(np.float64) for a in arrays))
    got = case.ours(*map(fastdl.tensor, arrays)).numpy()
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def error_backward(case: Case, rng: np.random.Generator) -> float:
    """Of the float64 gradients along a random direction, against a central difference."""
    import fastdl

    arrays = [rng.standard_normal(shape) for shape in case.shapes]
    steps = [rng.standard_normal(shape) for shape in case.shapes]
    grad = rng.standard_normal(case.reference(*arrays).shape)
    tensors = [fastdl.tensor(a, requires_grad=True) for a in arrays]
    (case.ours(*tensors) * fastdl.tensor(grad)).sum().backward()
    along = sum(float((t.grad.numpy() * d).sum()) for t, d in zip(tensors, steps))
    h = 1e-6
    ends = [
        float((case.reference(*(a + s * d for a, d in zip(arrays, steps))) * grad).sum()) for s in (h, -h)
    ]
    scale = np.sqrt(sum(float((t.grad.numpy() ** 2).sum()) for t in tensors))
    return abs(along - (ends[0] - ends[1]) / (2 * h)) / float(scale)


def run(_: Any = None) -> int:
    """Prints a line for each instruction set; returns 1 if anything is wrong."""
    from .. import backend

    core = backend.kernels(np.empty(0))
    before, begun, wrong = core.get_cpu_isa(), time.perf_counter(), 0
    try:
        for isa in core.available_isas():
            core.set_cpu_isa(isa)
            failures = []
            for seed, case in enumerate(cases()):
                rng = np.random.default_rng(seed)
                checks = [("forward", error_forward, FORWARD), ("backward", error_backward, BACKWARD)]
                for what, error, limit in checks[: 1 + case.has_gradient]:
                    found = error(case, rng)
                    if not found <= limit:
                        failures.append(
                            f"{case.family} {what} error {found:.1e}, at most {limit:.0e} is right"
                        )
            print(f"{isa:14}", "; ".join(failures) or f"{len(cases())} families agree with NumPy")
            wrong += len(failures)
    finally:
        core.set_cpu_isa(before)
    print(f"{'FAILED' if wrong else 'passed'} in {time.perf_counter() - begun:.1f} s")
    return 1 if wrong else 0
