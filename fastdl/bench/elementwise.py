"""Ops bound by memory: softmax, layer and batch norm, GELU, pooling, dropout, cross-entropy, Adam."""

from __future__ import annotations

import math
from collections.abc import Callable

from .elementwise_flat import adam, dropout, gelu
from .elementwise_images import batch_norm, pool
from .elementwise_rows import cross_entropy, layer_norm, softmax
from .rows import Row, itemsize

FAMILY = "elementwise"
DIRECTIONS = ("forward", "backward", "both", "step")
SIZES = (10**4, 10**5, 10**6, 10**7, 10**8)
_CLASSES = 1000  # elements of a row of softmax, layer norm and cross-entropy

#: What BERT-base does to eight texts of 128 tokens (Devlin et al. 2019): softmax of the scores, layer norm and dropout
#: of the tokens, GELU within the MLP, cross-entropy over the vocabulary, Adam on one layer's parameters.
_TRANSFORMER: dict[str, tuple[int, ...]] = {
    "softmax": (8 * 12 * 128, 128),
    "layer_norm": (1024, 768),
    "gelu": (1024 * 3072,),
    "dropout": (1024 * 768,),
    "cross_entropy": (1024, 30522),
    "adam": (7_087_872,),
}

#: Elements of the arrays, or the shapes of some ops.
SUITES: dict[str, tuple[int, ...] | dict[str, tuple[int, ...]]] = {
    "quick": (10**5,),
    "small": (10**4,),
    "sizes": SIZES,
    "memory-bound": SIZES,
    "transformer": _TRANSFORMER,
    "scaling": (10**6,),
    "targets": SIZES,
}


def rows(suite: str, dtype: str) -> list[Row]:
    """The rows of a suite."""
    found, what = [], SUITES[suite]
    for name, (shape, passes, build) in OPS.items():
        if isinstance(what, dict):
            shapes = [what[name]] if name in what else []
        else:
            shapes = [shape(n) for n in what]
        for direction, (moved, held) in passes.items():
            if direction == "step" and dtype == "bfloat16":
                continue  # optimizers keep float32
            found += [_row(name, s, dtype, direction, moved, held, build) for s in shapes]
    return found


def _row(
    name: str, shape: tuple[int, ...], dtype: str, direction: str, moved: float, held: float, build: Callable
) -> Row:
    size = math.prod(shape) * itemsize(dtype)
    return Row(
        "memory-bound", name, "x".join(map(str, shape)), dtype, direction, 0.0, moved * size,
        lambda peers: build(shape, dtype, direction, peers), held=held * size,
    )  # fmt: skip


def _matrix(n: int) -> tuple[int, ...]:
    return (n // _CLASSES, _CLASSES)


def _flat(n: int) -> tuple[int, ...]:
    return (n,)


def _images(n: int) -> tuple[int, ...]:
    """64 channels of 7x7, 28x28 or 56x56, as the batch grows."""
    size = 7 if n < 10**6 else 28 if n < 10**8 else 56
    return (n // (64 * size * size), 64, size, size)


# name: (shape of about n elements, {direction: (passes over the array that it cannot do without, arrays it works on)},
# how to build it). Softmax reads x and writes y, its gradient reads two arrays and writes one; batch norm reads x (its
# gradient x and the output's gradient) a second time once the sums are known; Adam reads four arrays and writes three.
OPS: dict[str, tuple[Callable, dict[str, tuple[float, float]], Callable]] = {
    "softmax": (_matrix, {"forward": (2, 2), "backward": (3, 3)}, softmax),
    "layer_norm": (_matrix, {"forward": (2, 2), "backward": (3, 3)}, layer_norm),
    "batch_norm": (_images, {"forward": (3, 2), "backward": (5, 3)}, batch_norm),
    "gelu": (_flat, {"forward": (2, 2), "backward": (3, 3)}, gelu),
    "max_pool": (_images, {"forward": (1.25, 1.25), "backward": (1.5, 1.5)}, pool("max_pool")),
    "avg_pool": (_images, {"forward": (1.25, 1.25), "backward": (1.25, 1.25)}, pool("avg_pool")),
    "dropout": (_flat, {"forward": (2, 2)}, dropout),
    "cross_entropy": (_matrix, {"forward": (1, 1), "both": (2, 2)}, cross_entropy),
    "adam": (_flat, {"step": (7, 4)}, adam),
}
