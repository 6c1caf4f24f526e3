"""Which data the command line uses: ``--data``, ``$FASTDL_DATA``, Debian's Fashion-MNIST, or the digits."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data import digits, fashion_mnist, images

NAMES = "fashion-mnist, digits or DIR"
# How the training labels of Fashion-MNIST begin: other sets come in files of the same names and shapes.
_FASHION_LABELS = (9, 0, 0, 3, 0, 2, 7, 2, 5, 5, 0, 9, 5, 5, 7, 9)


@dataclass
class Source:
    """Train and test part, normalised to mean 0 and deviation 1 over the training pixels."""

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


def load_source(spec: str | None, statistics: tuple[float, float] | None = None) -> Source:
    """The data ``--data`` names, or what is found without it.

    ``statistics``, mean and deviation, normalise it instead of its own.

    Raises FileNotFoundError, ValueError or ImportError with a hint where there is none or it is corrupt.
    """
    variable = os.environ.get("FASTDL_DATA")
    folder = variable or images.FASHION_MNIST_DIR
    if spec == "fashion-mnist":
        return _directory(folder, spec, statistics)
    if spec is None and (variable or os.path.isdir(folder)):
        return _directory(folder, os.path.abspath(folder) if variable else "fashion-mnist", statistics)
    if spec is not None and spec != "digits":
        return _directory(spec, os.path.abspath(spec), statistics)
    try:
        return _make("digits", "scikit-learn's digits", digits(), images.DIGITS_CLASSES, statistics)
    except ImportError as error:
        if spec == "digits":
            raise
        raise FileNotFoundError(
            "no data: --data DIR or $FASTDL_DATA may name a folder of IDX files, Debian's package "
            f"dataset-fashion-mnist puts them into {images.FASHION_MNIST_DIR}, and {error}"
        ) from None


def _directory(path: str, spec: str, statistics: tuple[float, float] | None) -> Source:
    if not os.path.isdir(path):
        raise FileNotFoundError(
            f"there is no folder {path}; --data takes {NAMES}, $FASTDL_DATA a folder, and Debian's package "
            f"dataset-fashion-mnist fills {images.FASHION_MNIST_DIR}"
        )
    parts = fashion_mnist(path)
    (_, y_train), (_, y_test) = parts
    classes = 1 + max(int(y.max(initial=0)) for y in (y_train, y_test))
    fashion = spec == "fashion-mnist" or tuple(y_train[: len(_FASHION_LABELS)]) == _FASHION_LABELS
    named = fashion and classes <= len(images.FASHION_MNIST_CLASSES)
    names = images.FASHION_MNIST_CLASSES if named else tuple(map(str, range(max(classes, 2))))
    return _make(spec, f"{'Fashion-MNIST' if fashion else 'IDX files'} from {path}", parts, names, statistics)


def _make(
    spec: str,
    description: str,
    parts: Any,
    names: tuple[str, ...],
    statistics: tuple[float, float] | None,
) -> Source:
    (x_train, y_train), (x_test, y_test) = parts
    if not len(x_train) or not len(x_test):
        raise ValueError(
            f"{description}: expected images in both parts, got {len(x_train)} and {len(x_test)}"
        )
    if statistics is None:
        statistics = float(x_train.mean(dtype=np.float64)), float(x_train.std(dtype=np.float64)) or 1.0
    mean, std = statistics
    for x in (x_train, x_test):
        x -= np.float32(mean)
        x /= np.float32(std)
    return Source(spec, description, x_train, y_train, x_test, y_test, names, mean, std)
