"""Which data the command line uses: ``--data``, ``$FASTDL_DATA``, Debian's Fashion-MNIST, or the digits."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data import digits, fashion_mnist, images

NAMES = "fashion-mnist, digits or DIR"


@dataclass
class Source:
    """Train and test part, normalised by the mean and deviation of the training pixels."""

    spec: str  # what --data would have to be
    description: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    class_names: tuple[str, ...]
    mean: float
    std: float

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(C, H, W) of one image."""
        return self.x_train.shape[1:]

    def fingerprint(self) -> int:
        """A checksum of the training part: a resumed run must see the same."""
        return zlib.crc32(self.y_train.tobytes(), zlib.crc32(self.x_train.tobytes()))


def load_source(spec: str | None) -> Source:
    """The data ``--data`` names, or what is found without it.

    Raises FileNotFoundError, ValueError or ImportError with a hint where there is none or it is corrupt.
    """
    if spec == "digits":
        return _make(spec, "scikit-learn's digits", digits(), images.DIGITS_CLASSES)
    wanted = os.environ.get("FASTDL_DATA") or images.FASHION_MNIST_DIR
    if spec == "fashion-mnist" or (spec is None and os.environ.get("FASTDL_DATA")):
        return _directory(wanted, spec or wanted)
    if spec is not None:
        return _directory(spec, os.path.abspath(spec))
    if os.path.isdir(wanted):
        return _directory(wanted, "fashion-mnist")
    try:
        return _make("digits", "scikit-learn's digits", digits(), images.DIGITS_CLASSES)
    except ImportError as error:
        raise FileNotFoundError(
            "no data: --data DIR or $FASTDL_DATA may name a folder of IDX files, Debian's package "
            f"dataset-fashion-mnist puts them into {images.FASHION_MNIST_DIR}, and {error}"
        ) from None


def _directory(path: str, spec: str) -> Source:
    if not os.path.isdir(path):
        hint = "Debian's package dataset-fashion-mnist, or --data DIR" if spec == "fashion-mnist" else NAMES
        raise FileNotFoundError(f"--data: expected {hint}; there is no folder {path}")
    parts = fashion_mnist(path)
    # Ten classes in Fashion-MNIST's shape from a folder of that name are Fashion-MNIST; other sets get
    # numbers.
    classes = 1 + max(int(y.max(initial=0)) for _, y in parts)
    fashion = spec == "fashion-mnist" or "fashion" in os.path.basename(os.path.normpath(path)).lower()
    names = (
        images.FASHION_MNIST_CLASSES if fashion and classes <= 10 else tuple(map(str, range(max(classes, 2))))
    )
    return _make(spec, f"{'Fashion-MNIST' if fashion else 'IDX files'} from {path}", parts, names)


def _make(spec: str, description: str, parts: Any, names: tuple[str, ...]) -> Source:
    (x_train, y_train), (x_test, y_test) = parts
    if not len(x_train) or not len(x_test):
        raise ValueError(
            f"{description}: expected images in both parts, got {len(x_train)} and {len(x_test)}"
        )
    mean, std = float(x_train.mean(dtype=np.float64)), float(x_train.std(dtype=np.float64))
    std = std if std > 0 else 1.0
    for x in (x_train, x_test):
        x -= np.float32(mean)
        x /= np.float32(std)
    return Source(spec, description, x_train, y_train, x_test, y_test, names, mean, std)
