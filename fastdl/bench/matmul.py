"""Matrix products: DeepBench's, squares, small and skinny ones, batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import ops
from .peers import Peers, jitted, onnx_call, to_torch
from .rows import Contest, Row, itemsize, random, sample
from .workloads import deepbench

FAMILY = "matmul"
DIRECTIONS = ("forward",)
_LARGEST = 20e9  # floating-point operations of the DeepBench rows that are run
_LARGEST_OPERAND = 256 << 20  # bytes in float32: leaves DeepBench's 500,000-long sums out
SQUARES = (256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)
SMALL = (16, 24, 32, 48, 64, 96, 128, 192)

# batch, m, n, k, which operand is stored transposed
Shape = tuple[int, int, int, int, str]

# max |error| / (|A| |B|): some ten times what a good float32 sum has at K = 1024; for bfloat16 the last rounding
_LIMITS = {"float32": 2e-6, "float64": 4e-15, "bfloat16": 2**-8}


def _deepbench(keep: Any) -> list[Shape]:
    """DeepBench's rows are in BLAS's column-major order: its (m, n, k, "TN") is here the product
    out (n, m) = x (n, k) @ w.T with w (m, k), a linear layer on a batch of n."""
    shapes = []
    for key in ("gemm", "gemm_inference"):
        for m, n, k, layout in deepbench(key):
            small = 2.0 * m * n * k <= _LARGEST and 4 * k * max(m, n) <= _LARGEST_OPERAND
            if small and keep(m, n):
                shapes.append((1, n, m, k, layout[::-1]))
    return list(dict.fromkeys(shapes))


def _large() -> list[Shape]:
    return _deepbench(lambda m, n: m >= 64 and n >= 64)


def _squares(sizes: Sequence[int] = SQUARES) -> list[Shape]:
    return [(1, n, n, n, "NN") for n in sizes]


def _skinny() -> list[Shape]:
    return _deepbench(lambda m, n: m <= 32 or n <= 32)


def _batched() -> list[Shape]:
    return [(64, 128, 128, 64, "NN"), (64, 128, 64, 128, "NN"), (512, 32, 32, 32, "NN")]


SUITES: dict[str, list[tuple[str, list[Shape]]]] = {
    "quick": [
        ("gemm", [*_squares((256, 1024)), (1, 128, 1760, 1760, "NT")]),
        ("gemm small", [*_squares((32, 128)), (1, 4, 3072, 1024, "NN"), _batched()[0]]),
    ],
    "deepbench": [("gemm", _large())],
    "squares": [("gemm", _squares())],
    "small": [("gemm small", [*_squares(SMALL), *_batched(), *_skinny()])],
    "sweep": [("sweep", _squares(range(1000, 1101)))],
    "scaling": [("gemm", _squares((512, 1024, 2048)))],
    "targets": [
        ("gemm", [*_large(), *_squares()]),
        ("gemm small", [*_squares(SMALL), *_batched(), *_skinny()]),
    ],
}


def rows(suite: str, dtype: str) -> list[Row]:
    """The rows of a suite."""
    return [_row(group, shape, dtype) for group, shapes in SUITES[suite] for shape in shapes]


def _row(group: str, shape: Shape, dtype: str) -> Row:
    batch, m, n, k, layout = shape
    name = f"{f'{batch}x' if batch > 1 else ''}{m}x{n}x{k} {layout}"
    moved = batch * (m * k + k * n + m * n) * itemsize(dtype)
    return Row(
        group, "matmul", name, dtype, "forward", 2.0 * batch * m * n * k, moved,
        lambda peers: _contest(shape, dtype, peers),
    )  # fmt: skip


def _contest(shape: Shape, dtype: str, peers: Peers) -> Contest:
    batch, m, n, k, layout = shape
    rng = np.random.default_rng(0)
    lead = (batch,) if batch > 1 else ()

    def operand(rows: int, columns: int, transposed: bool) -> tuple[np.ndarray, np.ndarray]:
        stored = random(rng, (*lead, columns, rows) if transposed else (*lead, rows, columns), dtype)
        return stored, stored.swapaxes(-1, -2) if transposed else stored

    (stored_a, a), (stored_b, b) = operand(m, k, layout[0] == "T"), operand(k, n, layout[1] == "T")
    out = np.empty((*lead, m, n), a.dtype)
    i, j = sample(rng, m, 48), sample(rng, n, 48)
    which = sample(rng, batch, 2) if batch > 1 else None

    def error(outputs: Sequence[Any]) -> float:
        result = 0.0
        for index in [()] if which is None else [(w,) for w in which]:
            x, y = a[index][i].astype(np.float64), b[index][:, j].astype(np.float64)
            difference = np.abs(np.asarray(outputs[0][index])[np.ix_(i, j)].astype(np.float64) - x @ y)
            result = max(result, float((difference / (np.abs(x) @ np.abs(y))).max()))
        return result if result == result else float("inf")

    contest = Contest(peers, lambda: (ops.matmul(a, b, out=out),), error, _LIMITS[dtype])

    def torch_calls(torch: Any) -> dict[str, Any]:
        ta, tb, tout = (to_torch(torch, x) for x in (stored_a, stored_b, np.empty_like(out)))
        ta, tb = (t.transpose(-1, -2) if c == "T" else t for t, c in zip((ta, tb), layout))
        product = torch.matmul
        return {
            "": lambda: (product(ta, tb),),
            "out=": lambda: (product(ta, tb, out=tout),),
        }

    def numpy_calls(numpy: Any) -> dict[str, Any]:
        if dtype == "bfloat16":
            raise TypeError("has no bfloat16 product")
        result = np.empty_like(out)
        return {"": lambda: (numpy.matmul(a, b, out=result),)}

    def jax_calls(jax: Any) -> dict[str, Any]:
        def product(x: Any, y: Any) -> tuple:
            x, y = (v.swapaxes(-1, -2) if c == "T" else v for v, c in zip((x, y), layout))
            return (x @ y,)

        return {"": jitted(jax, product, stored_a, stored_b)}

    def onnx_calls(onnxruntime: Any) -> dict[str, Any]:
        if dtype == "bfloat16":
            raise TypeError("has no bfloat16 product on CPUs")
        if batch > 1:
            return {"": onnx_call(onnxruntime, peers.threads, "MatMul", [a, b])}
        flags: dict[str, Any] = {"transA": int(layout[0] == "T"), "transB": int(layout[1] == "T")}
        return {"": onnx_call(onnxruntime, peers.threads, "Gemm", [stored_a, stored_b], **flags)}

    contest.add("torch", torch_calls)
    contest.add("numpy", numpy_calls)
    contest.add("jax", jax_calls)
    contest.add("onnxruntime", onnx_calls)
    return contest
