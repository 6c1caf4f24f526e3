"""Kernels bound by memory, held against the rate at which the GPU copies, and against PyTorch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from rows import Row, channels_last, itemsize, random

from fastdl import backend, ops

TARGET = 0.85  # of the copy rate


def rows(small: bool) -> list[Row]:
    """All of them; on the host executor the same, small."""
    n, c = (6, 33) if small else (16384, 4096)
    images = (2, 3, 6, 6) if small else (64, 128, 112, 112)
    return [
        row
        for dtype in ("float32", "bfloat16")
        for row in (*_flat(n, c, dtype), *_rows(n, c, dtype), *_images(images, dtype))
    ]


def _make(
    name: str,
    shape: tuple[int, ...],
    dtype: str,
    direction: str,
    passes: float,
    kernel: str,
    ours: Callable[..., Any],
    torch: Callable[..., dict[str, Any]] | None,
    arrays: int = 1,
) -> Row:
    """A row that reads and writes ``passes`` arrays of this shape, given ``arrays`` of them."""

    def inputs(rng: np.random.Generator) -> list[np.ndarray]:
        made = [random(rng, shape, dtype) for _ in range(arrays)]
        return [channels_last(a) for a in made] if len(shape) == 4 else made

    moved = passes * itemsize(dtype) * float(np.prod(shape))
    text = f"{name} {'x'.join(map(str, shape))}"
    limit = 1e-4 if dtype == "float32" else 2e-2
    return Row(
        "memory",
        text,
        dtype,
        direction,
        0.0,
        moved,
        (kernel,),
        inputs,
        ours,
        torch,
        limit=limit,
        target=TARGET,
    )


def _flat(n: int, c: int, dtype: str) -> list[Row]:
    shape = (n, c)

    def adam_torch(torch: Any, p: Any, g: Any, *_: Any) -> dict[str, Any]:
        p.grad = g
        optimizer = torch.optim.Adam([p], fused=True)
        return {"fused": lambda: optimizer.step()}

    return [
        _make("relu", shape, dtype, "forward", 2, "activation_forward", lambda x: lambda: ops.activation(x, "relu"),
              lambda torch, x: {"": lambda: torch.relu(x)}),
        _make("gelu", shape, dtype, "forward", 2, "activation_forward", lambda x: lambda: ops.activation(x, "gelu"),
              lambda torch, x: {"": lambda: torch.nn.functional.gelu(x)}),
        _make("gelu", shape, dtype, "backward", 3, "activation_backward",
              lambda x, g: lambda: ops.activation_backward(g, x, "gelu"),
              lambda torch, x, g: {"": lambda: torch.ops.aten.gelu_backward(g, x)}, 2),
        _make("dropout", shape, dtype, "forward", 2, "dropout", lambda x: lambda: ops.dropout(x, 0.1, 7), None),
        _make("adam", shape, "float32", "step", 7, "ParameterGroup", _adam, adam_torch, 2) if dtype == "float32"
        else _make("cross_entropy", shape, dtype, "both", 2, "cross_entropy", _cross_entropy, None),
    ]  # fmt: skip


def _adam(p: Any, g: Any) -> Any:
    import fastdl
    from fastdl import optim

    parameter = fastdl.tensor(np.zeros(1, np.float32), requires_grad=True)
    parameter._data = p
    parameter.grad = fastdl.tensor(np.zeros(1, np.float32))
    parameter.grad._data = g
    optimizer = optim.Adam([parameter])

    def call() -> None:
        optimizer.step()

    return call


def _cross_entropy(x: Any) -> Any:
    target = np.asarray(np.arange(x.shape[0]) % x.shape[1], like=x)
    return lambda: ops.cross_entropy(x, target, with_grad=True)


def _rows(n: int, c: int, dtype: str) -> list[Row]:
    shape = (n, c)

    def layer_norm(x: Any) -> Any:
        return lambda: ops.layer_norm(x, (c,))[0]

    def softmax_backward(x: Any, g: Any) -> Any:
        y = ops.softmax(x, -1)
        return lambda: ops.softmax_backward(g, y, -1)

    def layer_norm_backward(x: Any, g: Any) -> Any:
        _, mean, rstd = ops.layer_norm(x, (c,))
        return lambda: ops.layer_norm_backward(g, x, None, mean, rstd, 1, (True, False, False))[0]

    return [
        _make("softmax", shape, dtype, "forward", 2, "softmax_forward", lambda x: lambda: ops.softmax(x, -1),
              lambda torch, x: {"": lambda: torch.softmax(x, -1)}),
        _make("softmax", shape, dtype, "backward", 3, "softmax_backward", softmax_backward, None, 2),
        _make("layer_norm", shape, dtype, "forward", 2, "layer_norm_forward", layer_norm,
              lambda torch, x: {"": lambda: torch.nn.functional.layer_norm(x, (c,))}),
        _make("layer_norm", shape, dtype, "backward", 3, "layer_norm_backward", layer_norm_backward, None, 2),
    ]  # fmt: skip


def _images(shape: tuple[int, ...], dtype: str) -> list[Row]:
    def batch_norm(x: Any) -> Any:
        weight = backend.empty((shape[1],), np.float32, x)
        weight[...] = 1
        bias = backend.empty((shape[1],), np.float32, x)
        bias[...] = 0
        return lambda: ops.batch_norm(x, None, None, weight, bias, training=True)[0]

    return [
        # The statistics need a pass of their own over what no cache holds.
        _make("batch_norm", shape, dtype, "forward", 3, "batch_norm_forward", batch_norm,
              lambda torch, x: {"": lambda: torch.nn.functional.batch_norm(x, None, None, training=True)}),
        _make("max_pool 2", shape, dtype, "forward", 1.25, "max_pool_forward", lambda x: lambda: ops.max_pool(x, 2),
              lambda torch, x: {"": lambda: torch.nn.functional.max_pool2d(x, 2)}),
        _make("avg_pool 2", shape, dtype, "forward", 1.25, "avg_pool_forward", lambda x: lambda: ops.avg_pool(x, 2),
              lambda torch, x: {"": lambda: torch.nn.functional.avg_pool2d(x, 2)}),
    ]  # fmt: skip
