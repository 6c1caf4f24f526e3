"""Matrix products: DeepBench's, squares, small and skinny ones, batches; linear layers stand in linear.py."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from .. import ops
from . import linear
from .peers import Peers, jitted, onnx_call
from .rows import Contest, Row, itemsize, random, sample
from .workloads import deepbench

FAMILY = "matmul"
DIRECTIONS = ("forward", "backward")
_LARGEST = 20e9  # floating-point operations of the DeepBench rows among the targets
_LARGEST_OPERAND = 256 << 20  # bytes in float32: leaves DeepBench's 500,000-long sums out of them
SQUARES = (256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)
SMALL = (16, 24, 32, 48, 64, 96, 128, 192)

# batch, m, n, k, which operand is stored transposed
Shape = tuple[int, int, int, int, str]

# max |error| / (|A| |B|): some ten times what a good float32 sum has at K = 1024; for bfloat16 the last rounding
_LIMITS = {"float32": 2e-6, "float64": 4e-15, "bfloat16": 2**-8}


def _deepbench() -> list[Shape]:
    """All of DeepBench. Its rows are in BLAS's column-major order: its (m, n, k, "TN") is here the product
    out (n, m) = x (n, k) @ w.T with w (m, k), a linear layer on a batch of n."""
    rows = [row for key in ("gemm", "gemm_inference") for row in deepbench(key)]
    return list(dict.fromkeys((1, n, m, k, layout[::-1]) for m, n, k, layout in rows))


def _narrow(shape: Shape) -> bool:
    """Few rows or columns: bound by memory."""
    return min(shape[1:3]) < 64


def _affordable() -> list[Shape]:
    return [
        (batch, m, n, k, layout)
        for batch, m, n, k, layout in _deepbench()
        if 2.0 * m * n * k <= _LARGEST and 4 * k * max(m, n) <= _LARGEST_OPERAND
    ]


def _large() -> list[Shape]:
    return [shape for shape in _affordable() if not _narrow(shape)]


def _squares(sizes: Sequence[int] = SQUARES) -> list[Shape]:
    return [(1, n, n, n, "NN") for n in sizes]


def _skinny() -> list[Shape]:
    return [shape for shape in _affordable() if min(shape[1:3]) <= 32]


def _batched() -> list[Shape]:
    return [(64, 128, 128, 64, "NN"), (64, 128, 64, 128, "NN"), (512, 32, 32, 32, "NN")]


SUITES: dict[str, list[tuple[str, list[Shape]]]] = {
    "quick": [
        ("gemm", [*_squares((256, 1024)), (1, 128, 1760, 1760, "NT")]),
        ("gemm small", [*_squares((32, 128)), (1, 4, 3072, 1024, "NN"), _batched()[0]]),
    ],
    "deepbench": [
        ("gemm", [shape for shape in _deepbench() if not _narrow(shape)]),
        ("gemm small", [shape for shape in _deepbench() if _narrow(shape)]),
    ],
    "transformer": [],
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
    """The rows of a suite, those of linear layers included."""
    found = [_row(group, shape, dtype) for group, shapes in SUITES[suite] for shape in shapes]
    return found + linear.rows(suite, dtype)


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

    @cache
    def expected() -> list[tuple]:
        """(batch, the products, |A||B|) of the elements that are looked at"""
        found: list[tuple] = []
        for index in [()] if which is None else [(w,) for w in which]:
            x, y = a[index][i].astype(np.float64), b[index][:, j].astype(np.float64)
            found.append((index, x @ y, np.abs(x) @ np.abs(y)))
        return found

    def error(outputs: Sequence[Any]) -> float:
        result = 0.0
        for index, product, scale in expected():
            actual = np.asarray(outputs[0][index])[np.ix_(i, j)].astype(np.float64)
            difference = float((np.abs(actual - product) / scale).max())
            result = max(result, difference if difference == difference else float("inf"))
        return result

    mine = peers.put(a, b, out)
    contest = Contest(peers, lambda: (ops.matmul(mine[0], mine[1], out=mine[2]),), error, _LIMITS[dtype])

    def torch_calls(torch: Any) -> dict[str, Any]:
        ta, tb, tout = (peers.tensor(x) for x in (stored_a, stored_b, np.empty_like(out)))
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

    def cupy_calls(cupy: Any) -> dict[str, Any]:
        xa, xb, result = peers.put(a, b, out)
        return {"": lambda: (cupy.matmul(xa, xb, out=result),)}

    def jax_calls(jax: Any) -> dict[str, Any]:
        def product(x: Any, y: Any) -> tuple:
            x, y = (v.swapaxes(-1, -2) if c == "T" else v for v, c in zip((x, y), layout))
            return (x @ y,)

        return {"": jitted(jax, product, stored_a, stored_b)}

    def onnx_calls(onnxruntime: Any) -> dict[str, Any]:
        if dtype == "bfloat16":
            raise TypeError("has no bfloat16 product on CPUs")
        if batch > 1:
            return {"": onnx_call(onnxruntime, peers, "MatMul", [a, b])}
        flags: dict[str, Any] = {"transA": int(layout[0] == "T"), "transB": int(layout[1] == "T")}
        return {"": onnx_call(onnxruntime, peers, "Gemm", [stored_a, stored_b], **flags)}

    contest.add("torch", torch_calls)
    contest.add("numpy", numpy_calls)
    contest.add("cupy", cupy_calls)
    contest.add("jax", jax_calls)
    contest.add("onnxruntime", onnx_calls)
    return contest
