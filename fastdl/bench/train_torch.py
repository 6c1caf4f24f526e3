"""The models of train.py in torch: as its users write them, in both memory formats, with fused Adam."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .peers import Peers


def build(torch: Any, name: str) -> Any:
    """The model, its parameters in the order of fastdl's."""
    from .train import CLASSES, recurrent, transformer

    t: Any = torch.nn
    if name == "cnn":
        return t.Sequential(
            t.Conv2d(1, 32, 3), t.ReLU(), t.MaxPool2d(2), t.Conv2d(32, 64, 3), t.ReLU(), t.MaxPool2d(2),
            t.Conv2d(64, 64, 3), t.ReLU(), t.Flatten(), t.Linear(576, 64), t.ReLU(), t.Linear(64, CLASSES),
        )  # fmt: skip
    if name == "mlp":
        return t.Sequential(t.Flatten(), t.Linear(784, 512), t.ReLU(), t.Linear(512, CLASSES))
    if name == "linear":
        return t.Sequential(t.Flatten(), t.Linear(784, CLASSES))
    if name == "rnn64":
        return recurrent(t, t.RNN(28, 64, batch_first=True))
    if name == "mlp32":
        return t.Sequential(t.Linear(32, 32), t.ReLU(), t.Linear(32, CLASSES))
    if name == "lstm64":

        class Classifier(t.Module):
            def __init__(self) -> None:
                super().__init__()
                self.lstm = t.LSTM(28, 64, batch_first=True)
                self.head = t.Linear(64, CLASSES)

            def forward(self, x: Any) -> Any:
                return self.head(self.lstm(x[:, 0])[1][0][0])

        return Classifier()
    return transformer(t)


def _load(peers: Peers, name: str, weights: Sequence[np.ndarray], dtype: Any) -> Any:
    torch = peers.modules["torch"]
    model = build(torch, name).to(peers.device.name, dtype)
    with torch.no_grad():
        for target, source in zip(model.parameters(), weights, strict=True):
            target.copy_(peers.tensor(source))
    return model


def reference(
    peers: Peers, name: str, weights: Sequence[np.ndarray], x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, float, list[np.ndarray]]:
    """Output, loss and gradients in float64."""
    torch = peers.modules["torch"]
    model = _load(peers, name, weights, torch.float64)
    out = model(peers.tensor(x).double())
    loss = torch.nn.functional.cross_entropy(out, peers.tensor(y))
    loss.backward()
    return (
        out.detach().cpu().numpy(),
        float(loss.detach()),
        [p.grad.cpu().numpy() for p in model.parameters()],
    )


def calls(
    peers: Peers, name: str, weights: Sequence[np.ndarray], x: np.ndarray, y: np.ndarray, direction: str
) -> dict[str, Any]:
    """A training step, or inference, by variant."""
    torch = peers.modules["torch"]
    formats = {"": torch.contiguous_format}
    if name == "cnn":
        formats["channels_last"] = torch.channels_last
    result = {}
    for variant, format in formats.items():
        model = _load(peers, name, weights, torch.float32).to(memory_format=format)
        tx = peers.tensor(x.copy()).contiguous(memory_format=format)
        if direction == "forward":
            result[variant] = _inference(model.eval(), tx)
        else:
            result[f"{variant} fused".strip()] = _step(torch, model, tx, peers.tensor(y))
    return result


def _inference(model: Any, x: Any) -> Any:
    return lambda: (model(x),)


def _step(torch: Any, model: Any, x: Any, y: Any) -> Any:
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    cross_entropy = torch.nn.functional.cross_entropy

    def call() -> Any:
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return (loss,)

    return call
