"""Training steps (forward, loss, backward, Adam) of the seed models, and inference of the smallest."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from . import train_jax, train_torch
from .peers import Peers, to_numpy
from .rows import Contest, Row, worst
from .train_models import CLASSES, MODELS, Model, parts, stepper

FAMILY = "train"
DIRECTIONS = ("forward", "step")
#: float32: of losses and gradients, relative to the largest number of each. bfloat16: of gradients' norms. Values on
#: their way through the model are off by some 2^-8, so that about as large a part p of the ReLUs and maxima choose
#: otherwise than the exact ones, which changes a gradient by sqrt(p) = 6 % of its norm in each of six such layers.
_LIMIT = {"float32": 2e-4, "bfloat16": 0.06 * 6**0.5}
#: A loss is a mean over everything and some 20 times as exact.
_OF_LOSS = 20
_ALL = [
    ("cnn", 32, "step"), ("cnn", 128, "step"), ("mlp", 32, "step"), ("mlp", 128, "step"), ("lstm64", 32, "step"),
    ("transformer", 32, "step"), ("mlp32", 32, "step"), ("mlp32", 32, "forward"),
]  # fmt: skip

# model, batch, direction
SUITES: dict[str, list[tuple[str, int, str]]] = {
    "quick": [("cnn", 32, "step"), ("mlp32", 32, "step"), ("mlp32", 32, "forward")],
    "train": [
        *_ALL,
        ("linear", 32, "step"),
        ("linear", 128, "step"),
        ("rnn64", 32, "step"),
        ("autoencoder", 128, "step"),
        ("gan", 128, "step"),
    ],
    "transformer": [("transformer", 32, "step")],
    "targets": _ALL,
}


def rows(suite: str, dtype: str) -> list[Row]:
    """The rows of a suite. In bfloat16: training steps of suite "train" under autocast, with float32 weights."""
    entries = SUITES[suite]
    if dtype == "bfloat16":
        entries = [e for e in entries if suite == "train" and e[2] == "step"]
    return [_row(*entry, dtype) for entry in entries] if dtype in _LIMIT else []


def _row(name: str, batch: int, direction: str, dtype: str) -> Row:
    model = MODELS[name]
    parameters = 4.0 * sum(p.numel() for p in model.build().parameters())
    # Weights read, or (in a step) read and written with both moments of Adam, and their gradients written and read
    moved = parameters if direction == "forward" else 9 * parameters
    operations = batch * (model.flops if direction == "forward" else model.step_flops)
    return Row(
        model.group, name, f"b{batch}", dtype, direction, operations, moved,
        lambda peers: _contest(model, batch, direction, dtype, peers),
    )  # fmt: skip


def step(model: Model, module: Any, x: Any, y: Any, dtype: str) -> Any:
    """A function that does a training step of fastdl and returns its losses."""
    import fastdl
    import fastdl.nn.functional as F

    optimizers = [fastdl.optim.Adam(part.parameters()) for part in parts(model, module)]

    def narrow() -> Any:
        return fastdl.autocast("bfloat16") if dtype == "bfloat16" else contextlib.nullcontext()

    return stepper(model, F, module, optimizers, narrow, x, y)


def _by_norm(losses: list[tuple[Any, Any]], gradients: list[tuple[Any, Any]]) -> float:
    def error(got: Any, expected: Any) -> float:
        difference = np.linalg.norm(np.asarray(got, np.float64) - expected) / np.linalg.norm(expected)
        return float(difference) if np.isfinite(difference) else np.inf

    return max([_OF_LOSS * error(*pair) for pair in losses] + [error(*pair) for pair in gradients])


def _contest(model: Model, batch: int, direction: str, dtype: str, peers: Peers) -> Contest:
    import fastdl

    rng = np.random.default_rng(0)
    drawn = rng.standard_normal((batch, *model.shape))
    if model.objective == "reconstruct":
        drawn = 1 / (1 + np.exp(-drawn))  # as a sigmoid can give it
    x = drawn.astype(np.float32)
    y = rng.integers(0, CLASSES, batch)
    fastdl.manual_seed(0)
    ours = model.build()
    weights = [p.detach().numpy().copy() for p in ours.parameters()]
    device = peers.device.name
    ours.to(device)
    ox, oy = fastdl.from_numpy(x).to(device), fastdl.from_numpy(y).to(device)

    @cache
    def reference() -> list[np.ndarray]:
        """Outputs, or losses and then gradients of the first step, in float64: torch's if it takes part, else
        fastdl's own."""
        if "torch" in peers.modules:
            return train_torch.reference(peers, model, weights, x, y, direction)
        double = model.build().to(fastdl.float64)
        with fastdl.no_grad():
            for target, source in zip(double.parameters(), weights):
                target.copy_(fastdl.tensor(source, dtype=fastdl.float64))
        wide = fastdl.from_numpy(x.astype(np.float64))
        if direction == "forward":
            return [double(wide).detach().numpy()]
        found = step(model, double, wide, fastdl.from_numpy(y), "float64")()
        return [*(loss.detach().numpy() for loss in found), *(p.grad.numpy() for p in double.parameters())]

    if direction == "forward":
        ours.eval()
        call = lambda: (ours(ox),)  # noqa: E731
    else:
        call = step(model, ours, ox, oy, dtype)

    def error(outputs: Sequence[Any]) -> float:
        expected = reference()
        pairs: list[tuple[Any, Any]] = [(to_numpy(o), e) for o, e in zip(outputs, expected)]
        if direction == "step":
            gradients = expected[len(outputs) :]
            pairs += [(to_numpy(p.grad), g) for p, g in zip(ours.parameters(), gradients, strict=True)]
        return worst(pairs) if dtype == "float32" else _by_norm(pairs[: len(outputs)], pairs[len(outputs) :])

    contest = Contest(peers, call, error, _LIMIT[dtype])
    contest.add("torch", lambda torch: train_torch.calls(peers, model, weights, x, y, direction, dtype))
    contest.add("jax", lambda jax: train_jax.calls(jax, model, weights, x, y, direction, dtype))
    contest.skip("numpy", "has no gradients")
    contest.skip("cupy", "has no gradients")
    contest.skip("onnxruntime", "has no training" if direction == "step" else "is not compared")
    return contest
