"""Linear layers, forward and their three gradients: the products of a Transformer, and one of DeepBench's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from .. import ops
from .peers import Peers, jitted, onnx_call
from .rows import Contest, Row, itemsize, random, sample, worst

# rows, inputs, outputs
Shape = tuple[int, int, int]
#: A batch of 1,024 tokens through the layers of BERT-base and GPT-2 small (Devlin et al. 2019, section 3; width 768):
#: queries, keys and values at once, the projection after attention, both layers of the MLP; and one token alone and a
#: batch of eight into GPT-2's vocabulary, as text is generated.
_TRANSFORMER = (
    (1024, 768, 2304),
    (1024, 768, 768),
    (1024, 768, 3072),
    (1024, 3072, 768),
    (1, 768, 3072),
    (8, 768, 50257),
)
SUITES: dict[str, tuple[Shape, ...]] = {"quick": ((128, 1760, 1760),), "transformer": _TRANSFORMER}
# Rounding of the result and sums of some thousand products, relative to the largest number of each result
_LIMITS = {"float32": 2e-5, "float64": 1e-13, "bfloat16": 2**-7}


def rows(suite: str, dtype: str) -> list[Row]:
    """The rows of a suite, none in those that have no linear layers."""
    return [_row(s, dtype, d) for d in ("forward", "backward") for s in SUITES.get(suite, ())]


def _row(shape: Shape, dtype: str, direction: str) -> Row:
    n, inputs, outputs = shape
    x, weight, y = n * inputs, inputs * outputs, n * outputs
    moved = x + weight + y if direction == "forward" else y + 2 * x + 2 * weight
    operations = 2.0 * n * weight * (1 if direction == "forward" else 2)
    group = "linear" if n >= 64 else "linear small"
    return Row(
        group, "linear", f"{n}x{inputs}-{outputs}", dtype, direction, operations, float(moved * itemsize(dtype)),
        lambda peers: (_forward if direction == "forward" else _backward)(shape, dtype, peers),
    )  # fmt: skip


def _operands(shape: Shape, dtype: str) -> tuple[np.random.Generator, np.ndarray, np.ndarray, np.ndarray]:
    n, inputs, outputs = shape
    rng = np.random.default_rng(0)
    weight = random(rng, (outputs, inputs), dtype, inputs**-0.5)
    return rng, random(rng, (n, inputs), dtype), weight, random(rng, (outputs,), dtype)


def _forward(shape: Shape, dtype: str, peers: Peers) -> Contest:
    rng, x, weight, bias = _operands(shape, dtype)
    i, j = sample(rng, shape[0], 48), sample(rng, shape[2], 48)

    @cache
    def expected() -> np.ndarray:
        return x[i].astype(np.float64) @ weight[j].astype(np.float64).T + bias[j].astype(np.float64)

    def error(outputs: Sequence[Any]) -> float:
        return worst([(np.asarray(outputs[0])[np.ix_(i, j)], expected())])

    mine = peers.put(x, weight, bias)
    contest = Contest(peers, lambda: (ops.linear(*mine),), error, _LIMITS[dtype])

    def torch_calls(torch: Any) -> dict[str, Any]:
        tensors, linear = [peers.tensor(a) for a in (x, weight, bias)], torch.nn.functional.linear
        return {"": lambda: (linear(*tensors),)}

    def onnx_calls(onnxruntime: Any) -> dict[str, Any]:
        if dtype == "bfloat16":
            raise TypeError("has no bfloat16 product on CPUs")
        return {"": onnx_call(onnxruntime, peers, "Gemm", [x, weight, bias], 2, transB=1)}

    contest.add("torch", torch_calls)
    contest.skip("numpy", "has no linear layers")
    contest.add("cupy", lambda cupy: {"": lambda: (mine[0] @ mine[1].T + mine[2],)})
    contest.add("jax", lambda jax: {"": jitted(jax, lambda a, w, b: (a @ w.T + b,), x, weight, bias)})
    contest.add("onnxruntime", onnx_calls)
    return contest


def _backward(shape: Shape, dtype: str, peers: Peers) -> Contest:
    rng, x, weight, _ = _operands(shape, dtype)
    n, inputs, outputs = shape
    grad = random(rng, (n, outputs), dtype)
    i, c, j = sample(rng, n, 48), sample(rng, inputs, 48), sample(rng, outputs, 48)

    @cache
    def expected() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        g = grad[:, j].astype(np.float64)
        dx = grad[i].astype(np.float64) @ weight[:, c].astype(np.float64)
        return dx, g.T @ x[:, c].astype(np.float64), g.sum(0)

    def error(results: Sequence[Any]) -> float:
        dx, dw, db = (np.asarray(a) for a in results)
        actual = (dx[np.ix_(i, c)], dw[np.ix_(j, c)], db[j])
        return worst(list(zip(actual, expected())))

    mg, mx, mw = peers.put(grad, x, weight)
    contest = Contest(
        peers, lambda: ops.linear_backward(mg, mx, mw, (True, True, True)), error, _LIMITS[dtype]
    )

    def torch_calls(torch: Any) -> dict[str, Any]:
        tg, tx, tw = (peers.tensor(a) for a in (grad, x, weight))
        return {"": lambda: (tg @ tw, tg.T @ tx, tg.sum(0))}

    contest.add("torch", torch_calls)
    contest.skip("numpy", "has no linear layers")
    contest.add("cupy", lambda cupy: {"": lambda: (mg @ mw, mg.T @ mx, mg.sum(0))})
    contest.add(
        "jax", lambda jax: {"": jitted(jax, lambda g, a, w: (g @ w, g.T @ a, g.sum(0)), grad, x, weight)}
    )
    contest.skip("onnxruntime", "has no gradients")
    return contest
