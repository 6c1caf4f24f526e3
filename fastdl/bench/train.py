"""Training steps (forward, loss, backward, Adam) of the seed models, and inference of the smallest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from . import train_jax, train_torch
from .peers import Peers, to_numpy
from .rows import Contest, Row, worst

FAMILY = "train"
DIRECTIONS = ("forward", "step")
_LIMIT = 2e-4  # of the gradients, relative to the largest number of each
CLASSES = 10


@dataclass(frozen=True)
class Model:
    """A model of the benchmark. build: fastdl's, shape: of one input, flops: of one input's forward pass, first: the
    part of them that works on the input itself, which wants no gradient."""

    name: str
    build: Callable[[], Any]
    shape: tuple[int, ...]
    flops: float
    first: float
    group: str


def _cnn() -> Any:
    from .. import models

    return models.cnn((1, 28, 28), CLASSES)


def _mlp() -> Any:
    from .. import models

    return models.mlp((1, 28, 28), CLASSES)


def _lstm() -> Any:
    from .. import models

    return models.lstm((1, 28, 28), CLASSES, hidden=64)


def _linear() -> Any:
    from .. import models

    return models.linear((1, 28, 28), CLASSES)


def recurrent(nn: Any, layer: Any) -> Any:
    """A recurrent layer over the rows of an image, and a Linear on its last state; ``nn`` is fastdl's or torch's."""

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer
            self.head = nn.Linear(64, CLASSES)

        def forward(self, x: Any) -> Any:
            return self.head(self.layer(x[:, 0])[1][0])

    return Classifier()


def _rnn() -> Any:
    from .. import nn

    return recurrent(nn, nn.RNN(28, 64, batch_first=True))


def _tiny() -> Any:
    from .. import nn

    return nn.Sequential(nn.Linear(32, 32, activation="relu"), nn.Linear(32, CLASSES))


def transformer(nn: Any) -> Any:
    """Two encoder layers of width 256 with 4 heads over 64 positions, and a Linear on their mean; ``nn`` is fastdl's or
    torch's. Without dropout, so that results can be compared."""

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(256, 4, 1024, 0.0, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2)
            self.head = nn.Linear(256, CLASSES)

        def forward(self, x: Any) -> Any:
            return self.head(self.encoder(x).mean(1))

    return Classifier()


def _transformer() -> Any:
    from .. import nn

    return transformer(nn)


_CNN_FLOPS = 2.0 * (26 * 26 * 32 * 9 + 11 * 11 * 64 * 288 + 9 * 64 * 576 + 576 * 64 + 64 * CLASSES)
_CNN_FIRST = 2.0 * 26 * 26 * 32 * 9
_LAYER_FLOPS = 2.0 * 64 * (4 * 256 * 256 + 2 * 256 * 1024) + 4.0 * 64 * 64 * 256
MODELS = {
    "cnn": Model("cnn", _cnn, (1, 28, 28), _CNN_FLOPS, _CNN_FIRST, "train cnn"),
    "mlp": Model("mlp", _mlp, (1, 28, 28), 2.0 * (784 * 512 + 512 * CLASSES), 2.0 * 784 * 512, "train"),
    "lstm64": Model(
        "lstm64", _lstm, (1, 28, 28), 2.0 * 28 * 4 * 64 * (28 + 64), 2.0 * 28 * 4 * 64 * 28, "train"
    ),
    "linear": Model("linear", _linear, (1, 28, 28), 2.0 * 784 * CLASSES, 2.0 * 784 * CLASSES, "train"),
    "rnn64": Model("rnn64", _rnn, (1, 28, 28), 2.0 * 28 * 64 * (28 + 64), 2.0 * 28 * 64 * 28, "train"),
    "transformer": Model(
        "transformer", _transformer, (64, 256), 2 * _LAYER_FLOPS, 2.0 * 64 * 3 * 256 * 256, "train"
    ),
    "mlp32": Model("mlp32", _tiny, (32,), 2.0 * (32 * 32 + 32 * CLASSES), 2.0 * 32 * 32, "train small"),
}
_ALL = [
    ("cnn", 32, "step"), ("cnn", 128, "step"), ("mlp", 32, "step"), ("mlp", 128, "step"), ("lstm64", 32, "step"),
    ("transformer", 32, "step"), ("mlp32", 32, "step"), ("mlp32", 32, "forward"),
]  # fmt: skip

# model, batch, direction
SUITES: dict[str, list[tuple[str, int, str]]] = {
    "quick": [("cnn", 32, "step"), ("mlp32", 32, "step"), ("mlp32", 32, "forward")],
    "train": [*_ALL, ("linear", 32, "step"), ("linear", 128, "step"), ("rnn64", 32, "step")],
    "transformer": [("transformer", 32, "step")],
    "targets": _ALL,
}


def rows(suite: str, dtype: str) -> list[Row]:
    """The rows of a suite; in float32 alone."""
    return [_row(*entry) for entry in SUITES[suite]] if dtype == "float32" else []


def _row(name: str, batch: int, direction: str) -> Row:
    model = MODELS[name]
    parameters = 4.0 * sum(p.numel() for p in model.build().parameters())
    # Weights read, or (in a step) read and written with both moments of Adam, and their gradients written and read
    moved = parameters if direction == "forward" else 9 * parameters
    operations = batch * (model.flops if direction == "forward" else 3 * model.flops - model.first)
    return Row(
        model.group, name, f"b{batch}", "float32", direction, operations, moved,
        lambda peers: _contest(model, batch, direction, peers),
    )  # fmt: skip


def _contest(model: Model, batch: int, direction: str, peers: Peers) -> Contest:
    import fastdl
    import fastdl.nn.functional as F

    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, *model.shape)).astype(np.float32)
    y = rng.integers(0, CLASSES, batch)
    fastdl.manual_seed(0)
    ours = model.build()
    weights = [p.detach().numpy().copy() for p in ours.parameters()]
    device = peers.device.name
    ours.to(device)
    ox, oy = fastdl.from_numpy(x).to(device), fastdl.from_numpy(y).to(device)

    @cache
    def reference() -> tuple[np.ndarray, float, list[np.ndarray]]:
        """Output, loss and gradients in float64: torch's if it takes part, else fastdl's own."""
        if "torch" in peers.modules:
            return train_torch.reference(peers, model.name, weights, x, y)
        double = model.build().to(fastdl.float64)
        with fastdl.no_grad():
            for target, source in zip(double.parameters(), weights):
                target.copy_(fastdl.tensor(source, dtype=fastdl.float64))
        out = double(fastdl.from_numpy(x.astype(np.float64)))
        loss = F.cross_entropy(out, fastdl.from_numpy(y))
        loss.backward()
        return out.detach().numpy(), float(loss.item()), [p.grad.numpy() for p in double.parameters()]

    if direction == "forward":
        ours.eval()
        expected = reference()[0]

        def error(outputs: Sequence[Any]) -> float:
            return worst([(to_numpy(outputs[0]), expected)])

        contest = Contest(peers, lambda: (ours(ox),), error, _LIMIT)
    else:
        optimizer = fastdl.optim.Adam(ours.parameters())

        def step() -> tuple:
            optimizer.zero_grad()
            loss = F.cross_entropy(ours(ox), oy)
            loss.backward()
            optimizer.step()
            return (loss,)

        def error(outputs: Sequence[Any]) -> float:  # of the first step
            _, loss, gradients = reference()
            pairs: list[tuple[Any, Any]] = [(to_numpy(outputs[0]), loss)]
            return worst([*pairs, *((to_numpy(p.grad), g) for p, g in zip(ours.parameters(), gradients))])

        contest = Contest(peers, step, error, _LIMIT)

    contest.add("torch", lambda torch: train_torch.calls(peers, model.name, weights, x, y, direction))
    contest.add("jax", lambda jax: train_jax.calls(jax, model.name, weights, x, y, direction))
    contest.skip("numpy", "has no gradients")
    contest.skip("cupy", "has no gradients")
    contest.skip("onnxruntime", "has no training" if direction == "step" else "is not compared")
    return contest
