"""Scaled dot-product attention: forward, and forward with backward."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from .. import ops
from . import formulas
from .peers import Peers, jitted, onnx_call
from .rows import Contest, Row, itemsize, random, sample, worst
from .workloads import deepbench

FAMILY = "attention"
DIRECTIONS = ("forward", "both")
# Heads do the same work each, so that the longest rows are cut to so many operations, if need be to one head
_WORK = 20e9
_SCORES = 1e9  # bytes: jax holds them all

# batch, heads, heads of key and value, queries, keys, features, causal, and the heads before they were cut
Shape = tuple[int, int, int, int, int, int, int, int]
_LIMITS = {"float32": 2e-5, "float64": 1e-12, "bfloat16": 2**-6}


def _pairs(queries: int, keys: int, causal: int) -> float:
    """How many of the scores count."""
    return queries * (queries + 1) / 2 if causal else float(queries * keys)


def _whole(row: Sequence[int]) -> Shape:
    batch, heads, kv, queries, keys, features, causal = row
    return (batch, heads, kv, queries, keys, features, causal, heads)


def _cut(row: Sequence[int]) -> Shape:
    batch, heads, kv, queries, keys, features, causal = row
    group = heads // kv
    each = 4.0 * batch * _pairs(queries, keys, causal) * features
    left = min(heads, max(group, int(_WORK / each) // group * group))
    return (batch, left, left // group, queries, keys, features, causal, heads)


#: BERT-base on eight texts of 128 tokens, GPT-2 small on one of 1,024 and generating eight texts at once, and a layer
#: of 32 heads in groups of four (Llama 3 8B: 32 and 8 heads of 128).
_TRANSFORMER = (
    (8, 12, 12, 128, 128, 64, 0),
    (1, 12, 12, 1024, 1024, 64, 1),
    (8, 12, 12, 1, 1024, 64, 0),
    (1, 32, 8, 1024, 1024, 128, 1),
)


def _file() -> list[Shape]:
    return [_cut(row) for row in deepbench("attention")]


SUITES: dict[str, list[tuple[str, list[Shape]]]] = {
    "quick": [("attention", [_cut((8, 12, 12, 128, 128, 64, 0)), _cut((4, 12, 12, 512, 512, 64, 1)),
                             _cut((4, 12, 12, 1, 2048, 64, 0))])],
    "deepbench": [("attention", [_whole(row) for row in deepbench("attention")])],
    "transformer": [("attention", [_whole(row) for row in _TRANSFORMER])],
    "scaling": [("attention", [_cut((1, 16, 16, 2048, 2048, 64, 1))])],
    "targets": [("attention", _file())],
}  # fmt: skip


def rows(suite: str, dtype: str) -> list[Row]:
    """The rows of a suite."""
    return [
        _row(group, shape, dtype, direction)
        for group, shapes in SUITES[suite]
        for direction in DIRECTIONS
        for shape in shapes
    ]


def _row(group: str, shape: Shape, dtype: str, direction: str) -> Row:
    batch, heads, kv, queries, keys, features, causal, whole = shape
    operations = 4.0 * batch * heads * _pairs(queries, keys, causal) * features
    q, k = batch * heads * queries * features, batch * kv * keys * features
    moved = 2 * q + 2 * k
    if direction == "both":
        operations *= 3.5  # five products for two, one of them the scores once more (Dao 2023, section 3.1)
        moved = 5 * q + 6 * k  # forward; grad, q, k, v read and three gradients written
    name = f"{batch}x{heads}{f'/{kv}' if kv != heads else ''}x{queries}x{keys} d{features}"
    return Row(
        group, "attention", name + (" causal" if causal else ""), dtype, direction, operations,
        float(moved * itemsize(dtype)),
        lambda peers: _contest(shape, dtype, direction == "both", peers),
        "" if heads == whole else f"of {whole} heads",
    )  # fmt: skip


class _Reference:
    """Attention in float64 of a few queries of one head, and the gradients that they alone cause."""

    def __init__(self, q: np.ndarray, k: np.ndarray, v: np.ndarray, causal: int, where: tuple, rows: Any):
        q, k, v = (a.astype(np.float64) for a in (q[where][rows], k, v))
        self.scale = q.shape[-1] ** -0.5
        self.q, self.k, self.v = q, k, v
        scores = q @ k.T * self.scale
        if causal:
            scores[np.arange(k.shape[0]) > np.asarray(rows)[:, None]] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        self.p = weights / weights.sum(-1, keepdims=True)
        self.out = self.p @ v

    def gradients(self, grad: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        g = grad.astype(np.float64)
        ds = self.p * (g @ self.v.T - (g * self.out).sum(-1, keepdims=True)) * self.scale
        return ds @ self.k, ds.T @ self.q, self.p.T @ g


def _contest(shape: Shape, dtype: str, both: bool, peers: Peers) -> Contest:
    batch, heads, kv, queries, keys, features, causal, _ = shape
    rng = np.random.default_rng(0)
    q = random(rng, (batch, heads, queries, features), dtype)
    k, v = (random(rng, (batch, kv, keys, features), dtype) for _ in range(2))
    grouped = heads != kv
    mask: dict[str, Any] = {"is_causal": bool(causal), "enable_gqa": grouped}
    attention, attention_backward = (
        ops.scaled_dot_product_attention,
        ops.scaled_dot_product_attention_backward,
    )
    mq, mk, mv = peers.put(q, k, v)
    places = list(dict.fromkeys([(0, 0), (batch - 1, heads - 1)]))
    # Gradients are checked on later queries: those that see a few keys have weights near 1, whose rounding would drown
    # the others' small gradients.
    first = queries // 2 if both else 0
    some = first + sample(rng, queries - first, 16)

    @cache
    def reference(place: tuple[int, int]) -> _Reference:
        i, head = place
        j = head // (heads // kv)
        return _Reference(q, k[i, j], v[i, j], causal, place, some)

    if not both:

        def error(outputs: Sequence[Any]) -> float:
            return worst([(outputs[0][place][some], reference(place).out) for place in places])

        contest = Contest(peers, lambda: attention(mq, mk, mv, **mask), error, _LIMITS[dtype])
    else:
        values = random(rng, q.shape, dtype)
        # For the check, a few queries alone have a gradient: the float64 reference then need not follow the others.
        grad = np.zeros_like(values)
        for place in places:
            grad[place][some] = values[place][some]

        def error(outputs: Sequence[Any]) -> float:
            dq, dk, dv = (np.asarray(a) for a in outputs[:3])
            pairs: list[tuple[Any, Any]] = []
            sums: dict[tuple[int, int], list[Any]] = {}
            for place in places:
                expected = reference(place).gradients(grad[place][some])
                pairs.append((dq[place][some], expected[0]))
                target = sums.setdefault((place[0], place[1] // (heads // kv)), [0.0, 0.0])
                target[0], target[1] = target[0] + expected[1], target[1] + expected[2]
            for where, (a, b) in sums.items():
                pairs += [(dk[where], a), (dv[where], b)]
            return worst(pairs)

        mg = peers.put(grad)

        def ours() -> tuple:
            out, lse = attention(mq, mk, mv, **mask)
            return attention_backward(mg, mq, mk, mv, None, out, lse, **mask)

        contest = Contest(peers, ours, error, 4 * _LIMITS[dtype])
        contest.fill(mg, values)

    def torch_calls(torch: Any) -> dict[str, Any]:
        tensors = [peers.tensor(a) for a in (q, k, v)]
        function = torch.nn.functional.scaled_dot_product_attention
        variants = {"": (tensors, mask)}
        if grouped and not both:  # keys and values repeated beforehand, as programs without grouped heads do
            repeated = [t.repeat_interleave(heads // kv, 1) for t in tensors[1:]]
            variants["repeated"] = ([tensors[0], *repeated], mask | {"enable_gqa": False})
        if not both:

            def forward(tensors: Any, options: Any) -> Any:
                return lambda: (function(*tensors, **options),)

            return {name: forward(*variant) for name, variant in variants.items()}
        tg = peers.tensor(grad)
        contest.fill(tg, values)
        for t in tensors:
            t.requires_grad_()

        def call() -> tuple:
            for t in tensors:
                t.grad = None
            function(*tensors, **mask).backward(tg)
            return tuple(t.grad for t in tensors)

        return {"": call}

    def jax_calls(jax: Any) -> dict[str, Any]:
        def function(a: Any, b: Any, c: Any) -> Any:
            return jax.nn.dot_product_attention(a, b, c, is_causal=bool(causal))

        tensors = [np.ascontiguousarray(a.swapaxes(1, 2)) for a in (q, k, v)]  # jax has heads after queries
        if not both:
            return {"": jitted(jax, lambda *t: (function(*t),), *tensors)}
        check, g = (np.array(a.swapaxes(1, 2), order="C") for a in (grad, values))
        call = jitted(jax, lambda g, *t: jax.vjp(function, *t)[1](g), check, *tensors)
        contest.replace(call, 0, g)
        return {"": call}

    def onnx_calls(onnxruntime: Any) -> dict[str, Any]:
        if dtype == "bfloat16":
            raise TypeError("has no bfloat16 attention on CPUs")
        flags: dict[str, Any] = {"is_causal": causal}
        return {"": onnx_call(onnxruntime, peers, "Attention", [q, k, v], opset=23, **flags)}

    contest.add("torch", torch_calls)
    contest.skip("numpy", "has no attention")
    if both:
        contest.skip("cupy", "has no gradients")
    else:
        contest.add("cupy", lambda cupy: {"": lambda: (formulas.attention(cupy, mq, mk, mv, bool(causal)),)})
    if batch * heads * _pairs(queries, keys, 0) * 4 > _SCORES:
        contest.skip("jax", "would hold all scores, more than 1 GB")
    else:
        contest.add("jax", jax_calls, lambda outputs: [a.swapaxes(1, 2) for a in outputs])
    if both:
        contest.skip("onnxruntime", "has no gradients")
    else:
        contest.add("onnxruntime", onnx_calls)
    return contest
