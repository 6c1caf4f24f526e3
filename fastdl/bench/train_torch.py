"""The models of train.py in torch: as its users write them, in both memory formats, with fused Adam."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .peers import Peers
from .train_models import CLASSES, Model, adversaries, autoencoder, parts, recurrent, stepper, transformer


def build(torch: Any, name: str) -> Any:
    """The model, its parameters in the order of fastdl's."""
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
    if name in ("autoencoder", "gan"):
        activations = {"relu": t.ReLU, "sigmoid": t.Sigmoid, "tanh": t.Tanh}

        def layer(inputs: int, outputs: int, activation: str | None) -> Any:
            linear = t.Linear(inputs, outputs)
            return t.Sequential(linear, activations[activation]()) if activation else linear

        return (autoencoder if name == "autoencoder" else adversaries)(layer, t)
    return transformer(t)


def _load(peers: Peers, name: str, weights: Sequence[np.ndarray], dtype: Any) -> Any:
    torch = peers.modules["torch"]
    model = build(torch, name).to(peers.device.name, dtype)
    with torch.no_grad():
        for target, source in zip(model.parameters(), weights, strict=True):
            target.copy_(peers.tensor(source))
    return model


def reference(
    peers: Peers, model: Model, weights: Sequence[np.ndarray], x: np.ndarray, y: np.ndarray, direction: str
) -> list[np.ndarray]:
    """Outputs, or losses and then gradients of a step, in float64."""
    torch = peers.modules["torch"]
    module = _load(peers, model.name, weights, torch.float64)
    wide = peers.tensor(x).double()
    if direction == "forward":
        return [module(wide).detach().cpu().numpy()]
    found = _step(torch, model, module, wide, peers.tensor(y), contextlib.nullcontext)()
    return [a.detach().cpu().numpy() for a in (*found, *(p.grad for p in module.parameters()))]


def calls(
    peers: Peers,
    model: Model,
    weights: Sequence[np.ndarray],
    x: np.ndarray,
    y: np.ndarray,
    direction: str,
    dtype: str,
) -> dict[str, Any]:
    """A training step, or inference, by variant."""
    torch = peers.modules["torch"]
    formats = {"": torch.contiguous_format}
    if model.name == "cnn":
        formats["channels_last"] = torch.channels_last
    device = peers.device.name

    def narrow() -> Any:
        return torch.autocast(device, torch.bfloat16) if dtype == "bfloat16" else contextlib.nullcontext()

    result = {}
    for variant, format in formats.items():
        module = _load(peers, model.name, weights, torch.float32).to(memory_format=format)
        tx = peers.tensor(x.copy()).contiguous(memory_format=format)
        if direction == "forward":
            result[variant] = _inference(module.eval(), tx)
        else:
            result[f"{variant} fused".strip()] = _step(torch, model, module, tx, peers.tensor(y), narrow)
    return result


def _inference(model: Any, x: Any) -> Any:
    return lambda: (model(x),)


def _step(torch: Any, model: Model, module: Any, x: Any, y: Any, narrow: Callable[[], Any]) -> Any:
    optimizers = [torch.optim.Adam(part.parameters(), fused=True) for part in parts(model, module)]
    return stepper(model, torch.nn.functional, module, optimizers, narrow, x, y)
