"""Operands of the memory-bound ops, and how right their results must be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .rows import random

# A rounding of the result after a few of the arithmetic (gradients: sums of a row); relative to the largest number
LIMITS = {"float32": 1e-5, "float64": 1e-13, "bfloat16": 2**-6}


def values(shape: Sequence[int], dtype: str, seed: int = 0) -> np.ndarray:
    """Normal numbers."""
    return random(np.random.default_rng(seed), shape, dtype)


def images(shape: Sequence[int], dtype: str, seed: int = 0) -> np.ndarray:
    """(N, C, H, W) with the channel's stride 1, as fastdl's layers hand them to each other."""
    n, c, h, w = shape
    return np.moveaxis(values((n, h, w, c), dtype, seed), -1, 1)


def wide(a: Any) -> np.ndarray:
    """In float64."""
    return np.asarray(a).astype(np.float64)
