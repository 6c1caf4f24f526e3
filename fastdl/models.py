"""The seed models: small classifiers of images (N, C, H, W) for command line, examples and benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from . import nn


def linear(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Multinomial logistic regression: Flatten, Linear."""
    return nn.Sequential(nn.Flatten(), nn.Linear(_size(input_shape), classes))


def mlp(input_shape: tuple[int, int, int], classes: int, hidden: int = 512) -> nn.Module:
    """One hidden layer with ReLU: 784-512-10 for images of 28 x 28 and ten classes."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(_size(input_shape), hidden, activation="relu"),
        nn.Linear(hidden, classes),
    )


def cnn(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Conv32 3x3, MaxPool2, Conv64 3x3, MaxPool2, Conv64 3x3, Flatten, Dense64, Dense; ReLU after all but
    the last.

    Images smaller than 18 x 18 would vanish on the way: for them the convolutions pad by one.
    """
    channels, height, width = input_shape
    padding = 0 if min(height, width) >= 18 else 1
    if min(height, width) < 4:
        raise ValueError(f"cnn: expected images of at least 4 x 4, got {height} x {width}")
    for _ in range(2):
        height, width = ((n - 2 + 2 * padding) // 2 for n in (height, width))
    height, width = (n - 2 + 2 * padding for n in (height, width))
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3, padding=padding, activation="relu"),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=padding, activation="relu"),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3, padding=padding, activation="relu"),
        nn.Flatten(),
        nn.Linear(64 * height * width, 64, activation="relu"),
        nn.Linear(64, classes),
    )


class LSTMClassifier(nn.Module):
    """Reads an image row by row with an LSTM and classifies its last hidden state."""

    def __init__(self, input_shape: tuple[int, int, int], classes: int, hidden: int = 128) -> None:
        super().__init__()
        channels, _, width = input_shape
        self.lstm = nn.LSTM(channels * width, hidden, batch_first=True)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: Any) -> Any:
        """(N, C, H, W) -> (N, classes)."""
        n, channels, height, width = x.shape
        rows = x.transpose(1, 2).reshape(n, height, channels * width)
        _, (hidden, _) = self.lstm(rows)
        return self.head(hidden[0])


def lstm(input_shape: tuple[int, int, int], classes: int, hidden: int = 128) -> nn.Module:
    """An LSTM over the rows of the image, and a Linear on its last state."""
    return LSTMClassifier(input_shape, classes, hidden)


KINDS: dict[str, Callable[[tuple[int, int, int], int], nn.Module]] = {
    "linear": linear,
    "mlp": mlp,
    "cnn": cnn,
    "lstm": lstm,
}


def build(kind: str, input_shape: Sequence[int], classes: int) -> nn.Module:
    """A new model of one of ``KINDS``. Raises ValueError for others.

    >>> sum(p.numel() for p in build("linear", (1, 28, 28), 10).parameters())
    7850
    """
    if kind not in KINDS:
        raise ValueError(f"models: expected one of {', '.join(KINDS)}, got {kind!r}")
    if len(input_shape) != 3:
        raise ValueError(f"models: expected input_shape (C, H, W), got {tuple(input_shape)}")
    channels, height, width = input_shape
    return KINDS[kind]((channels, height, width), classes)


def _size(input_shape: tuple[int, int, int]) -> int:
    channels, height, width = input_shape
    return channels * height * width
