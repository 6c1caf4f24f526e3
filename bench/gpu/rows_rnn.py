"""LSTM layers against cuDNN: 16 sequences of 1024 steps, and rows of DeepBench."""

from __future__ import annotations

from typing import Any

import numpy as np
from rows import Row, itemsize, no_tf32, random

from fastdl import ops


def rows(small: bool) -> list[Row]:
    """All of them; on the host executor a small one."""
    shapes = (
        [(4, 2, 3)]
        if small
        else [(h, 16, 1024) for h in (256, 768, 1536)]
        + [(512, 64, 25), (1024, 32, 25), (2048, 128, 25), (256, 16, 150)]
    )
    ways = ("forward", "both")
    return [_row(s, d, w) for s in shapes for d in ("bfloat16", "float32") for w in ways]


def _row(shape: tuple[int, int, int], dtype: str, direction: str) -> Row:
    hidden, batch, steps = shape
    both = direction == "both"

    def inputs(rng: np.random.Generator) -> list[np.ndarray]:
        scale = hidden**-0.5
        weights = [random(rng, (4 * hidden, hidden), dtype, scale) for _ in range(2)]
        biases = [random(rng, (4 * hidden,), dtype, scale) for _ in range(2)]
        sequences = [random(rng, (steps, batch, hidden), dtype) for _ in range(2 if both else 1)]
        return [*sequences[:1], *weights, *biases, *sequences[1:]]

    def ours(x: Any, w: Any, r: Any, b: Any, c: Any, grad: Any = None) -> Any:
        params = [w, r, b, c]
        if not both:
            return lambda: ops.lstm(x, params)[0]

        def call() -> tuple:
            y, _, _, reserve = ops.lstm(x, params, save=True)
            dx, _, _, dw = ops.lstm_backward(grad, None, None, x, params, None, None, y, reserve)
            return dx, *dw

        return call

    def torch(module: Any, x: Any, w: Any, r: Any, b: Any, c: Any, grad: Any = None) -> dict[str, Any]:
        no_tf32(module)
        layer = module.nn.LSTM(hidden, hidden, device=x.device, dtype=x.dtype)
        with module.no_grad():
            for parameter, value in zip(layer.parameters(), (w, r, b, c)):
                parameter.copy_(value)
        layer.flatten_parameters()
        if not both:
            layer.requires_grad_(False)
            return {"": lambda: layer(x)[0]}
        x = x.detach().requires_grad_()
        wanted = (x, *layer.parameters())
        return {"": lambda: module.autograd.grad(layer(x)[0], wanted, grad)}

    flops = 16.0 * hidden * hidden * batch * steps * (3 if both else 1)
    moved = itemsize(dtype) * (8 * hidden * hidden + (4 if both else 2) * steps * batch * hidden)
    kernels = ("rnn_forward", "rnn_backward") if both else ("rnn_forward",)
    name = f"lstm H{hidden} B{batch} T{steps}"
    return Row("rnn", name, dtype, direction, flops, float(moved), kernels, inputs, ours, torch,
               precision="highest" if dtype == "float32" else "",
               limit=1e-3 if dtype == "float32" else 5e-2, target=0.5)  # fmt: skip
