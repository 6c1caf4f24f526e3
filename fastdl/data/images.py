"""Two real image sets: Fashion-MNIST from IDX files, and scikit-learn's handwritten digits."""

from __future__ import annotations

import os

import numpy as np

from .idx import read_idx

FASHION_MNIST_DIR = "/usr/share/datasets/fashion-mnist"
FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
DIGITS_CLASSES = tuple("0123456789")

Split = tuple[np.ndarray, np.ndarray]

_PARTS = (
    ("train-images", "idx3-ubyte"),
    ("train-labels", "idx1-ubyte"),
    ("t10k-images", "idx3-ubyte"),
    ("t10k-labels", "idx1-ubyte"),
)


def find_mnist_files(directory: str | os.PathLike[str]) -> list[str]:
    """Paths of the four files of an MNIST-like set, plain or ``.gz``. Raises FileNotFoundError."""
    found = []
    for stem, suffix in _PARTS:
        names = [f"{stem}{sep}{suffix}{end}" for sep in "-." for end in ("", ".gz")]
        paths = [os.path.join(directory, name) for name in names]
        path = next((p for p in paths if os.path.isfile(p)), None)
        if path is None:
            raise FileNotFoundError(
                f"{os.fspath(directory)}: expected {names[0]} or {names[1]} there, found neither"
            )
        found.append(path)
    return found


def fashion_mnist(directory: str | os.PathLike[str] | None = None) -> tuple[Split, Split]:
    """``(x_train, y_train), (x_test, y_test)`` of Fashion-MNIST, or of any set in MNIST's four IDX files.

    Images are float32 (N, 1, H, W) in [0, 1], labels int64 (N,). ``directory`` defaults to ``$FASTDL_DATA``
    or to where Debian's package dataset-fashion-mnist puts the files.

    Raises FileNotFoundError when a file is missing, ValueError when one is corrupt or they do not belong
    together. Source: Xiao, Rasul and Vollgraf 2017, "Fashion-MNIST", https://arxiv.org/abs/1708.07747.
    """
    if directory is None:
        directory = os.environ.get("FASTDL_DATA") or FASHION_MNIST_DIR
    paths = find_mnist_files(directory)
    train_x, train_y, test_x, test_y = (read_idx(path) for path in paths)
    for x, y, x_path, y_path in (
        (train_x, train_y, paths[0], paths[1]),
        (test_x, test_y, paths[2], paths[3]),
    ):
        if x.ndim != 3 or x.dtype != np.uint8:
            raise ValueError(f"{x_path}: expected uint8 images of rank 3, got {x.dtype} of shape {x.shape}")
        if y.ndim != 1 or y.dtype != np.uint8:
            raise ValueError(f"{y_path}: expected uint8 labels of rank 1, got {y.dtype} of shape {y.shape}")
        if len(x) != len(y):
            raise ValueError(f"{y_path}: expected {len(x)} labels, one per image of {x_path}, got {len(y)}")
    if train_x.shape[1:] != test_x.shape[1:]:
        raise ValueError(
            f"{paths[2]}: expected images of {train_x.shape[1:]} as in {paths[0]}, got {test_x.shape[1:]}"
        )
    return (_scale(train_x, 255), train_y.astype(np.int64)), (_scale(test_x, 255), test_y.astype(np.int64))


def digits(test_fraction: float = 0.2, seed: int = 0) -> tuple[Split, Split]:
    """``(x_train, y_train), (x_test, y_test)`` of scikit-learn's 1,797 handwritten digits of 8 x 8 pixels.

    Images are float32 (N, 1, 8, 8) in [0, 1], labels int64 (N,). The split is drawn from ``seed`` alone.

    Raises ImportError without scikit-learn, ValueError for a fraction outside (0, 1).
    Source: Alpaydin and Kaynak 1998, UCI "Optical Recognition of Handwritten Digits" (its test part).
    """
    if not 0 < test_fraction < 1:
        raise ValueError(f"digits: expected 0 < test_fraction < 1, got {test_fraction}")
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ImportError("digits: scikit-learn is missing; pip install 'fastdl[demo]' brings it") from None
    bunch = load_digits()
    x, y = _scale(bunch.images, 16), bunch.target.astype(np.int64)
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(x))
    cut = len(x) - round(len(x) * test_fraction)
    train, test = order[:cut], order[cut:]
    return (x[train], y[train]), (x[test], y[test])


def _scale(images: np.ndarray, peak: int) -> np.ndarray:
    return (images.astype(np.float32) / np.float32(peak))[:, None]
