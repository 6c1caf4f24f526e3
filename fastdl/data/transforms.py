"""Image augmentation on whole batches (N, C, H, W): arrays in, arrays out; Tensors in, Tensors out.

Pass one to ``DataLoader(transform=...)``, which hands it a generator of its own for every batch, so that the
result does not depend on the number of workers:

    loader = DataLoader(data, 32, transform=lambda batch, rng: (random_flip(batch[0], rng=rng), batch[1]))
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..autograd import wrap
from ..tensor import Tensor
from .dataset import rng_for


def random_flip(
    images: Any, p: float = 0.5, axis: int = -1, *, rng: np.random.Generator | None = None
) -> Any:
    """Mirrors each image of a batch along ``axis`` (-1 left-right, -2 upside down) with probability ``p``.

    >>> random_flip(np.array([[[[1, 2, 3]]]]), p=1.0)
    array([[[[3, 2, 1]]]])
    """
    array = _batch("random_flip", images)
    if not 0 <= p <= 1:
        raise ValueError(f"random_flip: expected 0 <= p <= 1, got {p}")
    if axis not in (-1, -2, 2, 3):
        raise ValueError(f"random_flip: expected axis -1 (width) or -2 (height), got {axis}")
    flip = rng_for(rng, None).random(len(array)) < p
    result = array.copy()
    result[flip] = np.flip(array[flip], axis)
    return _like(images, result)


def random_crop(
    images: Any,
    size: int | tuple[int, int] | None = None,
    padding: int = 0,
    *,
    fill: float = 0,
    rng: np.random.Generator | None = None,
) -> Any:
    """Cuts a window of ``size`` (default: the image's own) at random from each image padded by ``padding``.

    Raises ValueError when the window is larger than the padded image.

    >>> random_crop(np.ones((2, 1, 8, 8)), 6).shape
    (2, 1, 6, 6)
    """
    array = _batch("random_crop", images)
    if padding < 0:
        raise ValueError(f"random_crop: expected padding of at least 0, got {padding}")
    n, _, h, w = array.shape
    height, width = (h, w) if size is None else (size, size) if isinstance(size, int) else size
    if not (0 < height <= h + 2 * padding and 0 < width <= w + 2 * padding):
        raise ValueError(
            f"random_crop: expected a window within the padded image {(h + 2 * padding, w + 2 * padding)}, "
            f"got {(height, width)}"
        )
    if padding:
        edges = ((0, 0), (0, 0), (padding, padding), (padding, padding))
        array = np.pad(array, edges, constant_values=fill)
    rng = rng_for(rng, None)
    top = rng.integers(h + 2 * padding - height + 1, size=n)
    left = rng.integers(w + 2 * padding - width + 1, size=n)
    windows = np.lib.stride_tricks.sliding_window_view(array, (height, width), axis=(2, 3))
    return _like(images, np.ascontiguousarray(windows[np.arange(n), :, top, left]))


def normalize(images: Any, mean: Any, std: Any) -> Any:
    """``(images - mean) / std``, with one mean and one deviation for all channels or one per channel."""
    array = _batch("normalize", images)
    mean, std = (np.asarray(v, array.dtype).reshape(-1, 1, 1) for v in (mean, std))
    for value in (mean, std):
        if len(value) not in (1, array.shape[1]):
            raise ValueError(
                f"normalize: expected 1 or {array.shape[1]} values per statistic, got {len(value)}"
            )
    if not (std > 0).all():
        raise ValueError(f"normalize: expected std > 0, got {std.ravel().tolist()}")
    return _like(images, (array - mean) / std)


def _batch(name: str, images: Any) -> np.ndarray:
    array = images.detach().numpy() if isinstance(images, Tensor) else images
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name}: expected an array or Tensor, got {type(images).__name__}")
    if array.ndim != 4:
        raise ValueError(f"{name}: expected a batch of images (N, C, H, W), got shape {array.shape}")
    return array


def _like(images: Any, result: np.ndarray) -> Any:
    return wrap(result) if isinstance(images, Tensor) else result
