"""Matrix products: squares, and rows of DeepBench, those of few rows or columns among them, against cuBLAS."""

from __future__ import annotations

from typing import Any

import numpy as np
from rows import Row, forced, itemsize, no_tf32, random

from fastdl import ops
from fastdl.bench.workloads import deepbench

_EVERY = 12  # of DeepBench's rows that take long
_FEW, _LONG = 128, 100_000  # those of so few rows or columns take microseconds, unless they are so long


def rows(small: bool) -> list[Row]:
    """All of them; on the host executor a few small ones."""
    squares = (24,) if small else (1024, 2048, 4096, 8192)
    found = [
        _row(f"{n}^3", n, n, n, "NN", d, 0.6 if n >= 4096 else None)
        for d in ("bfloat16", "float16")
        for n in squares
    ]
    for precision in ("highest", "high"):
        for n in squares[:3]:
            target = 1.3 if precision == "highest" and n >= 2048 else None
            found.append(_row(f"{n}^3", n, n, n, "NN", "float32", target, precision))
    # The kernel that other GPUs get, beside Hopper's own.
    found += [
        _row(f"{n}^3 portable", n, n, n, "NN", d, None, kernel="portable")
        for d in ("bfloat16", "float32")
        for n in squares[2:3] or squares
    ]
    if small:
        found += [
            _row(f"{m}x{n}x300", m, n, 300, "NN", d, None, kernel="sm90_few")
            for m, n in ((24, 5), (5, 24))
            for d in ("bfloat16", "float32")
        ]
        return found
    shapes = deepbench("gemm")
    sample = shapes[::_EVERY]
    few = [s for s in shapes if min(s[:2]) <= _FEW and s[2] < _LONG and s not in sample]
    few += [s for s in shapes if s[2] >= _LONG and s not in sample][-1:]
    for dtype, chosen in (("bfloat16", sample + few), ("float32", sample + few[::5])):
        found += [_row(f"{m}x{n}x{k} {layout}", m, n, k, layout, dtype, None) for m, n, k, layout in chosen]
    return found


def _row(
    shape: str,
    m: int,
    n: int,
    k: int,
    layout: str,
    dtype: str,
    target: float | None,
    precision: str = "",
    kernel: str = "",
) -> Row:
    if dtype == "float32" and not precision:
        precision = "highest"

    def inputs(rng: np.random.Generator) -> list[np.ndarray]:
        stored = [(m, k) if layout[0] == "N" else (k, m), (k, n) if layout[1] == "N" else (n, k)]
        return [random(rng, s, dtype) for s in stored]

    def turned(a: Any, b: Any) -> tuple[Any, Any]:
        return a if layout[0] == "N" else a.T, b if layout[1] == "N" else b.T

    def ours(a: Any, b: Any) -> Any:
        a, b = turned(a, b)
        out = ops.matmul(a, b)
        return forced("MATMUL", kernel, lambda: ops.matmul(a, b, out=out))

    def torch(module: Any, a: Any, b: Any) -> dict[str, Any]:
        no_tf32(module)
        a, b = turned(a, b)
        out = module.matmul(a, b)
        return {"": lambda: module.matmul(a, b, out=out)}

    def cupy(module: Any, a: Any, b: Any) -> dict[str, Any]:
        if dtype == "bfloat16":
            raise TypeError("bfloat16 products are not compared")
        a, b = turned(a, b)
        out = module.matmul(a, b)
        return {"": lambda: module.matmul(a, b, out=out)}

    size = itemsize(dtype)
    limit = {"float32": 1e-5 if precision == "highest" else 1e-3}.get(dtype, 2e-2)
    return Row("matmul", shape, dtype, "forward", 2.0 * m * n * k, float(size * (m * k + k * n + m * n)),
               ("matmul",), inputs, ours, torch, cupy, precision, limit, target)  # fmt: skip
