"""Dropout on arrays, with masks that are a function of a seed, an offset and the element's index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..backend import empty, empty_like, kernels

__all__ = ["dropout", "dropout_mask"]


def dropout(x: np.ndarray, p: float, seed: int, offset: int = 0) -> np.ndarray:
    """x / (1 - p) where the mask of (seed, offset) keeps an element, else 0 (Srivastava et al. 2014, "Dropout",
    section 10, with the scaling moved to training). The gradient is the same call on the output's gradient.

    x: floating-point, any strides; 0 <= p <= 1; seed and offset: 64-bit. Element i in C order is kept if its word
    of Philox4x32-10 (Salmon et al. 2011) with key ``seed`` and counter i // 4 + offset is at least p * 2**32: the
    mask depends on neither layout nor threads. Raises ValueError for p out of range, TypeError for other dtypes.

    >>> out = dropout(np.ones(1000, np.float32), 0.25, seed=1)
    >>> sorted(set(out.tolist())), bool(700 < int(np.count_nonzero(out)) < 800)
    ([0.0, 1.3333333730697632], True)
    """
    out = empty_like(x)
    kernels(x).dropout(x, out, p, seed, offset)
    return out


def dropout_mask(
    shape: Sequence[int], p: float, seed: int, offset: int = 0, dtype: Any = np.float32, like: Any = None
) -> np.ndarray:
    """What `dropout` multiplies elements of an array of ``shape`` by: 0 or 1 / (1 - p). It lives where ``like`` does.

    >>> dropout_mask((2, 2), 0.0, seed=1).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    mask = empty(shape, dtype, like)
    mask.fill(1)
    kernels(mask).dropout(mask, mask, p, seed, offset)
    return mask
