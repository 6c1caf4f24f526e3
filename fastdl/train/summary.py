"""``summary``: the layers of a model with their output shapes and parameter counts."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np

from ..autograd import wrap
from ..dtypes import as_dtype
from ..tensor import Tensor
from .mode import evaluation_mode


@dataclass(frozen=True)
class Row:
    """One layer: its path in the model, its class, the shape it returns, and its parameters."""

    name: str
    kind: str
    output_shape: str
    parameters: int


@dataclass(frozen=True, repr=False)
class Summary:
    """The table of ``summary``; ``str()`` draws it."""

    model: str
    rows: tuple[Row, ...]
    parameters: int
    trainable: int
    nbytes: int

    def __repr__(self) -> str:
        return f"Summary({self.model}: {len(self.rows)} layers, {self.parameters:,} parameters)"

    def __str__(self) -> str:
        header = ("Layer", "Output shape", "Parameters")
        lines = [
            (f"{r.name} ({r.kind})" if r.name else r.kind, r.output_shape, f"{r.parameters:,}")
            for r in self.rows
        ]
        first, second, third = (max(map(len, column)) for column in zip(header, *lines, strict=True))
        width = first + second + third + 4

        def draw(cells: tuple[str, str, str]) -> str:
            return f"{cells[0]:<{first}}  {cells[1]:<{second}}  {cells[2]:>{third}}"

        return "\n".join(
            [
                f"Model: {self.model}",
                "─" * width,
                draw(header),
                "─" * width,
                *map(draw, lines),
                "─" * width,
                f"Parameters: {self.parameters:,} ({_size(self.nbytes)}), trainable: {self.trainable:,}",
            ]
        )


def summary(
    model: Any, input_shape: tuple[int, ...], dtype: Any = None, *, file: TextIO | None = None
) -> Summary:
    """Prints a table of the model's layers for one input of ``input_shape`` (without the batch), and returns
    it.

    Runs the model once on zeros of ``dtype`` (that of its first parameter), in evaluation mode and without
    gradients. Layers that are called more than
    once are listed once, in the order of their first call.

    Raises what the model raises for such an input, ValueError for a shape that is none.

    >>> import io
    >>> from fastdl import nn
    >>> table = summary(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), (4,), file=io.StringIO())
    >>> table.parameters, table.rows[0].output_shape
    (15, '(N, 3)')
    """
    if not isinstance(input_shape, (tuple, list)) or any(
        not isinstance(n, int) or n < 0 for n in input_shape
    ):
        raise ValueError(
            f"summary: expected input_shape as a tuple of sizes without the batch, got {input_shape!r}"
        )
    from .. import no_grad

    if dtype is None:
        dtype = next((p._data.dtype for p in model.parameters()), np.float32)
    modules = {name: module for name, module in model.named_modules()}
    leaves = [module for module in modules.values() if not any(True for _ in module.children())]
    outputs: dict[int, Any] = {}
    with evaluation_mode(model), no_grad(), _recording(leaves, outputs):
        there = next((p._data for p in model.parameters()), None)
        result = model(wrap(np.zeros((1, *input_shape), as_dtype(dtype), like=there)))
    outputs.setdefault(id(model), result)

    # Layers in the order of their calls; then those that were not called, or are no leaves, but own
    # parameters.
    position = {key: i for i, key in enumerate(outputs) if key != id(model) or len(modules) == 1}
    shown = [
        (position.get(id(m), len(outputs)), name, m)
        for name, m in modules.items()
        if id(m) in position or any(True for _ in _own_parameters(m))
    ]
    rows = tuple(
        Row(name, type(m).__name__, _shape(outputs.get(id(m))), sum(_own_parameters(m)))
        for _, name, m in sorted(shown, key=lambda entry: entry[0])
    )
    parameters = list(model.parameters())
    table = Summary(
        type(model).__name__,
        rows,
        sum(_count(p) for p in parameters),
        sum(_count(p) for p in parameters if p.requires_grad),
        sum(p.nbytes for p in parameters),
    )
    print(table, file=sys.stdout if file is None else file)
    return table


@contextmanager
def _recording(modules: list[Any], outputs: dict[int, Any]) -> Iterator[None]:
    """Within it, every call of a module's ``forward`` leaves its result in ``outputs``."""
    try:
        for module in modules:
            # An attribute of the instance hides the method of the class until it is deleted.
            module.__dict__["forward"] = _recorder(module, module.forward, outputs)
        yield
    finally:
        for module in modules:
            module.__dict__.pop("forward", None)


def _recorder(module: Any, forward: Any, outputs: dict[int, Any]) -> Any:
    def recorded(*args: Any, **kwargs: Any) -> Any:
        result = forward(*args, **kwargs)
        outputs.setdefault(id(module), result)
        return result

    return recorded


def _own_parameters(module: Any) -> Iterator[int]:
    return (_count(p) for name, p in module.named_parameters() if "." not in name)


def _count(parameter: Any) -> int:
    return math.prod(parameter.shape)


def _shape(output: Any) -> str:
    if isinstance(output, Tensor):
        sizes = [str(n) for n in output.shape]
        return f"({', '.join(['N', *sizes[1:]])})" if sizes else "()"
    if isinstance(output, (tuple, list)):
        return _shape(output[0]) if output else "()"
    return "-" if output is None else type(output).__name__


def _size(nbytes: int) -> str:
    value = float(nbytes)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"
